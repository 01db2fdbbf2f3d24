"""What must hold for any scores, patients and thresholds."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score, roc_curve

from meninx.metrics.bootstrap import Draws, holm
from meninx.metrics.classification import METRICS, Counts, Ranking, auroc, rate
from meninx.metrics.intervals import effective_patients, rate_interval
from meninx.metrics.segmentation import dice, iou_of_dice
from meninx.metrics.thresholds import fit_thresholds

few = settings(max_examples=60, deadline=None)
score = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 3.5])


@st.composite
def problems(draw):
    size = draw(st.integers(2, 30))
    truth = draw(hnp.arrays(float, size, elements=st.sampled_from([0.0, 1.0])))
    truth[0], truth[1] = 0.0, 1.0
    return truth, draw(hnp.arrays(float, size, elements=score))


@few
@given(problems(), st.data())
def test_weighted_area_equals_scikit_learn(problem, data):
    truth, scores = problem
    weights = data.draw(hnp.arrays(np.int64, truth.size, elements=st.integers(0, 4)))
    ranking = Ranking.of(truth, scores)
    ours = float(ranking.auroc(weights[ranking.positives], weights[ranking.negatives]))
    if weights[truth == 1].sum() == 0 or weights[truth == 0].sum() == 0:
        assert math.isnan(ours)
    else:
        keep = weights > 0
        assert abs(ours - roc_auc_score(truth[keep], scores[keep], sample_weight=weights[keep])) <= 1e-12


@few
@given(problems())
def test_area_turns_with_the_scores(problem):
    truth, scores = problem
    assert abs(auroc(truth, scores) + auroc(truth, -scores) - 1) < 1e-12
    assert auroc(truth, scores) == auroc(truth, 2 * scores + 1)


@few
@given(problems())
def test_curve_is_the_roc_curve(problem):
    truth, scores = problem
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    curve = Ranking.of(truth, scores).curve(np.unique(fpr))
    best = [tpr[fpr == x].max() for x in np.unique(fpr)]
    assert np.abs(curve - best).max() < 1e-12
    grid = Ranking.of(truth, scores).curve(np.arange(101) / 100)
    assert (np.diff(grid) >= -1e-12).all()
    assert grid[-1] == 1


@few
@given(problems(), st.integers(0, 1000))
def test_thresholds_see_nothing_but_validation(problem, seed):
    truth, scores = problem
    fitted = fit_thresholds(truth[:, None], scores[:, None], ["x"])
    other = np.random.default_rng(seed).permutation(truth)
    assert (
        fit_thresholds(np.column_stack((truth, other)), np.column_stack((scores, scores)), ["x", "y"])[0]
        == fitted[0]
    )
    youden = rate("sensitivity", truth, scores >= fitted[0].value) + rate(
        "specificity", truth, scores >= fitted[0].value
    )
    for cut in (*scores, np.inf):
        assert (
            youden
            >= rate("sensitivity", truth, scores >= cut) + rate("specificity", truth, scores >= cut) - 1e-12
        )


@few
@given(hnp.arrays(np.int64, 4, elements=st.integers(0, 10**6)))
def test_rates_stay_in_range(numbers):
    counts = Counts(*(np.asarray(float(number)) for number in numbers))
    for name, metric in METRICS.items():
        value = float(metric(counts))
        assert math.isnan(value) or (-1 - 1e-12 if name == "mcc" else 0) <= value <= 1 + 1e-12


@few
@given(st.integers(1, 40), st.integers(0, 100), st.data())
def test_a_patient_comes_whole_or_not_at_all_and_strata_keep_their_size(patients, seed, data):
    strata = np.array(data.draw(st.lists(st.integers(0, 3), min_size=patients, max_size=patients)))
    draws = Draws(np.arange(patients), 5, seed, strata)
    for block in draws.blocks(2):
        for value in np.unique(strata):
            assert (block[:, strata == value].sum(axis=1) == (strata == value).sum()).all()


@few
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_order(values):
    adjusted = holm(values)
    assert all(new >= old for new, old in zip(adjusted, values, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@few
@given(
    hnp.arrays(np.int8, (4, 5), elements=st.integers(0, 2)),
    hnp.arrays(np.int8, (4, 5), elements=st.integers(0, 2)),
)
def test_overlap_is_symmetric_and_bounded(one, other):
    values, turned = dice(one, other, 2), dice(other, one, 2)
    assert np.array_equal(values, turned, equal_nan=True)
    known = values[~np.isnan(values)]
    assert ((known >= 0) & (known <= 1)).all()
    areas = iou_of_dice(dice(one, other, 2))
    assert (areas[~np.isnan(areas)] <= known).all()
    assert np.nanmin(np.append(dice(one, one, 2), 1.0)) == 1


@st.composite
def patients(draw):
    of = draw(hnp.arrays(np.int64, st.integers(1, 25), elements=st.integers(0, 6)))
    of[0] += 1
    hits = np.array([draw(st.integers(0, int(number))) for number in of])
    return hits.astype(float), of.astype(float)


@few
@given(patients())
def test_the_interval_of_a_rate_has_width_and_holds_the_rate(table):
    hits, of = table
    low, high = rate_interval(hits, of)
    assert 0 <= low <= hits.sum() / of.sum() <= high <= 1
    assert low < high
    assert 0 < effective_patients(hits, of) <= (of > 0).sum()


@few
@given(patients())
def test_the_interval_turns_with_the_rate(table):
    """Of the misses it is that of the hits, read from the other end."""
    hits, of = table
    low, high = rate_interval(hits, of)
    other = rate_interval(of - hits, of)
    assert abs(low - (1 - other[1])) < 1e-9
    assert abs(high - (1 - other[0])) < 1e-9
