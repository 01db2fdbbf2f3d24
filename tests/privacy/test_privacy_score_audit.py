"""Estimators of one-run audits: fixed counts, honest and dishonest runs, ties, and what is refused."""

import functools
import importlib
import math
import subprocess
import sys
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from meninx.core.errors import ConfigError, DataError
from meninx.privacy import Claim, Phase, audit_scores
from meninx.privacy.guess_audit import (
    gaussian_epsilon,
    gaussian_least_rate,
    guess_epsilon,
    guess_mu,
    guess_p_value,
    guesses_refute,
)
from meninx.privacy.score_audit import ceilings, gaussian_interval

DELTA = 1e-5
SUBSAMPLED = Phase(sample_rate=0.05, noise_multiplier=0.7, steps=200)
FULL = Phase(sample_rate=1.0, noise_multiplier=5.0, steps=100)  # two normals, mu = 2


@functools.cache
def claim_of(phase):
    return Claim.of_mechanism([phase], delta=DELTA)


def canary_scores(phase, count, rng, *, noise=1.0):
    """Log-likelihood ratios of canaries of a run with ``noise`` times the claimed noise: in and out."""
    included = rng.random(count) < 0.5
    mu, q = 1 / phase.noise_multiplier, phase.sample_rate
    total = np.zeros(count)
    for _ in range(phase.steps):
        seen = noise * rng.standard_normal(count) + mu * ((rng.random(count) < q) & included)
        total += np.log1p(q * np.expm1(mu * seen - mu * mu / 2))
    return total[included], total[~included]


@pytest.mark.parametrize(
    ("counts", "one_run", "fdp"),
    [
        ((1_000, 100, 90), 1.6261, 2.4564),
        ((1_000, 300, 220), 0.7901, 1.3073),
        ((4_000, 500, 420), 1.4504, 2.1038),
        ((200, 50, 50), 2.7790, 5.1209),
    ],
)
def test_the_four_fixed_count_triples(counts, one_run, fdp):
    assert guess_epsilon(*counts, delta=DELTA, significance=0.05) == pytest.approx(one_run, abs=2e-4)
    mu = guess_mu(*counts, significance=0.05)
    assert gaussian_epsilon(mu, DELTA) == pytest.approx(fdp, abs=2e-4)


def test_p_value_equals_the_sum_term_by_term():
    guesses, correct, epsilon, delta, canaries = 60, 47, 1.1, 1e-4, 300
    rate = 1 / (1 + math.exp(-epsilon))
    tail = sum(stats.binom.pmf(k, guesses, rate) for k in range(correct, guesses + 1))
    best = gained = 0.0
    for fewer in range(1, correct + 1):
        gained += stats.binom.pmf(correct - fewer, guesses, rate)
        best = max(best, gained / fewer)
    expected = tail + best * delta * 2 * canaries
    assert guess_p_value(canaries, guesses, correct, epsilon=epsilon, delta=delta) == pytest.approx(expected)


def test_chance_refutes_nothing_and_more_correct_guesses_refute_more():
    assert guess_epsilon(1_000, 500, 250, delta=DELTA, significance=0.05) == 0
    assert guess_mu(1_000, 500, 250, significance=0.05) == 0
    found = [guess_mu(1_000, 100, correct, significance=0.05) for correct in range(55, 101, 5)]
    assert found == sorted(found)


def test_the_largest_refuted_mu_is_where_the_answer_changes():
    mu = guess_mu(1_000, 100, 90, significance=0.05)
    refuted = [
        guesses_refute(1_000, 100, 90, gaussian_least_rate(mu + move), significance=0.05)
        for move in (-1e-4, 1e-4)
    ]
    assert refuted == [True, False]


@pytest.mark.parametrize("mu", [1e-3, 0.1, 1.0, 2.0, 9.0, 40.0])
def test_epsilon_of_a_gaussian_equals_that_of_dp_accounting(mu):
    expected = dp_accounting.get_epsilon_gaussian(1 / mu, DELTA, tol=1e-10)
    assert gaussian_epsilon(mu, DELTA) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (10, 5, -1), (0, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ConfigError, match="correct <= guesses <= canaries"):
        guess_epsilon(*counts, delta=DELTA, significance=0.05)


# claims


