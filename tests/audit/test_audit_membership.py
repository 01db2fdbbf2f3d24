"""`meninx audit membership`: verdicts, controls, bound, refusals, and the cache of reference models."""

import copy
import csv
import json
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest

from meninx import api
from meninx.audit import membership, references
from meninx.audit.config import MembershipConfig
from meninx.audit.membership import run_membership
from meninx.audit.membership_findings import findings, two_sided
from meninx.audit.references import halves
from meninx.cli.app import run as command
from meninx.core import artifacts
from meninx.core.artifacts import RunRecord
from meninx.core.audit_records import MembershipAudit
from meninx.core.errors import AuditFinding, ConfigError, DataError, Interrupted, UsageError
from meninx.core.federation import StudyPart
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT
from meninx.core.run import Run
from meninx.synthetic.dataset import write_dataset
from meninx.verify import stage as verify

CONFIG = MembershipConfig(references=4)
PATIENTS = 90


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
    """Models that know their patients by a gain in the logit, in place of trained ones."""

    def __init__(self, monkeypatch, *, target=0.0, references=3.0, planted=4.0, shift=0.0):
        self.trained = []
        self.gains = {"target": target, "references": references, "planted": planted}
        self.shift = shift
        monkeypatch.setattr(membership, "reference_signals", self.reference)
        monkeypatch.setattr(membership, "control_signals", self.control)
        monkeypatch.setattr(membership, "fresh_signals", self.fresh)
        monkeypatch.setattr(membership, "log_likelihoods", self.audited)

    def signals(self, pool, known, gain, seed):
        rng = np.random.default_rng(seed)
        hard = np.random.default_rng(0).normal(0, 1, len(pool))
        train = np.array([case.split == "train" for case in pool.cases])
        bits = np.array([case.patient_id in known for case in pool.cases])
        logits = hard + self.shift * train + gain * bits + rng.normal(0, 0.5, len(pool))
        return -np.logaddexp(0, -logits)

    def reference(self, audited, number, patients, progress):
        self.trained.append(patients)
        return self.signals(audited.pool, patients, self.gains["references"], 10 + number)

    def control(self, audited, patients, steps, progress):
        return self.signals(audited.pool, patients, self.gains["planted"], 1)

    def fresh(self, audited):
        flat = np.random.default_rng(2).normal(-0.7, 0.01, len(audited.pool))
        train = np.array([case.split == "train" for case in audited.pool.cases])
        return flat - abs(self.shift) * ~train

    def audited(self, network, pool, config):
        known = {case.patient_id for case in pool.cases if case.split == "train"}
        return self.signals(pool, known, self.gains["target"], 3)


def test_a_model_that_tells_nothing_stays_green(public, monkeypatch):
    World(monkeypatch)
    result = run_membership(CONFIG, public)
    assert result.audit.verdict == "nothing found"
    assert result.audit.bound == {}
    assert result.audit.bound_auc is None
    result.raise_if_refuted()
    assert "another attack may find more" in result.summary()


def test_the_audit_of_a_site_names_its_study(public, monkeypatch):
    World(monkeypatch)
    part = StudyPart(study="chest", run="0" * 16, site="north", sites=3)
    Run(public).update(study=part)
    result = run_membership(CONFIG, public)
    assert artifacts.read(public, MembershipAudit).sites == 3
    assert "a study of 3 sites, the reference models on the patients of this site alone" in result.summary()


def test_a_model_that_knows_its_patients_is_exposed(public, monkeypatch):
    World(monkeypatch, target=4.0)
    result = run_membership(CONFIG, public)
    assert result.audit.verdict == "exposed"
    assert {attack.attack: attack.auc > 0.8 for attack in result.audit.attacks}["rmia"]
    assert "EXPOSED" in result.summary()
    result.raise_if_refuted()  # nothing was guaranteed


def test_a_private_run_that_leaks_more_than_its_bound_exits_with_5(private, monkeypatch, capsys):
    monkeypatch.setattr(membership, "FPRS", (0.3,))
    World(monkeypatch, target=8.0)
    assert command(["audit", "membership", str(private), "--quiet"]) == 5
    shown = capsys.readouterr()
    assert "finds more members than the guarantee allows" in shown.err
    record = artifacts.read(private, MembershipAudit)
    assert record.verdict == "refuted"
    assert 0.3 < record.bound["0.3"] < 0.9
    assert any(attack.excess for attack in record.attacks)


def test_a_private_run_within_its_bound_is_not_refuted(private, monkeypatch):
    World(monkeypatch)
    audit = run_membership(CONFIG, private).audit
    assert audit.verdict == "nothing found"
    assert not any(attack.excess for attack in audit.attacks)
    assert set(audit.bound) == {"0.1", "0.01", "0.001"}
    assert 0.5 < audit.bound_auc < 1
    assert verify.run(private).ok


