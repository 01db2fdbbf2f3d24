"""What an audit says: whose guarantee it is, which numbers are none, and how intervals are worded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audit_samples import audited, membership_audit, one_run_record, record_of, score_audit
from report_samples import write_dataset, write_run

from meninx.audit import part_rules, parts, stage
from meninx.audit.plan_config import AuditConfig
from meninx.cli.app import run as command
from meninx.core.errors import AuditFinding, DataError
from meninx.core.findings import GUARANTEED
from meninx.report import audit_figures, audits, section_audit


@pytest.mark.parametrize("noise", [40.0, 0.8, 0.4])
def test_a_relaxed_number_is_never_worded_or_coloured_as_a_guarantee(tmp_path, noise):
    folder = write_run(tmp_path / "run", private=True, noise=noise)
    found = audited(folder, plan={"parts": ["bounds"]}).record.findings
    relaxed = [item for item in found if "relaxed" in item.key]
    assert relaxed
    for item in relaxed:
        assert item.colour in ("amber", "red")
        assert "no attack" not in item.words.lower()
        assert "not the direction of the gradient" in item.words
        assert "This is no guarantee" in item.words
        worst = next(one for one in found if one.key == item.key.replace("relaxed", "largest"))
        assert item.value <= worst.value == item.bound


def test_a_bound_per_case_is_not_given_as_one_per_patient(tmp_path):
    data = write_dataset(tmp_path / "data")
    folder = write_run(tmp_path / "images", private=True, noise=40.0, unit="case", dataset=data)
    record = audited(folder, plan={"parts": ["bounds"]}).record
    line = record.line("guaranteed")
    assert (line.colour, line.word) == ("amber", "bound for one case only")
    assert "of the cases that took part" in line.words
    assert "patients who took part" not in line.words
    assert "No bound per patient was computed" in line.words
    assert all("For a patient with several cases nothing is guaranteed" in x.words for x in record.sentences)
    mine = [item for item in record.findings if item.line == GUARANTEED]
    assert {item.colour for item in mine} == {"amber"}
    assert not any("patients that took part" in item.words for item in mine)


@pytest.mark.parametrize("unit", ["case", "patient"])
def test_where_patients_are_not_known_no_bound_is_for_a_patient(tmp_path, unit):
    folder = write_run(tmp_path / "images", private=True, noise=40.0, unit=unit, patients_known=False)
    line = audited(folder, plan={"parts": ["bounds"]}).record.line("guaranteed")
    assert (line.colour, line.word) == ("amber", "bound for one case only")
    assert "of the cases that took part" in line.words
    assert "the source does not name its patients" in line.words


def test_other_models_of_the_same_patients_are_named(tmp_path):
    folder = write_run(tmp_path / "run", private=True, noise=40.0)
    record = audited(folder, plan={"parts": ["bounds"]}).record
    assert "others trained on the same patients add to it" in record.line("guaranteed").words
    assert any("the bound is for this model alone" in text for text in record.not_tested)


def test_a_seeded_run_has_no_number_that_a_condition_could_pass(tmp_path):
    folder = write_run(tmp_path / "seeded", private=True, noise=40.0, deterministic=True)
    run = record_of(folder)
    given = {"one_run": one_run_record(run), "membership": membership_audit(run)}
    result = audited(folder, **given, fail_if=("largest-tpr@fpr=0.01 > 0.5",))
    bounds = [item for item in result.record.findings if item.key.startswith("bounds/")]
    assert {(item.value, item.colour) for item in bounds} == {(None, "red")}
    assert all(item.bound is None for item in result.record.findings if item.key.startswith("membership/"))
    with pytest.raises(DataError, match="it holds a bound, but the noise of the run came"):
        audits.read(folder, run)
    audited(folder, **given | {"membership": membership_audit(run, bounded=False)}, plan={"overwrite": True})
    captions = [item.caption for item in audit_figures.pictures(audits.read(folder, run), "audit")]
    assert not any("no attack picks" in text or "dashed line" in text for text in captions)
    with pytest.raises(AuditFinding, match="has no number that counts"):
        result.raise_if_failed()


def test_an_estimate_above_the_bound_is_worded_by_its_interval(tmp_path):
    folder = write_run(tmp_path / "run", private=True, noise=0.8)
    run = record_of(folder)
    high = score_audit("consistent", 2.1)
    checks = (replace(high.checks[0], allowed=2.0), *high.checks[1:])
    lucky = replace(one_run_record(run), audit=replace(high, claim_mu=2.0, checks=checks))
    record = audited(folder, one_run=lucky, membership=membership_audit(run)).record
    line = record.line("implementation")
    assert line.colour == "green"
    assert "the lower end of the interval is what is compared" in line.words
    card = section_audit.line_cards(record)[2]
    assert card.value == "μ 1.93 to 2.25"
    pictures = section_audit.sections(audits.read(folder, run))[1].pictures
    captions = " ".join(picture.caption for picture in pictures)
    assert "have to stay left" not in captions
    assert "none may lie right of it as a whole" in captions


def test_a_condition_on_attributes_that_were_not_inferred_is_met(tmp_path, capsys):
    folder = write_run(tmp_path / "run", private=False)
    for text in ("advantage > 0.1", "sex/embedding/advantage > 0.1", "attributes/sex/gradient/auroc > 0.6"):
        words = ["audit", str(folder), "--parts", "attributes", "-q", "--overwrite", "--fail-if", text]
        with pytest.MonkeyPatch.context() as patch:
            known = parts.REGISTRY["attributes"]
            patch.setitem(parts.REGISTRY, "attributes", replace(known, obstacle=lambda run, data: "left out"))
            assert command(words) == 5
        assert "has no number (left out)" in capsys.readouterr().err


def test_an_unknown_condition_is_refused_before_anything_is_written(tmp_path):
    folder = write_run(tmp_path / "run", private=True)
    for text in ("luck > 1", "rank1@n=10 > 0.2", "sex/embedding/advantage > 0.1"):
        words = ["audit", str(folder), "--parts", "bounds", "-q", "--fail-if", text]
        assert command(words) == 2
        assert not (folder / "audit").exists()


def test_a_small_group_without_a_number_fails_only_a_condition_that_names_it(tmp_path):
    folder = write_run(tmp_path / "run", private=True, noise=3.0)
    run = record_of(folder)
    given = {"one_run": one_run_record(run), "membership": membership_audit(run)}
    assert audited(folder, **given, fail_if=("auc > 0.95",)).met == ()
    assert len(audited(folder, **given, fail_if=("sex=m/auc > 0.95",)).met) == 1


def test_registry_parts_say_which_keys_they_may_give(tmp_path):
    """Every key of a finding is covered by a name or pattern of its part."""
    from meninx.audit.conditions import Condition

    folder = write_run(tmp_path / "run", private=True, noise=0.8)
    run = record_of(folder)
    record = audited(folder, one_run=one_run_record(run), membership=membership_audit(run)).record
    for part in record.parts:
        known = part_rules.patterns_of(part.name)
        for item in part.findings:
            condition = Condition(item.key, ">", 1.0)
            assert any(condition.may_name(key) for key in known), item.key
    fresh = write_run(tmp_path / "fresh", private=True, noise=0.8)
    plan = AuditConfig.of(parts=["attributes"], dry_run=True)
    assert stage.run(plan, fresh).planned[0].name == "attributes"


def test_the_figure_of_a_run_per_case_does_not_call_its_line_a_bound_for_a_patient(tmp_path):
    folder = write_run(tmp_path / "images", private=True, noise=40.0, unit="case")
    run = record_of(folder)
    audited(folder, one_run=one_run_record(run), plan={"parts": ["bounds", "one-run"]})
    captions = [item.caption for item in audit_figures.pictures(audits.read(folder, run), "audit")]
    assert any("is the proven bound for one case" in text for text in captions)
    assert any("for one case and not for a patient" in text for text in captions)
    assert not any("bound for one patient" in text for text in captions)