def test_claim_of_a_gaussian_has_the_curve_of_two_normals():
    claim = claim_of(FULL)
    rates = np.array([1e-3, 0.01, 0.1, 0.5, 0.9])
    true = stats.norm.cdf(stats.norm.ppf(rates) + 2)
    assert np.all(claim.power(rates) >= true - 1e-12)
    assert claim.power(rates) == pytest.approx(true, rel=1e-3)
    assert claim.mu == pytest.approx(2, abs=2e-3)
    assert claim.advantage == pytest.approx(2 * stats.norm.cdf(1) - 1, abs=1e-4)
    assert [claim.least_rate(float(claim.power(rate))) for rate in rates] == pytest.approx(rates, rel=1e-6)


def test_claim_of_an_epsilon_alone():
    claim = Claim(epsilon=1.0, delta=0.1)
    assert claim.power([0.0, 0.2, 1.0]) == pytest.approx(
        [0.1, min(0.1 + 0.2 * math.e, 1 - (0.7) / math.e), 1.0]
    )
    rates = np.linspace(0, 1, 100_001)
    assert claim.advantage == pytest.approx(float(np.max(claim.power(rates) - rates)), abs=1e-4)


@pytest.mark.parametrize("epsilon", [-1.0, math.inf, math.nan])
def test_claims_that_say_nothing_are_refused(epsilon):
    with pytest.raises(ConfigError, match="epsilon"):
        Claim(epsilon=epsilon, delta=DELTA)


# verdicts


@pytest.mark.parametrize("phase", [SUBSAMPLED, FULL], ids=["subsampled", "full"])
def test_honest_runs_are_not_accused_and_their_bounds_hold(phase):
    claim = claim_of(phase)
    for seed in range(2):
        audit = audit_scores(*canary_scores(phase, 1_000, np.random.default_rng(seed)), claim)
        assert audit.verdict == "consistent", audit
        for bound in (
            audit.one_run_epsilon, audit.fdp_epsilon, audit.fdp_split_epsilon, audit.rates_epsilon,
            audit.gdp_epsilon,
        ):  # fmt: skip
            assert 0 < bound < claim.epsilon
        assert audit.mu_low < audit.mu < audit.mu_high
        assert 0 < audit.advantage < claim.advantage


@pytest.mark.parametrize("phase", [SUBSAMPLED, FULL], ids=["subsampled", "full"])
def test_half_of_the_noise_is_refuted_where_the_epsilon_bound_is_blind(phase):
    claim = claim_of(phase)
    audit = audit_scores(*canary_scores(phase, 1_000, np.random.default_rng(0), noise=0.5), claim)
    assert audit.one_run_epsilon < claim.epsilon  # its ceiling
    assert audit.verdict == "refuted"
    assert {"mu", "TPR - FPR"} <= set(audit.refuted_by)
    assert audit.mu_low > claim.mu


def test_an_epsilon_alone_is_refuted_by_a_certified_check():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(3.0, 1.0, 500), rng.normal(0.0, 1.0, 500)
    audit = audit_scores(inside, outside, Claim(epsilon=1.0, delta=DELTA))
    assert audit.verdict == "refuted"
    assert {check.basis for check in audit.checks if check.refuted} >= {"certified"}
    assert audit_scores(inside, outside, Claim(epsilon=8.0, delta=DELTA)).verdict == "suspicious"


@pytest.mark.parametrize(
    ("inside", "outside"),
    [(np.zeros(100), np.zeros(100)), (np.arange(100.0), np.arange(100.0)), (np.zeros(100), np.ones(100))],
    ids=["ties", "equal", "reversed"],
)
def test_scores_that_say_nothing_show_nothing(inside, outside):
    audit = audit_scores(inside, outside, Claim(epsilon=0.5, delta=DELTA))
    assert audit.verdict == "consistent"
    assert audit.one_run_epsilon == audit.fdp_epsilon == audit.fdp_split_epsilon == audit.gdp_epsilon == 0
    assert audit.advantage == 0


def test_the_order_of_the_scores_and_any_rising_function_of_them_change_nothing():
    rng = np.random.default_rng(3)
    inside, outside = rng.normal(1.0, 1.0, 200), rng.normal(0.0, 1.0, 300)
    claim = claim_of(FULL)
    plain = audit_scores(inside, outside, claim)
    assert audit_scores(rng.permutation(inside), rng.permutation(outside), claim) == plain
    assert audit_scores(np.exp(inside), np.exp(outside), claim) == plain