def test_a_failed_control_does_not_hide_an_attack_above_the_bound(private, monkeypatch, capsys):
    """Splits that differ, and a model that knows its members better than its guarantee allows."""
    monkeypatch.setattr(membership, "FPRS", (0.3,))
    World(monkeypatch, target=8.0, shift=2.0)
    assert command(["audit", "membership", str(private), "--quiet"]) == 5
    shown = capsys.readouterr()
    assert "REFUTED" in shown.err
    assert "but a control failed: a network that was trained on nothing" in shown.err
    assert artifacts.read(private, MembershipAudit).verdict == "refuted"


def test_the_record_of_a_run_with_noise_from_a_seed_holds_no_bound(made, tmp_path, monkeypatch):
    World(monkeypatch, target=8.0)
    run = shutil.copytree(made[1], tmp_path / "seeded", symlinks=True)
    artifacts.write(run, replace(artifacts.read(run, RunRecord), deterministic=True))
    audit = run_membership(CONFIG, run).audit
    assert (audit.bound, audit.bound_auc, audit.curve_bound) == ({}, None, ())
    assert {attack.excess for attack in audit.attacks} == {None}
    assert audit.verdict == "exposed"


def test_splits_that_differ_make_the_audit_void(public, monkeypatch):
    World(monkeypatch, shift=2.0)
    result = run_membership(CONFIG, public)
    assert result.audit.verdict == "void"
    assert "differ in more than membership" in result.summary()
    with pytest.raises(AuditFinding, match="trained on nothing"):
        result.raise_if_refuted()


def test_harder_test_patients_are_found_by_the_models_that_know_half_of_both(public, monkeypatch):
    world = World(monkeypatch, shift=2.0)
    monkeypatch.setattr(world, "fresh", lambda audited: World.fresh(replaced(world), audited))
    monkeypatch.setattr(membership, "fresh_signals", world.fresh)
    result = run_membership(CONFIG, public)
    assert result.audit.negative.p_value > 0.0025  # a network that knows nothing finds all patients alike
    assert two_sided(result.audit.split_control) <= 0.0025
    assert result.audit.verdict == "void"
    assert "models that know half of both splits tell them apart" in result.summary()


def replaced(world):
    """Return the world with splits that do not differ."""
    other = copy.copy(world)
    other.shift = 0.0
    return other


def test_with_two_references_there_is_no_second_negative_control(public, monkeypatch):
    World(monkeypatch)
    audit = run_membership(CONFIG.replace(references=2), public).audit
    assert audit.split_control is None
    assert {item.key for item in findings(audit)} >= {"membership/negative-control"}
    four = run_membership(CONFIG.replace(overwrite=True), public).audit
    assert two_sided(four.split_control) > 0.0025
    colours = {item.key: item.colour for item in findings(four)}
    assert colours["membership/split-control"] == "green"


def test_a_guarantee_that_excludes_nothing_leaves_an_exposed_run_red(private, monkeypatch):
    World(monkeypatch, target=0.35)
    audit = run_membership(CONFIG, private).audit
    assert audit.verdict == "exposed"
    assert {item.colour for item in findings(audit) if item.key == "membership/rmia/auc"} == {"amber"}
    vacuous = replace(audit, bound=dict.fromkeys(audit.bound, 1.0), bound_auc=0.9999)
    found = next(item for item in findings(vacuous) if item.key == "membership/rmia/auc")
    assert (found.colour, found.reason) == (
        "red",
        "the attack finds members, and the guarantee excludes nothing",
    )


def test_a_planted_leak_that_is_not_found_makes_the_audit_void(public, monkeypatch):
    World(monkeypatch, planted=0.0)
    result = run_membership(CONFIG, public)
    assert result.audit.verdict == "void"
    with pytest.raises(AuditFinding, match="too weak"):
        result.raise_if_refuted()


def test_what_is_written_names_no_patient_outside_the_private_room(public, monkeypatch, tmp_path):
    World(monkeypatch, target=4.0)
    out = tmp_path / "audited"
    result = run_membership(CONFIG, public, out=out)
    assert result.out == out / "audit" / "membership.json"
    made = {path.name for path in (out / "audit").iterdir()}
    assert made == {"membership.json", "membership.csv", "membership.svg", "membership.png"}
    scores = public / "private" / "audit" / "membership_scores.csv"
    assert stat.S_IMODE(scores.stat().st_mode) == 0o600
    assert stat.S_IMODE(scores.parent.stat().st_mode) == 0o700
    rows = list(csv.DictReader(scores.read_text().splitlines()))
    assert len(rows) == PATIENTS
    assert sum(row["member"] == "1" for row in rows) == PATIENTS // 2
    for path in (out / "audit").iterdir():
        content = path.read_bytes()
        assert not any(row["patient_id"].encode() in content for row in rows)
    record = artifacts.read(out, MembershipAudit)
    assert record == result.audit
    assert record.split_rule == "exact"
    assert record.origin.run == Run(public).record.id
    assert all(point.refusal for attack in record.attacks for point in attack.points)  # 45 non-members
    table = list(csv.DictReader((out / "audit" / "membership.csv").read_text().splitlines()))
    assert {row["attack"] for row in table} == {"loss", "lira", "rmia"}
    assert any(row["tpr"] for row in table)
    assert all(not row["tpr"] for row in table if float(row["fpr"]) * 45 < 10 - 1e-6)


