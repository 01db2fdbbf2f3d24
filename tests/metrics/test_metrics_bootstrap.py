from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from meninx.metrics.bootstrap import (
    Areas,
    BinaryProblem,
    Draws,
    holm,
    measure,
    p_value,
    resampled_sums,
)
from meninx.metrics.classification import METRICS, Ranking
from meninx.metrics.intervals import percentile_interval


def cohort(cases=300, labels=3, seed=0, decimals=1):
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.integers(0, 90, cases))
    patient = np.unique(patient, return_inverse=True)[1]
    truth = (rng.random((cases, labels)) < 0.3).astype(float)
    return patient, truth, np.round(truth + rng.normal(size=truth.shape), decimals)


def resampled_auroc(truth, scores, draws):
    rankings = [Ranking.of(truth[:, label], scores[:, label]) for label in range(truth.shape[1])]
    areas = Areas(rankings, draws.patient_index)
    return np.concatenate([areas.auroc(block) for block in draws.blocks()])


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_every_draw_equals_scikit_learn(decimals):
    patient, truth, scores = cohort(decimals=decimals)
    draws = Draws(patient, 20, seed=3)
    counts = np.concatenate(list(draws.blocks()))
    ours = resampled_auroc(truth, scores, draws)
    theirs = [
        [roc_auc_score(truth[:, k], scores[:, k], sample_weight=row[patient]) for k in range(3)]
        for row in counts
    ]
    assert np.abs(ours - theirs).max() <= 1e-12
    areas = Areas([Ranking.of(truth[:, 0], scores[:, 0])], patient)
    ap = [average_precision_score(truth[:, 0], scores[:, 0], sample_weight=row[patient]) for row in counts]
    assert np.abs(areas.average_precision(counts)[:, 0] - ap).max() <= 1e-12


def test_draws_do_not_hang_on_the_block_size_and_repeat():
    patient, _, _ = cohort()
    draws = Draws(patient, 25, seed=1)
    whole, parts = np.concatenate(list(draws.blocks(25))), np.concatenate(list(draws.blocks(7)))
    assert (whole == parts).all()
    assert (whole.sum(axis=1) == draws.patients).all()
    assert not (whole == np.concatenate(list(Draws(patient, 25, seed=2).blocks()))).all()


def test_strata_keep_their_size():
    strata = np.array([0] * 10 + [1] * 30)
    for block in Draws(np.arange(40), 50, 0, strata).blocks():
        assert (block[:, :10].sum(axis=1) == 10).all()
        assert (block[:, 10:].sum(axis=1) == 30).all()


def test_sums_equal_the_sums_over_repeated_rows():
    patient, truth, scores = cohort()
    draws = Draws(patient, 5, 0)
    found = resampled_sums(np.column_stack((truth[:, 0], scores[:, 0])), draws)
    for drawn, row in zip(np.concatenate(list(draws.blocks())), found, strict=True):
        rows = np.repeat(np.arange(len(patient)), drawn[patient])
        assert row == pytest.approx([truth[rows, 0].sum(), scores[rows, 0].sum()])


def test_cells_in_one_pass_equal_each_metric_on_repeated_rows():
    patient, truth, scores = cohort()
    inside = np.where(np.arange(300) % 3 == 0, truth[:, 1], np.nan)
    names = ("auroc", "brier", "f1", "mcc", "specificity")
    cell = BinaryProblem(inside, scores[:, 1], scores[:, 1] > 0.4, names)
    draws = Draws(patient, 4, 0)
    [found] = measure([cell], draws)
    assert list(found.values) == list(names)
    from meninx.metrics import classification as direct

    for number, drawn in enumerate(np.concatenate(list(draws.blocks()))):
        rows = np.repeat(np.arange(300), drawn[patient])
        y, s = inside[rows], scores[rows, 1]
        assert found.samples["auroc"][number] == pytest.approx(direct.auroc(y, s), abs=1e-12)
        assert found.samples["brier"][number] == pytest.approx(direct.brier(y, s), abs=1e-12)
        for name in ("f1", "mcc", "specificity"):
            assert found.samples[name][number] == pytest.approx(
                float(METRICS[name](direct.confusion_counts(y, s > 0.4))), abs=1e-12
            )


def test_more_cells_than_a_chunk_keep_their_order():
    patient, truth, scores = cohort()
    cells = [BinaryProblem(truth[:, k % 3], scores[:, k % 3], None, ("auroc",)) for k in range(70)]
    found = measure(cells, Draws(patient, 3, 0))
    assert [item.values["auroc"] for item in found[:3]] == [item.values["auroc"] for item in found[63:66]]
    assert (found[0].samples["auroc"] == found[69].samples["auroc"]).all()


def test_interval_is_withheld_when_draws_are_undefined():
    assert percentile_interval([0.1, 0.2, 0.3]) == pytest.approx((0.105, 0.295))
    assert all(math.isnan(end) for end in percentile_interval([0.1, math.nan]))


def test_holm_by_hand():
    assert holm([0.01, 0.04, math.nan, 0.03])[:2] == (0.03, 0.06)
    assert math.isnan(holm([0.01, math.nan])[1])
    assert holm([0.9, 0.8]) == (1.0, 1.0)


def test_p_value_of_a_clear_and_of_no_difference():
    rng = np.random.default_rng(0)
    assert p_value(0.5, rng.normal(0.5, 0.05, 500)) < 1e-6
    assert p_value(0.0, rng.normal(0, 0.05, 500)) == 1
    assert p_value(0.0, [0.0, 0.0]) == 1
    assert math.isnan(p_value(math.nan, [0.1, 0.2]))


def test_cluster_interval_covers_and_row_interval_does_not():
    rng = np.random.default_rng(0)
    patient, hits, row_hits = np.repeat(np.arange(60), 5), 0, 0
    for table in range(400):
        sick = np.repeat((rng.random(60) < 0.5).astype(float), 5)
        shared = np.repeat(rng.normal(size=(2, 60)), 5, axis=1)
        scores = (sick + shared + 0.5 * rng.normal(size=(2, 300))).T
        truth = np.column_stack((sick, sick))
        for draws, counter in (
            (Draws(patient, 200, table), "cluster"),
            (Draws(np.arange(300), 200, table), "row"),
        ):
            drawn = resampled_auroc(truth, scores, draws)
            low, high = percentile_interval(drawn[:, 0] - drawn[:, 1])
            hits += counter == "cluster" and low <= 0 <= high
            row_hits += counter == "row" and low <= 0 <= high
    assert 0.92 <= hits / 400 <= 0.975
    assert row_hits / 400 < 0.9


def test_the_bootstrap_of_single_images_has_the_deviation_of_delong():
    """Ratio 0.85 to 1.15 for eight labels of prevalence 0.02 to 0.5."""
    rng = np.random.default_rng(0)
    truth = (rng.random((3000, 8)) < np.linspace(0.02, 0.5, 8)).astype(float)
    scores = rng.normal(truth, 1.5)
    drawn = resampled_auroc(truth, scores, Draws(np.arange(3000), 500, 0))
    for label in range(8):
        halves = (
            Ranking.of(truth[:, label], scores[:, label]),
            Ranking.of(1 - truth[:, label], -scores[:, label]),
        )
        placed = [half.placements(np.ones(half.negatives.size, dtype=np.int64)) for half in halves]
        delong = math.sqrt(sum(values.var(ddof=1) / values.size for values in placed))
        assert 0.85 <= drawn[:, label].std(ddof=1) / delong <= 1.15