def test_separated_scores_have_a_finite_mu_and_refute_any_claim_of_privacy():
    audit = audit_scores(np.ones(500), np.zeros(500), claim_of(FULL))
    assert audit.verdict == "refuted"
    assert math.isfinite(audit.mu_high)
    assert audit.auroc == 1


def test_interval_of_mu_covers_the_truth():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        inside, outside = rng.normal(1.5, 1.0, 60), rng.normal(0.0, 1.0, 60)
        area = float((inside[:, None] > outside).mean())
        low, high = gaussian_interval(area, 60, 60)
        hits += low < 1.5 < high
    assert hits >= 182  # 95 % minus three standard errors


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(19), "20 to"),
        (np.full(50, np.nan), "50 scores are NaN or infinite"),
        (np.full(50, np.inf), "NaN or infinite"),
        (np.zeros((50, 2)), "a list of numbers"),
        (np.array(["a"] * 50), "a list of numbers"),
        (np.zeros(50, dtype=complex), "a list of numbers"),
    ],
    ids=["few", "nan", "infinite", "table", "words", "complex"],
)
def test_scores_that_are_none_are_refused(values, words):
    with pytest.raises(DataError, match=words):
        audit_scores(values, np.zeros(50), Claim(epsilon=1.0, delta=DELTA))


def test_the_estimators_need_no_torch():
    code = (
        "import sys; from meninx.privacy import Claim, audit_scores; import numpy as np;"
        "audit_scores(np.arange(50.), np.arange(50.), Claim(epsilon=1., delta=1e-5));"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# false accusations: ours, and those of another program's formula


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark behind the table of the documentation, which holds the other program's formula."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("bench_canaries")


def accusations(phase, seeds, formula):
    """How often the verdict, and the other formula, accuse an honest run with 1,000 canaries."""
    claim = claim_of(phase)
    ours = others = 0
    for seed in range(seeds):
        scores = canary_scores(phase, 1_000, np.random.default_rng(1_000 + seed))
        ours += audit_scores(*scores, claim).verdict == "refuted"
        others += formula(*scores) > claim.epsilon
    return ours, others


def test_the_formula_of_jax_privacy_accuses_honest_runs_and_ours_does_not(benchmark):
    phase = Phase(sample_rate=0.05, noise_multiplier=4.0, steps=100)
    assert accusations(phase, 4, benchmark.accusing_epsilon) == (0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.7, 1.2, 4.0])
def test_false_accusations_of_200_honest_runs(noise):
    phase = Phase(sample_rate=0.05, noise_multiplier=noise, steps=200)
    ours, _ = accusations(phase, 200, lambda *scores: 0.0)
    assert ours <= 10 + 6  # 5 % and two standard errors


def test_a_claim_that_allows_everything_is_never_refuted():
    claim = claim_of(Phase(sample_rate=0.5, noise_multiplier=0.01, steps=50))
    audit = audit_scores(np.ones(500), np.zeros(500), claim)
    assert audit.verdict == "consistent"
    assert audit.claim_mu is None


def test_no_scores_exceed_the_ceilings_of_the_certified_bounds_and_scores_without_overlap_reach_them():
    claim, rng = Claim(epsilon=10.0, delta=1e-5), np.random.default_rng(0)
    most = ceilings(500, 500, delta=1e-5)
    for distance in (4.0, 6.0, 1e6):
        audit = audit_scores(rng.normal(distance, 1, 500), rng.normal(0, 1, 500), claim)
        assert audit.one_run_epsilon <= most.one_run
        assert audit.fdp_epsilon <= most.fdp
        assert audit.fdp_split_epsilon <= most.fdp_split
        assert audit.rates_epsilon <= most.rates
    reached = (audit.one_run_epsilon, audit.fdp_epsilon, audit.rates_epsilon)
    assert reached == (most.one_run, most.fdp, most.rates)
    text = (Path(__file__).parents[2] / "docs/how-to/audit-somebody-elses-run.md").read_text()
    for value in (most.one_run, most.fdp, most.fdp_split, most.rates):
        assert f"| {value:.3g} |" in text
