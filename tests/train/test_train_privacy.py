"""privacy.json: what a run promises, in the form that report and model card read."""

from __future__ import annotations

import json
import math

from meninx.core.budget import PrivacyUnit
from meninx.train import planning
from meninx.train.config import PrivacyConfig, TrainConfig

KEYS = {
    "private": bool,
    "epsilon": float,
    "delta": float,
    "unit": str,
    "relation": str,
    "noise_multiplier": float,
    "max_grad_norm": float,
    "sample_rate": float,
    "steps": int,
    "sampler": str,
    "accountant": str,
    "clipping": str,
    "expected_batch_size": (int, float),
    "planned_steps": int,
    "sentence": str,
    "risk": dict,
    "outside_guarantee": list,
    "deterministic": bool,
    "start": dict,
    "own_epsilon": float,
    "ledger": list,
    "origin": dict,
    "declared_units": type(None),
    "version": int,
}


def test_the_table_has_these_keys_and_types(private):
    table = json.loads((private.root / "privacy.json").read_text())
    assert table.keys() == KEYS.keys()
    assert not [name for name, kind in KEYS.items() if not isinstance(table[name], kind)]


def test_the_numbers_fit_each_other(private, data):
    table = private.read_json("privacy.json")
    patients = len(data.split("train").patients)
    assert math.isclose(table["sample_rate"], table["expected_batch_size"] / patients)
    assert 7.9 < table["epsilon"] <= 8.0
    assert (table["unit"], table["relation"]) == ("patient", "add-or-remove-one")
    assert (table["sampler"], table["accountant"]) == ("poisson", "pld")
    assert table["steps"] == table["planned_steps"] == math.ceil(2 * patients / 6)
    assert table["sentence"].startswith("epsilon = 8 at delta = 0.001 per patient (add-or-remove-one)")


def test_the_risk_is_bounded_between_guessing_and_certainty(private, data):
    risk = private.read_json("privacy.json")["risk"]
    assert set(risk) == {"advantage", "tpr_at_fpr", "prior", "reconstruction"}
    assert 0 < risk["advantage"] < 1
    assert all(float(rate) <= value <= 1 for rate, value in risk["tpr_at_fpr"].items())
    assert math.isclose(risk["prior"], 1 / len(data.split("train").patients))
    assert risk["prior"] <= risk["reconstruction"] <= 1


def test_a_seeded_run_says_that_it_protects_nobody(private):
    table = private.read_json("privacy.json")
    assert table["deterministic"] is True
    assert any("--deterministic" in text for text in table["outside_guarantee"])
    assert "NOT FOR RELEASE" in (private.root / "NOT_FOR_RELEASE").read_text()


def test_a_plain_run_promises_nothing(plain):
    table = plain.read_json("privacy.json")
    assert (table["private"], table["epsilon"]) == (False, None)
    assert table["sentence"] == "Trained without differential privacy: nothing is promised."
    assert table["risk"] is None


def test_every_step_is_in_the_ledger(private):
    lines = [json.loads(line) for line in private.ledger_path.read_text().splitlines()]
    assert len(lines) >= private.read_json("privacy.json")["steps"]


def test_the_plan_counts_patients_or_cases_or_what_was_declared(data):
    def rate(**terms: object) -> float:
        privacy = PrivacyConfig(noise_multiplier=1.0, delta=1e-4, **terms)
        plan = planning.make_plan(TrainConfig.of(batch_size=5, steps=1, privacy=privacy), data)
        assert plan is not None
        return plan.sample_rate

    training = data.split("train")
    assert math.isclose(rate(), 5 / len(training.patients))
    assert math.isclose(rate(unit=PrivacyUnit.CASE), 5 / len(training))
    assert math.isclose(rate(units_declared=100), 0.05)
    assert planning.make_plan(TrainConfig(), data) is None