def test_each_patient_is_a_member_or_not_and_known_to_half_of_the_models(made, public, monkeypatch):
    world = World(monkeypatch)
    run_membership(CONFIG, public)
    data = Manifest.read(made[0])
    members, others = set(data.split("train").patients), set(data.split("test").patients)
    assert not members & others
    assert len(world.trained) == 4
    for first, second in ((0, 1), (2, 3)):
        assert not world.trained[first] & world.trained[second]
        assert world.trained[first] | world.trained[second] == members | others
    for patients in world.trained:
        assert abs(2 * len(patients & members) - len(members)) <= 1
        assert abs(2 * len(patients & others) - len(others)) <= 1


def test_a_patient_on_both_sides_is_refused():
    with pytest.raises(DataError, match="1 that are both"):
        halves(["a", "b"], ["b", "c"], 2, 0)


def test_more_references_begin_with_the_same_halves():
    members, others = [f"m{index}" for index in range(21)], [f"o{index}" for index in range(13)]
    assert halves(members, others, 8, 0)[:2] == halves(members, others, 2, 0)
    assert halves(members, others, 2, 0) == halves(members[::-1], others[::-1], 2, 0)
    assert halves(members, others, 2, 0) != halves(members, others, 2, 1)


def test_what_cannot_be_audited_is_refused(public, tmp_path, monkeypatch):
    World(monkeypatch)
    with pytest.raises(UsageError, match="no run folder"):
        run_membership(CONFIG, tmp_path / "nothing")
    run_membership(CONFIG, public)
    with pytest.raises(UsageError, match="--overwrite"):
        run_membership(CONFIG, public)
    run_membership(CONFIG.replace(overwrite=True), public)
    Run(public).update(state="training")
    with pytest.raises(UsageError, match="not finished"):
        run_membership(CONFIG.replace(overwrite=True), public)
    with pytest.raises(ConfigError, match="even number"):
        MembershipConfig(references=3)


def test_too_few_patients_are_refused_before_anything_is_trained(public, monkeypatch):
    world = World(monkeypatch)
    monkeypatch.setattr(membership, "LEAST_PATIENTS", 46)
    with pytest.raises(DataError, match="at least 46 patients in the train split, got 45"):
        run_membership(CONFIG, public)
    assert not world.trained


# the cache


class Trainings:
    """Counts trainings in place of doing them."""

    def __init__(self, monkeypatch):
        self.done, self.data = [], []
        monkeypatch.setattr(references, "fit", self.fit)
        monkeypatch.setattr(references, "load_model", lambda folder: (None, None, None))
        monkeypatch.setattr(references, "log_likelihoods", lambda network, pool, config: -np.ones(len(pool)))

    def fit(self, config, data, folder, **more):
        self.done.append((folder.name, more["plan"], config.runtime.seed))
        self.data.append(data)


def audited(folder, seed=0):
    run = Run(folder)
    return membership._audited(run, CONFIG.replace(seed=seed))


def test_a_reference_is_trained_once_on_its_own_patients(private, monkeypatch):
    trainings, about = Trainings(monkeypatch), audited(private)
    chosen = halves(about.pool.split("train").patients, about.pool.split("test").patients, 2, 0)
    first = references.reference_signals(about, 0, chosen[0], SILENT)
    again = references.reference_signals(about, 0, chosen[0], SILENT)
    assert np.array_equal(first, again)
    (name, plan, _), (data,) = trainings.done[0], trainings.data
    assert len(trainings.done) == 1
    assert name == "reference-000"
    assert set(data.split("train").patients) == chosen[0]
    assert plan.sample_rate == about.plan.sample_rate
    assert plan.noise_multiplier == about.plan.noise_multiplier
    assert plan.n_units_declared == len(chosen[0])
    files = list((private / "private" / "audit" / "membership").iterdir())
    assert [path.name for path in files] == ["reference-000.json"]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600


