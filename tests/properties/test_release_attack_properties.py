"""The certificate of coded releases holds against attackers that are trained on released images."""

from __future__ import annotations

import numpy as np
import pytest

from meninx.metrics.classification import auroc
from meninx.metrics.groups import Grouping
from meninx.metrics.release_certificate import certify_release
from meninx.metrics.vector_attacks import VECTOR_ATTACKS, fit_vector_attack

_EACH = 1200


def random_release(seed):
    """Return the codes of two groups, and one prototype of 16 pixels per code."""
    rng = np.random.default_rng(seed)
    leaves = int(rng.integers(2, 17))
    p = rng.dirichlet(np.full(leaves, 3.0))
    share = rng.choice([0.0, 0.1, 0.3, 1.0])
    q = (1 - share) * p + share * rng.dirichlet(np.full(leaves, 1.0))
    sex = np.repeat([0, 1], _EACH)
    codes = np.concatenate([rng.choice(leaves, _EACH, p=p), rng.choice(leaves, _EACH, p=q)])
    return rng.permutation(2 * _EACH), sex, codes, rng.normal(size=(leaves, 16))


@pytest.mark.slow
def test_the_certificate_of_50_random_releases_is_not_below_the_worst_attacker_trained_on_images():
    half_width, certified = 1.96 * np.sqrt(1 / 6 / (_EACH // 3)), 0
    for seed in range(50):
        order, sex, codes, atlas = random_release(seed)
        (found,) = certify_release(
            codes,
            [Grouping("sex", ("F", "M"), sex)],
            [str(row) for row in order],
            leaves=len(atlas),
            target=0.7,
        )
        if found.limit is None:
            continue
        certified += 1
        train, valid, test = np.split(order, [_EACH, _EACH + _EACH // 3])
        images = atlas[codes]
        margins = [
            fit_vector_attack(kind, images, sex, train[:500], valid)(images)
            for kind in (VECTOR_ATTACKS if seed < 10 else VECTOR_ATTACKS[::2])
        ]
        areas = [auroc(sex[test], item[test, 1] - item[test, 0]) for item in margins]
        assert found.limit >= max(max(area, 1 - area) for area in areas) - half_width
    assert certified > 40
