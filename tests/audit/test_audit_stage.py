"""`meninx audit RUN`: parts by a plan, taken over and resumed; three lines and their colours."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import audit_samples
import pytest
from audit_samples import (
    QUICK,
    audited,
    given_parts,
    membership_audit,
    one_run_record,
    record_of,
    write_bounds,
)
from report_samples import write_run

from meninx import api
from meninx.audit import bounds, membership_findings, parts, stage
from meninx.audit.plan_config import AuditConfig
from meninx.cli.app import run as command
from meninx.core import artifacts, audit_parts
from meninx.core.artifacts import Members, PrivacyRecord
from meninx.core.audit_summary import AuditRecord, PlanRecord, registration_hash
from meninx.core.errors import AuditFinding, ConfigError, DataError, Interrupted, UsageError
from meninx.core.findings import claims_too_much
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.report import section_audit
from meninx.synthetic.dataset import write_dataset


@pytest.fixture
def private(tmp_path):
    return write_run(tmp_path / "private", private=True, noise=0.8)


@pytest.fixture
def public(tmp_path):
    return write_run(tmp_path / "public", private=False)


def colours(result):
    return {line.line: line.colour for line in result.record.lines}


def everything(folder, **changes):
    run = record_of(folder)
    records = {"one_run": one_run_record(run), "membership": membership_audit(run)}
    return audited(folder, **{**records, **changes})


# three lines


def test_a_private_run_gets_three_lines_and_plain_sentences(private):
    result = everything(private)
    assert colours(result) == {"guaranteed": "amber", "measured": "green", "implementation": "green"}
    assert [item.candidates for item in result.record.sentences] == [2, 10, 36, 1000]
    tenth = result.record.sentences[1]
    assert tenth.guess == 0.1 < tenth.most < 0.6
    assert "narrowed a patient's data to 1 of 10 picks the right one at most" in tenth.words
    assert "a blind guess is right 10 % of the time" in tenth.words
    assert audit_parts.audit_of(private, record_of(private)) == result.record
    facts = dict(result.record.facts)
    for name in (
        "sample_rate q", "noise_multiplier σ", "steps T", "max_grad_norm C", "sampler", "accountant", "delta",
        "privacy unit", "seed of the audit", "data (keyed digest)",
    ):  # fmt: skip
        assert facts[name], name
    assert result.record.rerun == "meninx audit private --plan private/audit/plan.toml"
    result.raise_if_failed()


def test_a_run_without_privacy_is_no_error_and_gets_no_guarantee(public):
    result = audited(public, membership=membership_audit(record_of(public), bounded=False))
    assert colours(result) == {"guaranteed": "red", "measured": "amber", "implementation": "grey"}
    assert result.record.line("guaranteed").word == "no guarantee"
    assert all(item.most == 1 and "nothing bounds it" in item.words for item in result.record.sentences)
    assert [part.state for part in result.record.parts] == ["not done", "not done", "done"]
    result.raise_if_failed()
    assert "nothing bounds what an attack learns" in result.summary()


@pytest.mark.parametrize(
    ("verdict", "bounded", "colour"),
    [
        ("nothing found", True, "green"),
        ("exposed", True, "amber"),
        ("exposed", False, "red"),
        ("refuted", True, "red"),
        ("void", True, "grey"),
    ],
)
def test_the_line_of_attacks_follows_their_verdict(private, verdict, bounded, colour):
    found = membership_audit(record_of(private), verdict, bounded=bounded)
    assert colours(everything(private, membership=found))["measured"] == colour


def test_a_rate_that_could_not_be_measured_is_never_green(private):
    result = everything(private, membership=membership_audit(record_of(private), known=False))
    assert colours(result)["measured"] == "amber"
    assert "too few non-members" in result.record.line("measured").words


@pytest.mark.parametrize(
    ("verdict", "caught", "colour"),
    [("consistent", True, "green"), ("suspicious", True, "amber"), ("refuted", True, "red"),
     ("consistent", False, "grey"), ("refuted", False, "red")],
)  # fmt: skip
def test_the_line_of_the_implementation_needs_its_control(private, verdict, caught, colour):
    result = everything(private, one_run=one_run_record(record_of(private), verdict, caught=caught))
    assert colours(result)["implementation"] == colour


def test_a_refuted_guarantee_fails_and_a_finding_without_guarantee_does_not(private, public):
    result = everything(private, one_run=one_run_record(record_of(private), "refuted"))
    with pytest.raises(AuditFinding, match="one-run refutes the guarantee"):
        result.raise_if_failed()
    audited(
        public, membership=membership_audit(record_of(public), "exposed", bounded=False)
    ).raise_if_failed()


@pytest.mark.parametrize(("noise", "colour"), [(40.0, "green"), (0.8, "amber"), (0.4, "red")])
def test_the_bound_is_held_against_the_limits_of_the_plan(tmp_path, noise, colour):
    folder = write_run(tmp_path / "run", private=True, noise=noise)
    result = audited(folder, plan={"parts": ["bounds"]})
    assert colours(result)["guaranteed"] == colour
    assert "green: no attack finds more than 10 %" in result.record.line("guaranteed").rule


def test_without_poisson_sampling_no_line_is_green(tmp_path):
    folder = write_run(tmp_path / "run", private=True, noise=40.0)
    assert set(colours(everything(folder)).values()) == {"green"}
    privacy = artifacts.require(folder, PrivacyRecord, fix="")
    artifacts.write(folder, replace(privacy, sampler="shuffle"))
    result = everything(folder)
    assert set(colours(result).values()) == {"amber"}
    assert "the bounds assume Poisson" in result.record.line("guaranteed").words


def test_another_unit_than_the_patient_and_a_seed_are_named(tmp_path):
    images = write_run(tmp_path / "images", private=True, noise=40.0, unit="case")
    result = audited(images, plan={"parts": ["bounds"]})
    assert colours(result)["guaranteed"] == "amber"
    assert "the guarantee is for one case, not for a patient" in result.record.line("guaranteed").words
    assert dict(result.record.facts)["group size"] == "not known"
    seeded = write_run(tmp_path / "seeded", private=True, noise=40.0, deterministic=True)
    result = audited(seeded, plan={"parts": ["bounds"]})
    assert colours(result)["guaranteed"] == "red"
    assert "came from a seed" in result.record.line("guaranteed").words
    assert all(item.most == 1 for item in result.record.sentences)


def test_no_text_of_any_verdict_claims_too_much(private, public):
    for folder in (private, public):
        for verdict in ("nothing found", "exposed", "refuted", "void"):
            found = membership_audit(record_of(folder), verdict, bounded=folder is private)
            text = json.dumps(everything(folder, membership=found).to_table())
            assert not claims_too_much(text), (folder, verdict)


# plan and resumption


def test_finished_parts_are_taken_over(private):
    first = everything(private)
    with given_parts(private, one_run=one_run_record(record_of(private)), membership=None):
        for name, part in parts.REGISTRY.items():
            parts.REGISTRY[name] = replace(part, obstacle=lambda run, data: "", carry_out=None)
        again = stage.run(AuditConfig.of(**QUICK), private)
    assert again.record == first.record


def test_a_changed_setting_makes_its_part_again_and_leaves_the_others(private, monkeypatch):
    everything(private)
    calls = []
    monkeypatch.setattr(
        audit_samples, "write_bounds", lambda *rest, right=write_bounds: calls.append(1) or right(*rest)
    )
    with pytest.raises(UsageError, match=r"results of another plan exist \(bounds, one-run, membership\)"):
        everything(private, plan={"references": 8})
    with pytest.raises(UsageError, match="results of another plan exist"):
        everything(private, plan={"references": 8, "dry_run": True})  # a dry run refuses the same
    result = everything(private, plan={"references": 8, "overwrite": True})
    assert calls == []
    assert result.record.plan.after_results == ("bounds", "one-run", "membership")
    assert "AFTER results existed" in result.record.plan.words()
    assert result.record.plan.earlier[0].results
    everything(private, plan={"references": 8, "n_eps": 4, "overwrite": True})
    assert calls == [1]
    assert len(artifacts.read(private, PlanRecord).earlier) == 2


def test_results_without_a_plan_and_an_edited_plan_are_refused(private):
    bounds.run_bounds(
        stage.REGISTRY["bounds"].settings(AuditConfig.of(**QUICK)), private / "audit", run=private
    )
    with pytest.raises(UsageError, match="results exist that were made without a plan"):
        everything(private)
    everything(private, plan={"overwrite": True})
    plan = private / "audit" / "plan.toml"
    plan.write_text(plan.read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(DataError, match="registered plan was changed"):
        everything(private)


def test_a_plan_is_a_file_that_the_command_reads_back(private, tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'parts = ["bounds"]\n[bounds]\nn_eps = 3\n[limits]\nfail_conditions = ["largest-auc > 0.6"]\n'
    )
    assert command(["audit", str(private), "--plan", str(plan), "--dry-run", "-q"]) == 0
    shown = capsys.readouterr().out
    assert "dry run: nothing written" in shown
    assert not (private / "audit").exists()
    assert command(["audit", str(private), "--plan", str(plan), "-q"]) == 5
    assert "largest-auc > 0.6: bounds/largest-auc is" in capsys.readouterr().err
    record = artifacts.read(private, AuditRecord)
    assert f"sha256 {record.plan.sha256}" in shown
    assert record.conditions[0].startswith("largest-auc > 0.6: bounds/largest-auc is")
    written = private / "audit" / "plan.toml"
    assert command(["audit", str(private), "--plan", str(written), "-q"]) == 5
    assert artifacts.read(private, AuditRecord).plan.sha256 == record.plan.sha256


@pytest.mark.parametrize(
    "wrong",
    [{"parts": []}, {"parts": ["bounds", "bounds"]}, {"parts": ["luck"]}, {"references": 3},
     {"bound_green": 0.9}, {"one_run_minutes": 0}, {"membership": {"refs": 4}}],
)  # fmt: skip
def test_a_plan_that_cannot_be_carried_out_is_refused(wrong):
    with pytest.raises(ConfigError):
        AuditConfig.of(**wrong)


def test_a_part_over_its_budget_is_left_out_and_goes_on_later(private):
    def slow(config, run, data, progress):
        for _ in range(1000):
            progress.advance()
        raise AssertionError("nobody stopped it")

    with given_parts(private, one_run=one_run_record(record_of(private))):
        right = parts.REGISTRY["one-run"]
        parts.REGISTRY["one-run"] = replace(right, carry_out=slow)
        plan = AuditConfig.of(**QUICK, one_run_minutes=1e-9)
        part = stage.run(plan, private).record.parts[1]
        assert part.state == "not done"
        assert "budget" in part.reason
        parts.REGISTRY["one-run"] = right
        assert stage.run(plan, private).record.parts[1].state == "done"


def test_an_interruption_by_the_user_is_none_of_the_budget(private):
    def stopped(config, run, data, progress):
        raise Interrupted("stopped")

    with given_parts(private, one_run=one_run_record(record_of(private))):
        parts.REGISTRY["one-run"] = replace(parts.REGISTRY["one-run"], carry_out=stopped)
        with pytest.raises(Interrupted):
            stage.run(AuditConfig.of(**QUICK), private)
    assert artifacts.read(private, AuditRecord) is None
    assert set(artifacts.read(private, PlanRecord).parts) == {"bounds"}


def test_two_deterministic_audits_are_equal_byte_for_byte(private, tmp_path):
    copy = shutil.copytree(private, tmp_path / "other" / "private", symlinks=True)
    for folder in (private, copy):
        everything(folder)
    for name in ("audit.json", "plan.json", "plan.toml", "bounds.json"):
        assert (private / "audit" / name).read_bytes() == (copy / "audit" / name).read_bytes(), name


def test_what_cannot_be_audited_is_refused(private, tmp_path):
    with pytest.raises(UsageError, match="no run folder"):
        stage.run(AuditConfig(), tmp_path / "nothing")
    Run(private).update(state="training")
    with pytest.raises(UsageError, match="not finished"):
        stage.run(AuditConfig(), private)


# staleness


def test_a_summary_that_is_no_longer_true_is_refused_by_name(private, tmp_path):
    everything(private)
    run = record_of(private)
    membership = private / "audit" / "membership.json"
    before = membership.read_text()
    membership.write_text(before.replace("0.51", "0.52"))
    with pytest.raises(DataError, match=r"older than membership\.json, which was made again or changed"):
        audit_parts.audit_of(private, run)
    membership.unlink()
    with pytest.raises(DataError, match=r"names membership\.json, which is missing"):
        audit_parts.audit_of(private, run)
    membership.write_text(before)
    assert audit_parts.audit_of(private, run) is not None
    with pytest.raises(DataError, match="was measured on other weights"):
        audit_parts.audit_of(private, replace(run, weights="0" * 64))
    with pytest.raises(DataError, match="was measured on another run"):
        audit_parts.audit_of(private, replace(run, id="0" * 32))
    with pytest.raises(DataError, match="another dataset"):
        audit_parts.audit_of(private, replace(run, data="0" * 64))
    (private / "audit" / "plan.toml").write_text("seed = 1\n")
    with pytest.raises(DataError, match="another plan"):
        audit_parts.audit_of(private, run)


def test_a_part_of_another_run_is_not_taken_over(private, tmp_path):
    other = write_run(tmp_path / "other", private=True)
    with pytest.raises(DataError, match="belongs to another run"):
        everything(private, membership=membership_audit(record_of(other)))


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table["lines"].pop(),
        lambda table: table["parts"].append(table["parts"][0]),
        lambda table: table["parts"][0].update(name="../../etc/passwd"),
        lambda table: table["parts"][0].update(sha256=""),
        lambda table: table["lines"][0].update(words="This model is safe."),
        lambda table: table["not_tested"].append("The data are anonymous."),
        lambda table: table["sentences"][0].update(most=2.0),
        lambda table: table["parts"][0]["findings"][0].update(value="many"),
        lambda table: table.update(version=99),
    ],
)
def test_a_forged_summary_is_refused(private, change):
    everything(private)
    path = private / "audit" / "audit.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    with pytest.raises(DataError):
        audit_parts.audit_of(private, record_of(private))


@pytest.mark.slow
def test_a_deterministic_audit_of_a_real_run_is_repeated_byte_for_byte(tmp_path):
    data = write_dataset(tmp_path / "data", patients=90, size=16)
    numbers = {patient: number for number, patient in enumerate(data.patients)}
    cases = tuple(replace(case, split=("train", "test")[numbers[case.patient_id] % 2]) for case in data.cases)
    Manifest(data.root, replace(data.info, split_rule="exact"), cases).write()
    run = api.train(
        data.root, out=tmp_path / "runs", recipe="tiny", epsilon=8.0, delta=1e-3, steps=4, attack_risk=False
    ).out
    copies = [shutil.copytree(run, tmp_path / name / "run", symlinks=True) for name in ("a", "b")]
    for copy in copies:
        api.audit(copy, deterministic=True, n_eps=2, canaries=200, references=2, control_steps=30, seed=5)
    for name in ("audit.json", "audit.html", "one_run.json", "membership.json", "plan.json", "bounds.json"):
        first, second = ((copy / "audit" / name).read_bytes() for copy in copies)
        assert first == second, name


def test_a_mistyped_part_and_a_folder_of_runs_get_the_right_advice(capsys, tmp_path):
    for words in (["bound", "--recipe", "tiny"], ["bound"], ["membershp"]):
        assert command(["audit", *words]) == 2
        meant = "membership" if words[0].startswith("m") else "bounds"
        assert f"did you mean `meninx audit {meant}`" in capsys.readouterr().err
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "config.toml").touch()
    assert command(["audit", str(tmp_path)]) == 2
    assert str(tmp_path / "latest") in capsys.readouterr().err
    assert command(["audit", "bounds"]) == 2
    shown = capsys.readouterr().err
    assert "--run" in shown
    assert "--recipe" in shown


def test_a_group_above_chance_in_a_quiet_audit_is_grey_and_never_green(private):
    audit = membership_audit(record_of(private))
    groups = tuple(replace(group, auc=0.662, auc_low=0.505, auc_high=0.814) for group in audit.groups[:1])
    found = membership_findings.findings(replace(audit, groups=groups))
    group = next(item for item in found if "Within group" in item.words)
    assert group.colour == "grey"
    assert "above chance" in group.reason


def test_a_run_without_privacy_has_a_sentence_for_all_of_its_patients(public):
    artifacts.write(
        public, Members(train=tuple(f"p{number}" for number in range(17)), valid=(), patients_known=True)
    )
    sentences = everything(public).record.sentences
    assert [item.candidates for item in sentences] == [2, 10, 17, 1000]
    assert all("a patient's data" in item.words for item in sentences)


def test_the_hash_to_publish_binds_the_plan_to_the_run_and_page_and_dry_run_show_it(private, public):
    first, second = (stage.run(AuditConfig.of(dry_run=True), run) for run in (private, public))
    assert first.plan_sha256 == second.plan_sha256
    assert first.registration != second.registration
    assert f"plan and run: sha256 {first.registration}" in first.summary()
    record = everything(private).record
    shown = [cell.text for row in section_audit.plan_table(record).rows for cell in row]
    bound = registration_hash(record.plan.sha256, record.origin.run, record.origin.weights)
    assert f"sha256 {bound}" in shown
    words = [row[0].text for row in section_audit.words_table().more]
    assert {"canary", "q", "AUC", "f-DP"} < set(words)
