"""Bounds over an axis of epsilon: the mechanism that is meant, the numbers, the files, and refusals."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import pytest
import sketched_figures

from meninx.audit import bounds, mechanism
from meninx.audit.config import BoundsConfig
from meninx.core import artifacts, settings
from meninx.core.errors import ConfigError, PrivacyRefusal, UsageError
from meninx.core.risk_records import BoundsRecord

HAM10000 = {"sample_rate": 2048 / 8112, "steps": 300, "units": 8112, "delta": 8e-7}


def of(**given):
    return BoundsConfig.of(**{**HAM10000, **given})


def test_the_record_and_the_table_hold_the_reference_values(tmp_path):
    result = bounds.run_bounds(of(noise_multiplier=3.1835, eps_min=4, eps_max=30, n_eps=3), tmp_path)
    record = artifacts.read(tmp_path, BoundsRecord)
    assert record == result.record
    operating = record.operating
    assert operating.accountant == "pld"
    assert 7.1 < operating.epsilon < 7.6
    assert operating.worst["1 of all 8,112"].value == pytest.approx(0.0121596, rel=1e-3)
    assert operating.relaxed["1 of all 8,112"].value == pytest.approx(4.2676e-4, rel=1e-3)
    assert operating.worst["1 of 10"].value == pytest.approx(0.5436, rel=1e-3)
    assert operating.worst["1 of 10"] == record.membership.tpr_at_fpr["0.1"]
    assert record.membership.accuracy.value == pytest.approx((1 + record.membership.advantage.value) / 2)
    rows = list(csv.DictReader((tmp_path / "bounds.csv").read_text().splitlines()))
    assert len(rows) == 3 * len(record.priors) == 12
    for row in rows:
        kappa = float(row["kappa"])
        assert kappa <= float(row["relaxed_upper"]) <= float(row["worst_upper"]) <= 1
        assert float(row["worst_lower"]) <= float(row["worst_value"]) <= float(row["worst_upper"])
    assert [row["guarantee"] for row in rows if row["prior"] == "1 of all 8,112"] == ["yes", "yes", "no"]
    assert record.no_guarantee_from == pytest.approx(30)
    assert "no guarantee from epsilon 30 on" in result.summary()
    assert "1.22 %" in result.summary()


def test_every_number_is_finite_from_a_hundredth_to_a_billion_billions(tmp_path):
    config = of(eps_min=0.01, eps_max=1e18, n_eps=4, candidates=(2,))
    record = bounds.run_bounds(config, tmp_path).record
    values = [
        getattr(found, part)
        for point in record.points
        for found in (*point.worst.values(), *point.relaxed.values())
        for part in ("lower", "value", "upper")
    ]
    assert all(math.isfinite(value) and 0 < value <= 1 for value in values)
    noises = [point.noise_multiplier for point in record.points]
    assert noises == sorted(noises, reverse=True)
    assert record.points[0].worst["1 of all 8,112"].upper < 1.3 / 8112
    assert record.points[-1].worst["1 of all 8,112"].lower > 0.999
    assert record.operating is None
    assert record.membership is None


def test_the_figure_says_what_it_needs(tmp_path):
    with sketched_figures.drawn():
        bounds.run_bounds(of(noise_multiplier=3.1835, eps_min=2, eps_max=60, n_eps=3), tmp_path)
    text = (tmp_path / "bounds.svg").read_text()
    for words in (
        "no guarantee",
        "worst case",
        "relaxed",
        "blind guess, 1 of all 8,112",
        "q = 0.2525",
        "T = 300",
        "sigma at the operating point = 3.183",
        "sampler: poisson",
        "accountant of the axis: pld",
        "unit: patient",
        "operating point, epsilon 7.",
    ):
        assert words in text, words
    assert (tmp_path / "bounds.png").read_bytes().startswith(b"\x89PNG")


def test_a_recipe_states_its_mechanism():
    config = settings.resolve_recipe(BoundsConfig, "ham10000-dp", ({"units": 8112}, "flags"))
    found = mechanism.of_settings(config, "ham10000-dp")
    assert (found.record.steps, found.record.sample_rate) == (397, 2048 / 8112)
    assert found.record.delta == 8e-7
    assert found.record.source == "recipe ham10000-dp"
    assert 7.98 < found.spent.value <= 8.0
    with pytest.raises(UsageError, match="--units"):
        mechanism.of_settings(replace(config, units=None), None)
    with pytest.raises(UsageError, match="--steps"):
        mechanism.of_settings(BoundsConfig.of(sample_rate=0.1), None)
    without = settings.resolve_recipe(BoundsConfig, "ham10000", ({"units": 8112, "steps": 10}, "flags"))
    assert mechanism.of_settings(without, None).spent is None


def test_correlated_noise_is_accounted_as_rounds():
    config = of(sample_rate=None, batch_size=100, noise_bands=4, noise_multiplier=2.0, steps=10)
    record = mechanism.of_settings(config, None).record
    assert (record.sample_rate, record.steps) == (400 / 8112, 3)
    assert record.sampler == "cyclic in 4 groups, accounted as poisson"


def test_adversaries_know_candidates_a_class_or_a_metric():
    config = of(class_share=0.7, metric_hits=5, metric_images=100, candidates=(2, 2, 10))
    found = {prior.name: prior.kappa for prior in bounds.priors_of(config, 8112)}
    assert found == {
        "1 of all 8,112": 1 / 8112,
        "1 of 2": 0.5,
        "1 of 10": 0.1,
        "attribute": 0.7,
        "image metric": pytest.approx(0.1022, abs=1e-3),
    }
    assert next(iter(bounds.priors_of(of(), None))).name == "1 of 2"
    with pytest.raises(ConfigError, match="adversary"):
        bounds.priors_of(of(candidates=()), None)


def test_a_dry_run_writes_nothing_and_an_earlier_result_stays(tmp_path):
    result = bounds.run_bounds(of(noise_multiplier=8.0, dry_run=True), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert "dry run" in result.summary()
    bounds.run_bounds(of(n_eps=1, eps_max=1.0), tmp_path)
    before = (tmp_path / "bounds.json").read_text()
    with pytest.raises(UsageError, match="holds bounds already"):
        bounds.run_bounds(of(n_eps=1, eps_max=1.0), tmp_path)
    assert (tmp_path / "bounds.json").read_text() == before
    bounds.run_bounds(of(n_eps=1, eps_max=1.0, overwrite=True), tmp_path)
    assert json.loads(before)["points"] == json.loads((tmp_path / "bounds.json").read_text())["points"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"eps_min": 2.0, "eps_max": 1.0},
        {"metric_hits": 3},
        {"epsilon": 8.0, "noise_multiplier": 1.0},
        {"sample_rate": 1.5},
        {"precision": 0.0},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ConfigError):
        of(**wrong)


def test_an_epsilon_out_of_reach_is_refused(tmp_path):
    with pytest.raises(PrivacyRefusal, match="noise_multiplier"):
        bounds.run_bounds(of(sample_rate=1.0, steps=10**6, eps_min=1e-4, n_eps=2), tmp_path)
