"""The dossier: facts with their files, the same numbers everywhere, nothing of a patient, and refusals."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import dossier_samples as samples
import jsonschema
import pytest
from report_samples import PLANTED, write_dataset, write_deid

from meninx.core import artifacts, files, integrity, plain, signing_key
from meninx.core.artifacts import RunState
from meninx.core.audit_records import MechanismCheck, MembershipAudit, OneRunRecord
from meninx.core.audit_summary import AuditRecord
from meninx.core.dossier_records import NOT_SHOWN, Decision, Fact
from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.dossier import dossier_pdf, identifier_search, schema, stage
from meninx.dossier.config import DossierConfig
from meninx.dossier.facts import NONE, every, shown
from meninx.report import stage as pages
from meninx.report.config import ReportConfig


def config(**settings: object) -> DossierConfig:
    return DossierConfig.of(**{"date": samples.DATE, **settings})


def everything(folder: Path) -> str:
    """Return all names and contents of a folder, with the text of its PDF."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    pieces = [f"{path.name}\n{path.read_bytes().decode('latin-1')}" for path in paths]
    return "\n".join([*pieces, samples.pdf_text((folder / "dossier.pdf").read_bytes()).replace("\n", "")])


def test_every_fact_names_its_file_with_its_digest_or_says_that_it_is_not_shown(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    record = samples.record_of(folder)
    known = {item.path: item.sha256 for item in record.evidence}
    facts = list(every(record.parts))
    assert len(facts) > 100
    for fact in facts:
        assert fact.value != "", fact.key
        if fact.shown:
            assert known[fact.source] == fact.sha256 == files.digest(folder / fact.source)
        else:
            assert (fact.value, fact.sha256) == (NOT_SHOWN, NOT_SHOWN)
            assert fact.remark, fact.key
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == (
        set(known)
        | {"dossier.json", "dossier.html", "dossier.pdf", "ro-crate-metadata.json", "dossier.schema.json"}
        | {"decision.json", "checksums.sha256", "signature.json"}
    )
    assert record.fact("guarantee/epsilon").value == pytest.approx(4.6444, abs=1e-3)
    assert record.fact("membership/rmia/tpr@0.01").remark.startswith("too few non-members")


def test_page_and_pdf_show_the_numbers_of_the_json(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    record = samples.record_of(folder)
    squeezed = "".join(samples.pdf_text((folder / "dossier.pdf").read_bytes()).split())
    page = (folder / "dossier.html").read_text()
    for fact in every(record.parts):
        for piece in dossier_pdf._pieces([(shown(fact), "strong")]):  # a long cell is drawn in several rows
            assert all("".join(text.split()) in squeezed for text, _ in piece), fact.key
        assert (
            shown(fact)
            .replace("&", "&amp;")
            .replace('"', "&#34;")
            .replace("'", "&#39;")
            .replace("<", "&lt;")
            .replace(">", "&gt;")
            in page
        ), fact.key
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_nothing_of_a_patient_gets_in(tmp_path: Path):
    root = tmp_path / PLANTED / "project"
    given = samples.sources(root)
    for folder in given:
        room = folder / "private" / PLANTED
        room.mkdir(parents=True)
        (room / f"{PLANTED}.json").write_text(json.dumps({PLANTED: [PLANTED]}))
        (folder / "private" / f"{PLANTED}.csv").write_text(f"patient_id,name\n{PLANTED},x\n")
    out = stage.run(config(), given, tmp_path / "dossier", key=tmp_path / PLANTED / "key").out
    found = everything(out)
    assert "MUSTERMANN" not in found.upper()
    assert "ERIKA" not in found.upper()
    assert "/home/" not in found
    members = json.loads((given[2] / "private" / "members.json").read_text())
    assert not any(name in found for name in members["train"])
    assert files.digest(given[1] / "manifest.csv") not in found
    assert artifacts.require(given[2], artifacts.DataRecord, fix="").digest not in found
    assert not [path for path in out.rglob("*") if path.name == "private"]


@pytest.mark.usefixtures("no_pdf")
def test_a_run_whose_dataset_was_moved_is_named_where_identifiers_are_counted(tmp_path: Path):
    given = samples.sources(tmp_path)
    data = artifacts.require(given[2], artifacts.DataRecord, fix="")
    place = given[1].resolve()
    artifacts.write(given[2], replace(data, dataset=str(place)))
    assert "not where it was" not in stage.run(config(), given, tmp_path / "here").summary()
    artifacts.write(given[2], replace(data, dataset=str(place.with_name("moved"))))
    text = stage.run(config(), given, tmp_path / "gone").summary()
    assert f"warning: the dataset of {given[2].name} is not where it was" in text
    assert str(tmp_path / "moved") not in text


@pytest.mark.usefixtures("no_pdf")
def test_a_record_that_names_a_patient_is_refused(tmp_path: Path):
    *others, run = samples.sources(tmp_path / "project")
    record = artifacts.require(run, OneRunRecord, fix="")
    named = replace(record, origin=replace(record.origin, command=("meninx", "audit", PLANTED)))
    artifacts.write(run, named)
    samples.summarize(run)
    with pytest.raises(PrivacyRefusal, match=r"identifier of a patient \((run/audit/one_run|run)") as error:
        stage.run(config(), [*others, run], tmp_path / "dossier")
    assert "MUSTERMANN" not in str(error.value)
    assert not list(tmp_path.glob("*dossier*"))


def test_equal_inputs_give_equal_bytes(tmp_path: Path):
    given = samples.sources(tmp_path / "project")
    key = tmp_path / "key"
    first, second = (stage.run(config(), given, tmp_path / name, key=key).out for name in ("a", "b"))
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_the_record_fits_its_published_schema(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    assert schema.text() == schema.made()
    table = json.loads((folder / "dossier.schema.json").read_text())
    record = json.loads((folder / "dossier.json").read_text())
    jsonschema.validate(record, table)
    jsonschema.validate(
        json.loads((folder / "decision.json").read_text()), {**table, "$ref": "#/$defs/Decision"}
    )
    for change in ({"title": None}, {"more": 1}, {"parts": [{"key": "x"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**record, **change}, table)


def test_other_programs_read_the_crate(tmp_path: Path):
    from rocrate.rocrate import ROCrate

    folder = samples.a_copy(tmp_path)
    crate = ROCrate(folder)
    record = samples.record_of(folder)
    assert crate.mainEntity.id == "dossier.json"
    digests = {item.id: item.get("sha256") for item in crate.data_entities}
    assert {item.path: item.sha256 for item in record.evidence}.items() <= digests.items()


def test_every_heading_has_evidence_or_an_open_question_and_nothing_claims_conformity(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    record = samples.record_of(folder)
    facts = {fact.key: fact for fact in every(record.parts)}
    norms = {heading.norm for heading in record.headings}
    assert {norm.split()[0] for norm in norms} == {"SATRE", "EDPB", "GDPR", "EU", "NIST"}
    for heading in record.headings:
        assert heading.question.endswith(("?", "none."))
        assert all(facts[key].shown for key in heading.evidence)
        assert not any(key in facts and facts[key].shown for key in heading.missing)
    text = (folder / "dossier.html").read_text().casefold()
    assert "compliant" not in text
    assert "conforms" not in text
    assert "anonymous" not in text
    assert "open question for a person" in text


def test_every_key_of_a_heading_is_a_fact_that_some_dossier_has(tmp_path: Path):
    known = {fact.key for fact in every(samples.record_of(samples.a_copy(tmp_path)).parts)}
    asked = {key for item in samples.record_of(tmp_path / "dossier").headings for key in item.missing}
    assert asked - known == {"model/loss"}  # of runs with a bundle


def test_every_number_of_the_audit_comes_with_its_null_its_bound_and_its_sample(tmp_path: Path):
    record = samples.record_of(samples.a_copy(tmp_path))
    found = record.fact("audit/finding/membership/rmia/auc")
    assert (found.value, found.low, found.high) == (0.53, 0.45, 0.61)
    assert found.source == "run/audit/audit.json"
    assert found.remark == (
        "green, measured; the attack is no better than chance; another attack may be; null 0.5; "
        "the guarantee allows 0.737; n = 240 patients"
    )
    unknown = record.fact("audit/finding/membership/rmia/tpr@fpr=0.01")
    assert unknown.value == NOT_SHOWN
    assert "too few non-members" in unknown.remark
    assert record.fact("audit/line/measured").value == "amber: nothing found, weak test"
    assert "The line measured of the audit is amber: nothing found, weak test." in record.warnings
    assert "before any result existed" in record.fact("audit/plan").remark


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: artifacts.write(run, samples.one_run(samples.origin_of(run), control="consistent")),
            "is older than one_run.json, which was made again or changed"),
        (lambda run: (run / "audit" / "membership.json").unlink(), "names membership.json, which is missing"),
        (lambda run: (run / "audit" / "plan.toml").write_text("canaries = 5\n"), "was made by another plan"),
    ],
)  # fmt: skip
def test_a_summary_that_is_older_than_its_parts_is_refused(tmp_path: Path, change: object, words: str):
    *others, run = samples.sources(tmp_path / "project")
    change(run)  # type: ignore[operator]
    with pytest.raises(DataError, match=words):
        stage.run(config(), [*others, run], tmp_path / "dossier")


@pytest.mark.parametrize(("kind", "name"), [(OneRunRecord, "one_run"), (MembershipAudit, "membership")])
def test_the_audit_of_another_run_is_refused(tmp_path: Path, kind: type, name: str):
    *others, run = samples.sources(tmp_path / "project")
    record = artifacts.require(run, kind, fix="")
    artifacts.write(run, replace(record, origin=replace(record.origin, run="f" * 32)))
    samples.summarize(run)
    with pytest.raises(DataError, match=f"is about another run .run/audit/{name}"):
        stage.run(config(), [*others, run], tmp_path / "dossier")
    artifacts.write(run, replace(record, origin=replace(record.origin, weights="f" * 64)))
    samples.summarize(run)
    with pytest.raises(DataError, match=f"is about other weights .run/audit/{name}"):
        stage.run(config(), [*others, run], tmp_path / "dossier")
    assert not list(tmp_path.glob("*dossier*"))


@pytest.mark.usefixtures("no_pdf")
def test_what_was_not_made_is_not_shown_and_named_before_all_else(tmp_path: Path):
    run = samples.a_run(tmp_path / "run", audited=False)
    result = stage.run(config(), [run], tmp_path / "dossier")
    record = result.record
    for key in ("implementation/verdict", "membership/verdict", "deid/profile", "dataset/cases"):
        assert record.fact(key).value == NOT_SHOWN
    assert any("No membership attack" in item for item in record.warnings)
    assert any("No proven bounds" in item for item in record.warnings)
    assert any("de-identification" in item for item in record.warnings)
    assert record.signer == "unsigned"
    assert "not signed" in result.summary()
    assert "no check" not in (result.out / "dossier.html").read_text().casefold().split("at a glance")[0]


@pytest.mark.usefixtures("no_pdf")
@pytest.mark.parametrize(
    ("one_run", "attack", "words"),
    [
        (("refuted", "refuted"), "nothing found", "The audit with canaries says: refuted."),
        (("consistent", "consistent"), "nothing found", "positive control"),
        (("consistent", "refuted"), "exposed", "The membership attacks say: exposed."),
    ],
)
def test_what_audits_found_stands_before_all_else(
    tmp_path: Path, one_run: tuple[str, str], attack: str, words: str
):
    run = samples.a_run(tmp_path / "run")
    artifacts.write(run, samples.one_run(samples.origin_of(run), *one_run))
    artifacts.write(run, samples.membership(samples.origin_of(run), attack))
    samples.summarize(run)
    result = stage.run(config(), [run], tmp_path / "dossier")
    assert any(words in item for item in result.record.warnings)
    assert f"warning: {next(item for item in result.record.warnings if words in item)}" in result.summary()


@pytest.mark.usefixtures("no_pdf")
def test_a_run_without_privacy_and_a_seeded_one_promise_nothing(tmp_path: Path):
    plain_run = samples.a_run(tmp_path / "plain", private=False, audited=False)
    record = stage.run(config(), [plain_run], tmp_path / "a").record
    assert record.fact("guarantee/epsilon").value == record.fact("selection/epsilon").value == NOT_SHOWN
    assert any("without differential privacy" in item for item in record.warnings)
    seeded = samples.a_run(tmp_path / "seeded", deterministic=True, audited=False)
    record = stage.run(config(), [seeded], tmp_path / "b").record
    assert record.fact("guarantee/epsilon").value == record.fact("selection/epsilon").value == "infinite"
    assert any("came from a seed" in item for item in record.warnings)


@pytest.mark.usefixtures("no_pdf")
def test_counts_stay_hidden_where_a_number_of_units_was_declared(tmp_path: Path):
    given = samples.sources(tmp_path / "project", declared=40)
    out = stage.run(config(), given, tmp_path / "dossier").out
    record = samples.record_of(out)
    assert record.fact("guarantee/units").value == 40
    for key in ("dataset/cases", "dataset/patients", "deid/1/patients", "deid/1/written"):
        fact = record.fact(key)
        assert fact.value == NOT_SHOWN
        assert "declared" in fact.remark
    extract = json.loads((out / "data" / "dataset.json").read_text())
    assert extract["cases"] is extract["patients"] is extract["splits"] is None


@pytest.mark.usefixtures("no_pdf")
def test_the_choice_among_runs_is_stated_with_its_joint_cost(tmp_path: Path):
    data = write_dataset(tmp_path / "data")
    runs = [samples.a_run(tmp_path / f"run-{name}", dataset=data, audited=False) for name in "abc"]
    open_run = samples.a_run(
        tmp_path / "run-d", dataset=data, audited=False, state=RunState.TRAINING, steps=20
    )
    given = [data, *runs, open_run]
    with pytest.raises(UsageError, match="3 finished runs were given"):
        stage.run(config(), given, tmp_path / "dossier")
    with pytest.raises(UsageError, match="expected one finished run of this name, got none"):
        stage.run(config(release="run-x"), given, tmp_path / "dossier")
    record = stage.run(config(release="run-b"), given, tmp_path / "dossier").record
    (tmp_path / "latest").symlink_to(tmp_path / "run-b")
    for path in (tmp_path / "run-b", tmp_path / "latest"):
        named = config(release=str(path), overwrite=True)
        assert stage.run(named, given, tmp_path / "dossier").record.run == record.run
    own, joint = (record.fact(key).value for key in ("guarantee/epsilon", "selection/epsilon"))
    assert joint > 1.7 * own
    assert record.fact("lineage/study").value == NONE
    assert record.fact("selection/composed").value == 4
    assert record.fact("selection/candidates").value == 3
    assert record.fact("selection/better").value == 0
    assert record.fact("selection/inside").value == record.fact("selection/by").value == NOT_SHOWN
    for split, words in (("valid", "the valid split no"), ("train", "no: a number of the training split")):
        stated = config(release="run-b", chosen_by="auroc", chosen_on=split, overwrite=True)
        record = stage.run(stated, given, tmp_path / "dossier").record
        assert words in record.fact("selection/inside").value
    plain_run = samples.a_run(tmp_path / "plain", private=False, dataset=data, audited=False)
    record = stage.run(stated, [*given, plain_run], tmp_path / "dossier").record
    assert record.fact("selection/inside").value == "no: 1 of the 4 candidates were trained without privacy"


@pytest.mark.usefixtures("no_pdf")
def test_a_key_is_made_once_outside_the_dossier_and_for_its_owner_alone(tmp_path: Path):
    run = samples.a_run(tmp_path / "run", audited=False)
    key = tmp_path / "keys" / "signing.key"
    result = stage.run(config(), [run], tmp_path / "dossier", key=key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    content = key.read_bytes()
    assert result.signer == signing_key.fingerprint(signing_key.public_bytes(signing_key.read(key)))
    assert result.signer in result.summary()
    stage.run(config(overwrite=True), [run], tmp_path / "dossier", key=key)
    assert key.read_bytes() == content
    assert content.splitlines()[1] not in b"".join(
        path.read_bytes() for path in (tmp_path / "dossier").rglob("*") if path.is_file()
    )
    with pytest.raises(UsageError, match="outside the dossier"):
        stage.run(config(overwrite=True), [run], tmp_path / "dossier", key=tmp_path / "dossier" / "key")
    key.chmod(0o644)
    with pytest.raises(PrivacyRefusal, match="others may read the secret key"):
        stage.run(config(overwrite=True), [run], tmp_path / "dossier", key=key)
    other = tmp_path / "other.key"
    files.write_bytes(other, b"no key", mode=0o600)
    with pytest.raises(DataError, match="not a key"):
        stage.run(config(overwrite=True), [run], tmp_path / "dossier", key=other)


@pytest.mark.usefixtures("no_pdf")
def test_the_output_appears_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = samples.a_run(tmp_path / "run", audited=False)
    out = tmp_path / "dossier"
    plan = stage.run(config(dry_run=True), [run], out, key=tmp_path / "key")
    assert "dry run" in plan.summary()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    stage.run(config(), [run], out)
    before = integrity.digest_of(out)
    with pytest.raises(UsageError, match="holds a dossier already"):
        stage.run(config(), [run], out)
    monkeypatch.setattr(stage.crate, "write", lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
    with pytest.raises(RuntimeError, match="stopped"):
        stage.run(config(overwrite=True, title="New"), [run], out)
    assert integrity.digest_of(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dossier", "run"]
    monkeypatch.undo()
    assert stage.run(config(overwrite=True, title="New"), [run], out).record.title == "New"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dossier", "run"]


@pytest.mark.usefixtures("no_pdf")
def test_other_folders_are_not_written_to(tmp_path: Path):
    run = samples.a_run(tmp_path / "run", audited=False)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for out in (other, run / "dossier", run / "release", tmp_path):
        with pytest.raises(UsageError):
            stage.run(config(overwrite=True), [run], out)
    assert (other / "thesis.txt").read_text() == "mine"
    with pytest.raises(UsageError):
        stage.run(config(), [write_deid(tmp_path / "deid", "north")], tmp_path / "new")


def test_hostile_text_stays_text(tmp_path: Path):
    run = samples.a_run(tmp_path / "run", audited=False)
    title = '<script>alert(1)</script><font color="[1]">&amp; \x1b[2J\u202egnp'
    out = stage.run(config(title=title, chosen_by="<img src=x>"), [run], tmp_path / "dossier").out
    page = (out / "dossier.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "<script>alert(1)</script>" in samples.pdf_text((out / "dossier.pdf").read_bytes()).replace(
        "\n", ""
    )
    jsonschema.validate(json.loads((out / "dossier.json").read_text()), json.loads(schema.text()))


def test_a_number_that_is_none_is_not_shown_and_a_huge_one_stays_finite(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    from meninx.dossier.facts import EvidenceFolder, FactList

    found = FactList(EvidenceFolder(folder), "x", "X")
    for name, value in {"nan": float("nan"), "none": None, "empty": "", "list": ()}.items():
        found.add(name, "words", value, "selection.json")
    found.add("infinite", "words", float("inf"), "selection.json", limits=(float("-inf"), float("nan")))
    found.add("huge", "words", 10**400, "selection.json")
    facts = {fact.key: fact for fact in found.part().facts}
    assert [facts[f"x/{name}"].value for name in ("nan", "none", "empty", "list")] == [NOT_SHOWN] * 4
    assert (facts["x/infinite"].value, facts["x/infinite"].low) == ("infinite", None)
    assert facts["x/huge"].value == str(10**400)
    assert "null" not in plain.to_json(Fact(key="a", words="b", value=1.0, low=1.0, high=2.0))


@pytest.mark.usefixtures("no_pdf")
def test_a_short_number_that_names_a_patient_is_found_in_the_texts_of_a_record(tmp_path: Path):
    run = samples.a_run(tmp_path / "run", members=("00012345",))
    record = artifacts.require(run, OneRunRecord, fix="")
    artifacts.write(run, replace(record, origin=replace(record.origin, command=("audit", "run-00012345"))))
    samples.summarize(run)
    with pytest.raises(PrivacyRefusal, match="identifier of a patient"):
        stage.run(config(), [run], tmp_path / "dossier")


@pytest.mark.usefixtures("no_pdf")
def test_a_run_whose_identity_is_a_path_is_refused(tmp_path: Path):
    run = samples.a_run(tmp_path / "run", audited=False, private=False)
    path = run / "run.json"
    table = json.loads(path.read_text())
    for kind in (artifacts.Lineage, artifacts.PrivacyRecord, artifacts.EvaluationRecord):
        other = run / artifacts.place(kind)
        other.write_text(other.read_text().replace(table["id"], "../../../../x"))
    listed = integrity.measured(run / "release", [p for p in (run / "release").rglob("*.*") if p.is_file()])
    listed.pop("checksums.sha256")
    table |= {"id": "../../../../x", "release": integrity.write(run / "release", listed)}
    table |= {"privacy": files.digest(run / "privacy.json")}
    path.write_text(json.dumps(table))
    with pytest.raises(DataError, match="a run has no identity of its own"):
        stage.run(config(), [run], tmp_path / "out" / "dossier")
    assert not list(tmp_path.rglob("x*"))


def test_a_text_that_is_longer_than_a_page_is_split(tmp_path: Path):
    from meninx.dossier import dossier_pdf

    record = samples.record_of(samples.a_copy(tmp_path))
    long = replace(
        record.parts[0].facts[0], value=tuple(f"setting {number} instead of K" for number in range(900))
    )
    part = replace(record.parts[0], facts=(long, *record.parts[0].facts[1:]))
    content = dossier_pdf.render(replace(record, parts=(part, *record.parts[1:])))
    assert "setting 899" in " ".join(samples.pdf_text(content).split())


@pytest.mark.parametrize(
    ("value", "last"),
    [
        (tuple("epsilon 8: dice 0.8123 (0.7012 to 0.9012), 3 seeds" for _ in range(60)), "3 seeds"),
        ("x" * 1_500, "x" * 20),
    ],
)
def test_a_list_and_a_word_that_are_higher_than_a_row_are_drawn(tmp_path: Path, value: object, last: str):
    from meninx.dossier import dossier_pdf

    record = samples.record_of(samples.a_copy(tmp_path))
    fact = replace(record.parts[0].facts[0], value=value)
    part = replace(record.parts[0], facts=(fact,))
    few = replace(record, parts=(part,), warnings=(*record.warnings, "y" * 6_000), headings=(), evidence=())
    text = " ".join(samples.pdf_text(dossier_pdf.render(few)).split())
    assert last in text
    assert text.count("dice 0.8123") in (0, 60)


def test_the_form_is_empty_and_names_every_question(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    form = artifacts.require(folder, Decision, fix="")
    record = samples.record_of(folder)
    assert form.decision == "open"
    assert set(form.answers) == {f"{item.norm}, {item.clause}" for item in record.headings}
    shutil.rmtree(folder)


def _other_summary(run: Path, **changes: object) -> None:
    artifacts.write(run, replace(artifacts.require(run, AuditRecord, fix=""), **changes))


@pytest.mark.usefixtures("no_pdf")
def test_a_summary_that_its_records_do_not_give_makes_no_page_and_no_dossier(tmp_path: Path):
    run = samples.a_run(tmp_path / "run")
    lines = artifacts.require(run, AuditRecord, fix="").lines
    _other_summary(run, lines=tuple(replace(line, colour="green", word="all is well") for line in lines))
    with pytest.raises(DataError, match="its line guaranteed is green, by the records"):
        stage.run(config(), [run], tmp_path / "dossier")
    with pytest.raises(DataError, match="its line guaranteed is green, by the records"):
        pages.run(ReportConfig(), [run], tmp_path / "report.html")
    assert not list(tmp_path.glob("*dossier*"))


@pytest.mark.usefixtures("no_pdf")
def test_a_verdict_that_its_numbers_do_not_give_makes_no_dossier(tmp_path: Path):
    run = samples.a_run(tmp_path / "run")
    for name in ("audit.json", "plan.json", "plan.toml"):
        (run / "audit" / name).unlink()
    exposed = samples.membership(samples.origin_of(run), "exposed")
    artifacts.write(run, replace(exposed, verdict="nothing found"))
    with pytest.raises(DataError, match=r"membership.json: its verdict does not follow"):
        stage.run(config(), [run], tmp_path / "dossier")


@pytest.mark.usefixtures("no_pdf")
def test_what_the_measured_noise_shows_counts_in_a_dossier(tmp_path: Path):
    run = samples.a_run(tmp_path / "run")
    less = MechanismCheck(
        noise=0.5, noise_low=0.49, noise_high=0.51, length=None, length_low=None, length_high=None,
        samples=1000, significance=0.001, refuted_by=("noise",),
    )  # fmt: skip
    enough = replace(less, noise=1.0, noise_low=0.99, noise_high=1.01, refuted_by=())
    quiet = samples.one_run(samples.origin_of(run), control="consistent")
    for noise, verdict, warning in ((less, "refuted", True), (enough, "consistent", False)):
        artifacts.write(run, replace(quiet, mechanism=noise, control_mechanism=less))
        samples.summarize(run)
        record = stage.run(config(overwrite=True), [run], tmp_path / "dossier").record
        assert record.fact("implementation/verdict").value == verdict
        assert record.fact("implementation/control").value == "refuted"
        assert record.fact("implementation/noise").value == noise.noise
        assert ("The audit with canaries says: refuted." in record.warnings) is warning
        assert not any("positive control" in item for item in record.warnings)


@pytest.mark.usefixtures("no_pdf")
def test_files_beside_an_old_dossier_are_named_and_stay(tmp_path: Path):
    run, out = samples.a_run(tmp_path / "run"), tmp_path / "dossier"
    stage.run(config(), [run], out)
    note = out / "notes" / "mine.txt"
    files.write_text(note, "x")
    with pytest.raises(UsageError, match=r"not its own: notes/mine.txt"):
        stage.run(config(overwrite=True), [run], out)
    assert note.read_text() == "x"
    note.unlink()
    form = out / "decision.json"
    form.write_text(form.read_text().replace('"open"', '"approve"'))
    with pytest.raises(UsageError, match=r"not its own: decision.json"):
        stage.run(config(overwrite=True), [run], out)
    assert '"approve"' in form.read_text()


@pytest.mark.parametrize(
    "title",
    ["id123456789", "MRN0012345a", "DOEJANE1", "mu\u0308llerin^eva", "Müllerin Eva", "x-MÜLLERIN_EVA-y"],
)
def test_an_identifier_is_found_however_it_is_written(title: str):
    index = identifier_search.IdentifierIndex(["123456789", "MRN0012345", "Doe^Jane_1", "Müllerin^Eva"])
    assert index.is_in(f"dossier of {title}.")


def test_digests_and_longer_numbers_name_nobody():
    index = identifier_search.IdentifierIndex(["123456789", "abcdef01", "deadbeef99"])
    for text in ("0.1234567891", "f" * 20 + "deadbeef99" + "0" * 34, "a" * 9 + "123456789" + "b" * 46):
        assert not index.is_in(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": "M\\u00fcllerin Eva"}'),
        ("a.html", "<p>M&uuml;llerin &#x45;va</p>"),
        ("a.html", "M\u0075\u0308llerin Eva"),
    ],
)
def test_an_escaped_identifier_is_found(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(PrivacyRefusal, match="identifier of a patient"):
        identifier_search.refuse(tmp_path, identifier_search.IdentifierIndex(["Müllerin^Eva"]))