def test_a_reference_of_something_else_is_refused(private, monkeypatch):
    Trainings(monkeypatch)
    about = audited(private)
    patients = frozenset(about.pool.patients[:20])
    references.reference_signals(about, 0, patients, SILENT)
    with pytest.raises(UsageError, match="another run, dataset or seed"):
        references.reference_signals(about, 0, patients - {about.pool.patients[0]}, SILENT)
    (private / "config.toml").write_text((private / "config.toml").read_text() + "\n# changed\n")
    with pytest.raises(UsageError, match="another run, dataset or seed"):
        references.reference_signals(about, 0, patients, SILENT)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table | {"signals": table["signals"][:-1]},
        lambda table: table | {"signals": [0.5, *table["signals"][1:]]},
        lambda table: table | {"signals": [-1e9, *table["signals"][1:]]},
        lambda table: table | {"signals": [None, *table["signals"][1:]]},
        lambda table: table | {"signals": "many"},
        lambda table: {"made_for": table["made_for"]},
    ],
)
def test_a_damaged_reference_is_refused(private, monkeypatch, change):
    Trainings(monkeypatch)
    about = audited(private)
    patients = frozenset(about.pool.patients[:20])
    references.reference_signals(about, 0, patients, SILENT)
    path = about.room / "reference-000.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=r"reference-000\.json"):
        references.reference_signals(about, 0, patients, SILENT)


def test_an_interrupted_reference_goes_on_with_the_same_patients(private, monkeypatch):
    trainings, about = Trainings(monkeypatch), audited(private)
    patients = frozenset(about.pool.patients[:20])

    def stop(*_, **__):
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(references, "fit", stop)
        with pytest.raises(Interrupted):
            references.reference_signals(about, 0, patients, SILENT)
    with pytest.raises(UsageError, match="another run, dataset or seed"):
        references.reference_signals(about, 0, patients - {about.pool.patients[0]}, SILENT)
    references.reference_signals(about, 0, patients, SILENT)
    assert len(trainings.done) == 1


# real models


def test_signals_of_a_real_network_are_log_likelihoods(made):
    import torch

    about = audited(made[2])
    found = references.fresh_signals(about)
    assert found.shape == (len(about.pool),)
    assert ((found < 0) & (found > -50)).all()
    assert np.array_equal(found, references.fresh_signals(about))
    broken = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))
    broken(torch.zeros(1, 1, 16, 16))
    with torch.no_grad():
        broken[1].bias.fill_(float("nan"))
    with pytest.raises(DataError, match="NaN"):
        references.log_likelihoods(broken, about.pool, about.config)


@pytest.mark.slow
def test_an_overfitted_run_is_exposed_and_a_private_one_is_not(made, private, tmp_path):
    overfitted = api.train(
        made[0], out=tmp_path, recipe="tiny", steps=120, select="last", deterministic=True
    ).out
    result = run_membership(CONFIG, overfitted)
    assert result.audit.verdict == "exposed"
    assert result.audit.positive.p_value < 0.01
    assert result.audit.negative.p_value > 0.05
    result = run_membership(CONFIG, private)
    assert result.audit.verdict != "exposed"
    assert result.audit.negative.p_value > 0.05


def test_patients_behind_the_starting_weights_are_no_strangers(made, tmp_path, monkeypatch):
    data = Manifest.read(made[0])
    known = sorted(data.split("test").patients)[:12]
    cases = tuple(replace(case, split="train") for case in data.cases if case.patient_id in known)
    shutil.copytree(made[0], tmp_path / "first")
    Manifest(tmp_path / "first", data.info, cases).write()
    first = api.train(tmp_path / "first", recipe="tiny", steps=1, out=tmp_path / "runs", deterministic=True)
    weights = first.out / "release" / "bundle" / "models" / "model.pt"
    common = {"recipe": "tiny", "steps": 1, "out": tmp_path / "runs", "deterministic": True}
    run = api.train(made[0], pretrained=str(weights), **common).out
    World(monkeypatch)
    result = run_membership(CONFIG, run)
    assert result.audit.left_out == 12
    assert not result.audit.unknown_start
    assert result.audit.attacks[0].others == PATIENTS // 2 - 12
    assert "left out: 12 patients" in result.summary()
    with (run / "private" / "audit" / "membership_scores.csv").open() as file:
        assert not {row["patient_id"] for row in csv.DictReader(file)} & set(known)
    (first.out / "release" / "lineage.json").unlink()  # nobody can say any more who is behind the weights
    shutil.copyfile(weights, tmp_path / "found.pt")
    run = api.train(made[0], pretrained=str(tmp_path / "found.pt"), name="other", **common).out
    result = run_membership(CONFIG, run)
    assert result.audit.unknown_start
    assert any("unknown origin" in text for text in result.alerts())
    colours = {item.key: item.colour for item in findings(result.audit)}
    assert colours["membership/rmia/auc"] == "grey"
