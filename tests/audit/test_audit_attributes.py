"""`meninx audit attributes`: verdicts, controls, floor, bound, refusals, and what stays private."""

import csv
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest

from meninx import api
from meninx.audit import attributes
from meninx.audit.attribute_findings import findings
from meninx.audit.attributes import run_attributes
from meninx.audit.config import AttributesConfig
from meninx.cli.app import run as command
from meninx.core import artifacts
from meninx.core.attribute_records import AttributesAudit
from meninx.core.errors import ConfigError, DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.learn.model_signals import EMBEDDING, GRADIENT, LOGITS, NOISY, ModelSignals
from meninx.privacy.accounting import Phase
from meninx.privacy.risk import risk_curve
from meninx.synthetic.dataset import write_dataset

CONFIG = AttributesConfig(permutations=99, attributes=("sex",), deterministic=True)
PATIENTS = 80


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset whose patients are in training or test, a private run and one without privacy."""
    root = tmp_path_factory.mktemp("attacked")
    data = write_dataset(root / "data", patients=PATIENTS, size=16)
    patients = {patient: number for number, patient in enumerate(data.patients)}
    cases = tuple(
        replace(case, split=("train", "test")[patients[case.patient_id] % 2]) for case in data.cases
    )
    Manifest(data.root, replace(data.info, split_rule="exact"), cases).write()
    common = {"recipe": "tiny", "steps": 1, "out": root / "runs"}
    private = api.train(root / "data", epsilon=1.0, delta=1e-3, attack_risk=False, **common).out
    public = api.train(root / "data", seed=1, deterministic=True, **common).out
    return root / "data", private, public


@pytest.fixture
def private(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / "private", symlinks=True)


@pytest.fixture
def public(made, tmp_path):
    return shutil.copytree(made[2], tmp_path / "public", symlinks=True)


class World:
    """What a model gives away, made up: ``everybody`` and ``members`` shift the rows of women by so much."""

    def __init__(self, monkeypatch, *, everybody=0.0, members=0.0, splits=0.0):
        self.gains, self.splits, self.calls = (everybody, members), splits, 0
        monkeypatch.setattr(attributes, "model_signals", self.signals)

    def signals(self, network, cases, config, *, gradients=None, with_gradients=True, **rest):
        self.calls += 1
        first = {case.patient_id: case for case in reversed(cases.cases)}
        patients = tuple(dict.fromkeys(case.patient_id for case in cases.cases))
        women = np.array([first[one].attributes["sex"] == "F" for one in patients])
        inside = np.array([first[one].split == "train" for one in patients])
        rows = np.random.default_rng(7).normal(size=(len(patients), 8))
        everybody, members = self.gains if with_gradients else (0.0, self.splits)
        shift = everybody * women + members * (inside & women) - members * (inside & ~women)
        rows = rows + shift[:, None]
        found = {LOGITS: rows[:, :2], EMBEDDING: rows}
        bias = {}
        if with_gradients:
            found[GRADIENT] = rows
            targets = Manifest(cases.root, cases.info, tuple(first[one] for one in patients)).targets()
            bias[GRADIENT] = np.where(targets == 1, -0.5, 0.5)
        if gradients is not None:
            found[NOISY] = np.random.default_rng(1).normal(size=rows.shape)
            bias[NOISY] = np.random.default_rng(2).normal(size=bias[GRADIENT].shape)
        return ModelSignals(patients, found, bias)


def of(audit, signal):
    return next(record for record in audit.attributes if record.signal == signal)


def test_a_model_that_tells_nothing_stays_green(public, monkeypatch):
    World(monkeypatch)
    result = run_attributes(CONFIG, public)
    assert result.audit.verdict == "nothing found"
    assert artifacts.read(public, AttributesAudit) == result.audit
    result.raise_if_refuted()
    assert "another attack may find more" in result.summary()
    shown = findings(result.audit)
    assert {item.colour for item in shown if "control" not in item.key} <= {"green", "grey", "amber"}
    keys = {item.key for item in shown}
    assert {"attributes/sex/embedding/advantage", "attributes/sex/labels/auroc"} <= keys
    assert {"attributes/true-labels/gradient/accuracy", "attributes/positive-control"} <= keys


def test_what_strangers_tell_too_is_a_statistic_of_the_population(public, monkeypatch):
    World(monkeypatch, everybody=1.5)
    audit = run_attributes(CONFIG, public).audit
    assert audit.verdict == "inferable"
    assert of(audit, EMBEDDING).accuracy_low > of(audit, EMBEDDING).prior
    assert of(audit, EMBEDDING).over_labels_low > 0
    assert of(audit, EMBEDDING).bound is None
    colours = {item.key: item.colour for item in findings(audit)}
    assert colours["attributes/sex/embedding/auroc"] == "amber"
    assert colours["attributes/sex/embedding/advantage"] == "green"


def test_what_is_told_of_members_alone_is_exposed(public, monkeypatch):
    World(monkeypatch, members=2.0)
    result = run_attributes(CONFIG, public)
    assert result.audit.verdict == "exposed"
    assert of(result.audit, EMBEDDING).advantage_low > 0.1
    assert "EXPOSED" in result.summary()
    colours = {item.key: item.colour for item in findings(result.audit)}
    assert colours["attributes/sex/embedding/advantage"] == "red"
    result.raise_if_refuted()  # nothing was guaranteed


def test_a_private_run_that_tells_more_than_its_guarantee_allows_exits_with_5(private, monkeypatch, capsys):
    World(monkeypatch, members=3.0)
    arguments = ["audit", "attributes", str(private), "--attributes", "sex", "--permutations", "99", "-q"]
    assert command(arguments) == 5
    assert "exceeds what the guarantee allows" in capsys.readouterr().err
    audit = artifacts.read(private, AttributesAudit)
    assert audit.verdict == "refuted"
    record = of(audit, EMBEDDING)
    assert record.on_others < record.bound < record.on_members
    assert {item.colour for item in findings(audit) if item.key.endswith("embedding/advantage")} == {"red"}


def test_a_private_run_keeps_its_bounds(private, monkeypatch):
    World(monkeypatch)
    audit = run_attributes(CONFIG, private).audit
    assert audit.verdict == "nothing found"
    noisy = of(audit, NOISY)
    assert noisy.prior < noisy.bound < 1
    assert not noisy.excess
    step = Phase(sample_rate=1.0, noise_multiplier=audit.noise_multiplier, steps=1)
    allowed = risk_curve([step], rates=[noisy.prior]).gamma(noisy.prior)  # of one step that shows the patient
    assert noisy.bound == pytest.approx(allowed.upper, rel=0.01)
    assert noisy.bound > 1.02 * audit.prior_bounds["sex"]  # of the run, where few take part in a step
    assert audit.prior_bounds["sex"] > of(audit, LOGITS).prior
    assert audit.noise_multiplier > 0
    exact, hidden = audit.leaks
    assert exact.accuracy == 1.0
    assert hidden.accuracy_low < 0.6


def test_splits_that_differ_make_the_audit_void(public, monkeypatch, capsys):
    World(monkeypatch, splits=2.0)
    assert (
        command(["audit", "attributes", str(public), "--attributes", "sex", "--permutations", "99", "-q"])
        == 5
    )
    assert "trained on nothing" in capsys.readouterr().err
    shown = findings(artifacts.read(public, AttributesAudit))
    assert {item.colour for item in shown if "true-labels" not in item.key} <= {"grey", "green"}


def test_attacks_that_miss_a_planted_coin_say_nothing(public, monkeypatch):
    monkeypatch.setattr(attributes, "_PLANTED", 0.0)
    World(monkeypatch)
    assert run_attributes(CONFIG, public).audit.verdict == "void"


def test_what_a_real_network_says_is_read_once(private, monkeypatch):
    first = run_attributes(CONFIG, private).audit
    assert {record.signal for record in first.attributes} == {"labels", LOGITS, EMBEDDING, GRADIENT, NOISY}
    assert first.leaks[0].accuracy == 1.0  # the sign of the last bias gradient
    monkeypatch.setattr(attributes, "model_signals", None)
    assert run_attributes(CONFIG.replace(overwrite=True), private).audit == first
    room = private / "private" / "audit" / "attributes"
    assert stat.S_IMODE(room.stat().st_mode) == 0o700
    damaged = next(room.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        run_attributes(CONFIG.replace(overwrite=True), private)


def test_scores_of_patients_stay_in_the_private_room(public, monkeypatch):
    World(monkeypatch)
    run_attributes(CONFIG, public)
    path = public / "private" / "audit" / "attribute_scores.csv"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == PATIENTS
    for name in ("attributes.json", "attributes.csv", "attributes.svg"):
        assert "P0001" not in (public / "audit" / name).read_text()


def test_age_is_attacked_in_groups_and_sites_are_an_attribute(made, public, monkeypatch):
    World(monkeypatch)
    ages = [float(case.attributes["age"]) for case in Manifest.read(made[0]).cases]
    middle = float(int(np.median(ages)))
    config = AttributesConfig(
        permutations=19, age_edges=(middle,), attributes=("age", "site"), deterministic=True
    )
    audit = run_attributes(config, public).audit
    classes = {record.attribute: record.classes for record in audit.attributes}
    assert classes["age"] == (f"{middle:g} and above", f"below {middle:g}")
    assert classes["site"] == ("east", "north", "south")


def test_too_few_patients_are_refused_with_the_number_that_is_needed(made, tmp_path, monkeypatch):
    World(monkeypatch)
    few = write_dataset(tmp_path / "few", patients=24, size=16)
    run = api.train(few.root, recipe="tiny", steps=1, out=tmp_path / "runs", deterministic=True).out
    with pytest.raises(DataError, match="at least 20 patients in the"):
        run_attributes(CONFIG, run)


def test_a_value_that_few_have_is_refused_by_name_of_the_attribute_alone(public, monkeypatch):
    World(monkeypatch)
    monkeypatch.setattr(
        attributes, "_values", lambda config, data, first: {"rare": ["a"] * (PATIENTS - 2) + ["b"] * 2}
    )
    audit = run_attributes(CONFIG, public).audit
    assert audit.verdict == "void"
    assert (
        "10 needed of each, 0 there" in audit.attributes[0].refusal
        or "1 there" in audit.attributes[0].refusal
    )


def test_an_unknown_attribute_is_named(public):
    with pytest.raises(DataError, match="one of sex, age, site, got weight"):
        run_attributes(CONFIG.replace(attributes=("weight",)), public)


def test_a_dry_run_writes_nothing(public, capsys):
    assert command(["audit", "attributes", str(public), "--dry-run"]) == 0
    assert "members: 40 patients" in capsys.readouterr().out
    assert not (public / "audit").exists()


def test_a_run_is_audited_again_only_when_asked(public, monkeypatch):
    World(monkeypatch)
    run_attributes(CONFIG, public)
    with pytest.raises(UsageError, match="audited before"):
        run_attributes(CONFIG, public)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"folds": 1}, {"age_edges": ()}, {"age_edges": (60.0, 50.0)}, {"attributes": ("a", "a")}):
        with pytest.raises(ConfigError):
            AttributesConfig.of(**wrong)
