"""Membership attacks on arrays: against closed forms, on simulated models, and on hostile input."""

import numpy as np
import pytest

from meninx.core.errors import ConfigError, DataError
from meninx.metrics.classification import auroc
from meninx.metrics.membership_attacks import (
    LEAST_SIGNAL,
    Signals,
    dominated_shares,
    lira_scores,
    loss_scores,
    patient_scores,
    rmia_scores,
)


def halves(models, cases, rng):
    """Random halves and their complements, shape (models, cases)."""
    first = rng.random((models // 2, cases)) < 0.5
    return np.concatenate([first, ~first])


def simulated(models=16, cases=2000, *, gain=1.0, seed=0):
    """Signals of cases of very different difficulty; ``gain`` is what a model's knowledge adds to a logit."""
    rng = np.random.default_rng(seed)
    hard, member = rng.normal(0, 2, cases), rng.random(cases) < 0.5
    included = halves(models, cases, rng)

    def log_likelihood(known):
        logits = hard + gain * known + rng.normal(0, 0.5, known.shape)
        return -np.logaddexp(0, -logits)

    signals = Signals(
        target=log_likelihood(member.astype(float)),
        references=log_likelihood(included.astype(float)),
        included=included,
    )
    return signals, member


def tpr(scores, member, fpr=0.01):
    return float((scores[member] > np.quantile(scores[~member], 1 - fpr)).mean())


def test_attacks_with_references_beat_the_loss():
    signals, member = simulated()
    areas = {
        attack.__name__: auroc(member, attack(signals)) for attack in (loss_scores, lira_scores, rmia_scores)
    }
    assert areas["loss_scores"] < 0.65
    assert areas["lira_scores"] > 0.85
    assert areas["rmia_scores"] > 0.8
    assert tpr(lira_scores(signals), member) > 3 * tpr(loss_scores(signals), member)


@pytest.mark.parametrize("attack", [lira_scores, rmia_scores])
def test_offline_attacks_use_only_models_without_the_case(attack):
    signals, member = simulated()
    changed = np.where(signals.included, -9.0, signals.references)
    other = Signals(target=signals.target, references=changed, included=signals.included)
    assert np.array_equal(attack(signals, online=False), attack(other, online=False))
    assert auroc(member, attack(signals, online=False)) > 0.7


@pytest.mark.parametrize("attack", [loss_scores, lira_scores, rmia_scores])
def test_without_any_gain_the_area_is_one_half(attack):
    signals, member = simulated(gain=0.0)
    assert 0.46 < auroc(member, attack(signals)) < 0.54


def test_lira_is_the_ratio_of_two_normal_densities():
    from scipy.stats import norm

    signals, _ = simulated(models=80, cases=5)
    logit = signals.references - np.log(-np.expm1(signals.references))
    target = signals.target - np.log(-np.expm1(signals.target))
    for case, score in enumerate(lira_scores(signals)):
        known = signals.included[:, case]
        if min(known.sum(), (~known).sum()) < 32:
            continue
        parts = [
            norm.logpdf(target[case], logit[rows, case].mean(), logit[rows, case].std(ddof=1))
            for rows in (known, ~known)
        ]
        assert score == pytest.approx(parts[0] - parts[1], rel=1e-9)
    without = ~signals.included
    z = [
        (target[case] - logit[without[:, case], case].mean()) / logit[without[:, case], case].std(ddof=1)
        for case in range(5)
    ]
    assert lira_scores(signals, online=False) == pytest.approx(-norm.logsf(z), rel=1e-9)


def test_few_references_share_one_variance():
    included = np.array([[True, True], [True, True], [False, False], [False, False]])
    logits = np.array([[1.0, 3.0], [2.0, 5.0], [-1.0, 0.0], [1.0, 0.0]])
    signals = Signals(
        target=-np.logaddexp(0, -np.array([0.5, 0.5])),
        references=-np.logaddexp(0, -logits),
        included=included,
    )
    variance_in, variance_out = (0.5 + 2.0) / 2, (2.0 + 0.0) / 2  # sums of squares over degrees of freedom
    expected = [
        -((0.5 - mean_in) ** 2) / variance_in / 2
        + (0.5 - mean_out) ** 2 / variance_out / 2
        + np.log(variance_out / variance_in) / 2
        for mean_in, mean_out in ((1.5, 0.0), (4.0, 0.0))
    ]
    assert lira_scores(signals) == pytest.approx(expected, rel=1e-6)


def test_rmia_divides_by_the_mean_likelihood():
    signals = Signals(
        target=np.log([0.8]),
        references=np.log([[0.9], [0.5], [0.3]]),
        included=np.array([[True], [False], [False]]),
    )
    assert rmia_scores(signals) == pytest.approx(np.log(0.8 / ((0.4 + 0.9) / 2)))
    offline = (1.3 * 0.4 + 0.7) / 2
    assert rmia_scores(signals, online=False) == pytest.approx(np.log(0.8 / offline))


def test_shares_order_patients_as_their_ratios_do():
    ratios = np.random.default_rng(0).normal(size=50)
    shares = dominated_shares(ratios, ratios)
    assert np.array_equal(np.argsort(shares), np.argsort(ratios))
    assert shares.max() == 1.0
    assert dominated_shares([0.0], [np.log(0.4), np.log(0.6)], factor=2.0) == pytest.approx([0.5])


def test_the_score_of_a_patient_is_the_mean_of_its_cases():
    names, scores = patient_scores([1.0, 2.0, 6.0, 0.0], ["b", "a", "b", "c"])
    assert names == ("a", "b", "c")
    assert scores.tolist() == [2.0, 3.5, 0.0]


def test_a_perfect_model_and_an_impossible_case_stay_finite():
    included = np.array([[True, False], [False, True]])
    signals = Signals(
        target=np.array([0.0, -1e6]), references=np.array([[0.0, -1e6], [-1e6, 0.0]]), included=included
    )
    assert signals.target[1] == LEAST_SIGNAL
    for attack in (loss_scores, lira_scores, rmia_scores):
        assert np.isfinite(attack(signals)).all()
    assert np.isfinite(lira_scores(signals, online=False)).all()


def test_one_model_of_each_kind_is_enough_for_a_finite_score():
    included = np.array([[True, False], [False, True]])
    signals = Signals(target=np.array([-0.1, -0.2]), references=np.full((2, 2), -0.5), included=included)
    assert np.isfinite(lira_scores(signals)).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"target": [-1.0, np.nan]}, "above 0"),
        ({"target": [-1.0, np.inf]}, "above 0"),
        ({"target": [-1.0, 0.5]}, "above 0"),
        ({"target": [-1.0]}, "one number of cases"),
        ({"target": ["a", "b"]}, "numbers along 1 axes"),
        ({"references": [-1.0, -1.0]}, "numbers along 2 axes"),
        ({"references": [[-1.0, -np.inf], [-1.0, -1.0]]}, "above 0"),
        ({"included": [[1, 0], [0, 1]]}, "one number of cases"),
        ({"included": [[True, True], [True, False]]}, "every reference model"),
        ({"references": np.zeros((0, 2)), "included": np.zeros((0, 2), bool)}, "no reference model"),
    ],
)
def test_signals_that_do_not_belong_together_are_refused(change, match):
    good = {
        "target": [-1.0, -1.0],
        "references": [[-1.0, -1.0], [-1.0, -1.0]],
        "included": np.array([[True, False], [False, True]]),
    }
    with pytest.raises(DataError, match=match):
        Signals(**{name: np.array(value) for name, value in (good | change).items()})


def test_attacks_refuse_what_they_cannot_do():
    signals = Signals(target=np.array([-1.0]), references=np.array([[-1.0]]), included=np.array([[False]]))
    assert not signals.online
    assert np.isfinite(rmia_scores(signals)).all()
    for attack in (lira_scores, rmia_scores):
        with pytest.raises(ConfigError, match="no reference model"):
            attack(signals, online=True)
    with pytest.raises(ConfigError, match="slope"):
        rmia_scores(signals, slope=1.5)
    with pytest.raises(ConfigError, match="factor"):
        dominated_shares([0.0], [0.0], factor=0.5)
    with pytest.raises(DataError, match="population"):
        dominated_shares([0.0], [])
    with pytest.raises(DataError, match="patient of each score"):
        patient_scores([0.0, 1.0], ["a"])
