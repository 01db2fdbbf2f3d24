"""What must hold for the certificate of any coded release: it is above every attacker, and more data help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meninx.metrics.classification import auroc
from meninx.metrics.groups import Grouping
from meninx.metrics.release_certificate import (
    area_of,
    attacker_limit,
    best_attacker,
    certify_release,
    patients_needed,
    ranking_limit,
    total_variation,
)

some = settings(max_examples=40, deadline=None)
masses = st.integers(2, 12).flatmap(
    lambda size: st.tuples(
        *[hnp.arrays(float, size, elements=st.floats(0.01, 1.0)) for _ in range(2)],
        hnp.arrays(float, size, elements=st.floats(-1.0, 1.0)),
    )
)


def random_mechanism(seed):
    """Return the distributions of the code in both groups, from equal to disjoint."""
    rng = np.random.default_rng(seed)
    leaves = int(rng.integers(2, 33))
    p = rng.dirichlet(np.full(leaves, 10 ** rng.uniform(-0.5, 2)))
    share = rng.choice([0.0, 0.02, 0.1, 0.3, 1.0])
    q = (1 - share) * p + share * rng.dirichlet(np.full(leaves, 1.0))
    return p, q


@pytest.mark.parametrize("method", ["ranking", "total variation"])
def test_the_certificate_of_50_random_mechanisms_is_never_below_the_true_best_attacker(method):
    for seed in range(50):
        p, q = random_mechanism(seed)
        rng = np.random.default_rng(1000 + seed)
        sizes = rng.integers(60, 4000, size=2)
        limit = attacker_limit(rng.multinomial(sizes[0], p), rng.multinomial(sizes[1], q), method=method)
        assert limit >= best_attacker(p, q)


def test_the_certificate_of_50_random_mechanisms_is_above_attackers_that_see_only_images():
    """The attacker knows both distributions and the generator, and sees noisy images of codes."""
    certified = 0
    for seed in range(50):
        p, q = random_mechanism(seed)
        rng = np.random.default_rng(2000 + seed)
        sex = np.repeat([0, 1], 1200)
        codes = np.concatenate([rng.choice(len(p), 1200, p=p), rng.choice(len(p), 1200, p=q)])
        (found,) = certify_release(
            codes,
            [Grouping("sex", ("F", "M"), sex)],
            [str(row) for row in range(2400)],
            leaves=len(p),
            target=0.7,
        )
        if found.limit is None:
            continue
        certified += 1
        atlas, new_sex = rng.normal(size=len(p)), rng.integers(0, 2, 2000)
        new = np.where(new_sex == 1, rng.choice(len(p), 2000, p=q), rng.choice(len(p), 2000, p=p))
        images = atlas[new] + 0.05 * rng.normal(size=2000)
        ratio = (np.exp(-((images[:, None] - atlas) ** 2) / 0.005) @ np.stack([q, p], axis=1)) + 1e-300
        area = auroc(new_sex, np.log(ratio[:, 0] / ratio[:, 1]))
        assert found.limit >= max(area, 1 - area) - 1.96 * np.sqrt(1 / 6 / 1000)
    assert certified > 40


@pytest.mark.slow
@pytest.mark.parametrize("leaves", [2, 3, 16])
def test_the_error_probability_is_kept_over_1000_calibration_sets(leaves):
    p = np.full(leaves, 1 / leaves)
    q = p * np.linspace(0.9, 1.1, leaves)
    q /= q.sum()
    rng = np.random.default_rng(leaves)
    truth = best_attacker(p, q)
    first, second = rng.multinomial(150, p, size=2000), rng.multinomial(400, q, size=2000)
    below = np.mean([attacker_limit(*pair, delta=0.2) < truth for pair in zip(first, second, strict=True)])
    assert below <= 0.2


@some
@given(masses)
def test_no_ranking_beats_the_best_attacker_and_no_attacker_the_area_of_the_total_variation(drawn):
    p, q, scores = drawn
    p, q = p / p.sum(), q / q.sum()
    above = (scores[:, None] > scores).astype(float) + 0.5 * (scores[:, None] == scores)
    ranked = float(p @ above @ q)
    best = best_attacker(p, q)
    assert best >= 0.5 - 1e-12
    assert max(ranked, 1 - ranked) <= best + 1e-12
    assert best <= area_of(total_variation(p, q)) + 1e-12


@some
@given(st.integers(1, 3000), st.integers(1, 2000), st.floats(0.5, 1.0), st.floats(0.001, 0.5))
def test_the_limit_does_not_rise_with_patients_or_fall_with_confidence(trials, more, area, delta):
    limit = ranking_limit(area, trials, delta)
    assert area - 1e-9 <= limit <= 1
    assert ranking_limit(area, trials + more, delta) <= limit + 1e-6
    assert ranking_limit(area, trials, delta / 2) >= limit - 1e-6


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 40), st.floats(0.55, 0.9), st.floats(0.01, 0.3))
def test_needed_patients_rise_with_leaves_and_confidence(leaves, target, delta):
    needed = patients_needed(leaves, target, delta)
    assert patients_needed(leaves + 1, target, delta) >= needed
    assert patients_needed(leaves, target, delta / 2) >= needed
    assert patients_needed(leaves, min(0.95, target + 0.03), delta) <= needed
