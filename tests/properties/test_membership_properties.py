"""What must hold for any membership attack, whatever models and patients there are."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meninx.metrics.attack_success import measure_attack, operating_point
from meninx.metrics.classification import auroc
from meninx.metrics.membership_attacks import (
    Signals,
    dominated_shares,
    lira_scores,
    loss_scores,
    patient_scores,
    rmia_scores,
)

few = settings(max_examples=40, deadline=None)
fewer = settings(max_examples=10, deadline=None)
ATTACKS = (loss_scores, lira_scores, rmia_scores)
signal = st.one_of(st.floats(-1e4, 0.0), st.sampled_from([0.0, -1e-300, -700.0, -1e300]))


@st.composite
def signals(draw):
    cases, pairs = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    half = draw(hnp.arrays(bool, (pairs, cases)))
    return Signals(
        target=draw(hnp.arrays(float, cases, elements=signal)),
        references=draw(hnp.arrays(float, (2 * pairs, cases), elements=signal)),
        included=np.concatenate([half, ~half]),
    )


@few
@given(signals(), st.randoms(use_true_random=False))
def test_scores_are_finite_and_follow_the_order_of_the_cases_and_the_models(found, random):
    cases, models = list(range(found.target.size)), list(range(len(found.references)))
    random.shuffle(cases)
    random.shuffle(models)
    moved = Signals(
        target=found.target[cases],
        references=found.references[models][:, cases],
        included=found.included[models][:, cases],
    )
    for attack in ATTACKS:
        scores = attack(found)
        assert np.isfinite(scores).all()
        assert np.allclose(attack(moved), scores[cases], rtol=1e-9, atol=1e-9)


@few
@given(signals())
def test_a_case_that_the_target_knows_better_never_scores_less(found):
    better = Signals(target=found.target / 2, references=found.references, included=found.included)
    assert (rmia_scores(better) >= rmia_scores(found)).all()
    assert (lira_scores(better, online=False) >= lira_scores(found, online=False)).all()
    assert (loss_scores(better) >= loss_scores(found)).all()


@few
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(-50, 50)), min_size=1, max_size=30), st.data())
def test_the_score_of_a_patient_does_not_depend_on_the_order_of_its_cases(cases, data):
    mixed = data.draw(st.permutations(cases))
    names, scores = patient_scores([score for _, score in cases], [name for name, _ in cases])
    again, moved = patient_scores([score for _, score in mixed], [name for name, _ in mixed])
    assert names == again == tuple(sorted({name for name, _ in cases}))
    assert np.array_equal(scores, moved)


@few
@given(hnp.arrays(float, st.integers(1, 30), elements=st.floats(-50, 50)), st.floats(1.0, 4.0))
def test_shares_are_shares_and_rise_with_the_ratio(ratios, factor):
    shares = dominated_shares(np.sort(ratios), ratios, factor=factor)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (np.diff(shares) >= 0).all()


@few
@given(st.integers(0, 2**32), st.floats(-3, 3), st.integers(20, 200))
def test_permuted_bits_give_an_area_of_about_one_half(seed, distance, people):
    rng = np.random.default_rng(seed)
    member = np.arange(people) % 2 == 0
    scores = rng.normal(distance * member, 1.0)
    permuted = rng.permutation(member)
    spread = math.sqrt((people + 1) / 3 / (people // 2) ** 2) / 2
    assert abs(auroc(permuted, scores) - 0.5) < 6 * spread


@fewer
@given(
    hnp.arrays(float, st.integers(10, 40), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    hnp.arrays(float, st.integers(10, 60), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    st.data(),
)
def test_a_measured_attack_does_not_depend_on_the_order_of_patients(members, others, data):
    order = data.draw(st.permutations(range(len(members))))
    first = measure_attack("loss", members, others, fprs=(0.25,), permutations=19)
    assert first == measure_attack("loss", members[order], others[::-1], fprs=(0.25,), permutations=19)
    assert 0 <= first.auc_low <= first.auc <= first.auc_high <= 1
    assert 0 < first.p_value <= 1
    point = operating_point(members, others, 0.25)
    assert point == first.points[0]
    assert bool(point.refusal) == (len(others) < 40)
    if not point.refusal:
        assert 0 <= point.low <= point.tpr <= point.high <= 1
