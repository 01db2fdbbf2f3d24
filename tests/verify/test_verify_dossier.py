"""`verify` of a dossier elsewhere: as it was written it passes, and every change is refused by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dossier_samples as samples
import pytest

from meninx.core import artifacts, files, integrity, plain, signing_key
from meninx.core.artifacts import RunRecord, SweepRecord
from meninx.core.audit_records import MembershipAudit, OneRunRecord
from meninx.core.audit_summary import AuditRecord, EarlierPlan, PlanRecord
from meninx.core.dossier_records import Decision, DossierRecord
from meninx.core.errors import MeninxError, UsageError
from meninx.core.identity_records import IdentityAudit, LinkRecord
from meninx.core.risk_records import BoundsRecord
from meninx.dossier import derivation, dossier_pdf, signature
from meninx.dossier import stage as dossiers
from meninx.dossier.config import DossierConfig
from meninx.verify import stage
from meninx.verify.check_list import State


@pytest.fixture(autouse=True)
def cheap_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the PDF of one record be drawn once: it takes nine tenths of a check."""
    monkeypatch.setattr(dossier_pdf, "render", samples.drawn_once)


def failed(folder: Path, **known: object) -> str:
    """Return the lines that are not ok."""
    checks = stage.run(folder, **known).checks
    return "\n".join(check.line() for check in checks if check.state is State.NOT_OK)


def forged(folder: Path) -> None:
    """Make all digests again and sign with another key, as somebody without the signer's key would."""
    samples.listed_again(folder)
    key = signing_key.made_or_read(folder.parent / "forger.key")
    signature.write(folder, key, samples.record_of(folder).run)


def test_a_dossier_as_it_was_written_passes_elsewhere(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    signer = samples.record_of(folder).signer
    result = stage.run(
        folder, signer=" ".join(signer[place : place + 4] for place in range(0, 64, 4)).upper()
    )
    assert (result.ok, result.exit_code, result.kinds) == (True, 0, ("dossier",))
    lines = {check.what: check for check in result.checks}
    made = (
        "files against checksums.sha256",
        "signature",
        "signer",
        "epsilon from the ledgers",
        "facts from the files",
        "bounds from the ledger",
        "documents against dossier.json",
    )
    for what in made:
        assert lines[what].state is State.OK, what
    assert "4.644" in lines["epsilon from the ledgers"].line()
    assert "could not be made" in result.summary()
    unseen = [check.why for check in result.checks if check.state is State.NOT_POSSIBLE]
    assert any("whoever holds the run" in why for why in unseen)


def _is_signed(folder: Path) -> bool:
    try:
        found = signature.read(folder)
    except MeninxError:
        return False
    return found is not None and found.checksums == integrity.digest_of(folder)


def test_a_changed_byte_in_any_file_is_named(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        name = path.relative_to(folder).as_posix()
        if name in ("checksums.sha256", "signature.json"):
            assert not _is_signed(folder), name
        else:
            book = stage.CheckList("")
            stage.folder_checks.digests(
                book, folder, "", leave_out=("signature.json",), progress=stage.SILENT
            )
            assert f"1 file changed: {name}" in book.checks[0].line()
        path.write_bytes(content)


def _added_and_listed(folder: Path) -> None:
    (folder / "note.txt").write_text("x")
    samples.listed_again(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "note.txt").write_text("x"), "1 file not in the list: note.txt"),
        (lambda folder: (folder / "release" / "a").symlink_to("/etc/hosts"), "holds no links: release/a"),
        (lambda folder: (folder / "run" / "audit" / "membership.json").unlink(), "1 file missing"),
        (lambda folder: (folder / "signature.json").unlink(), "signature.json is missing"),
        (_added_and_listed, "checksums.sha256 is not the list that was signed"),
    ],
)  # fmt: skip
def test_no_file_is_added_or_removed_unseen(tmp_path: Path, change: Callable[[Path], object], words: str):
    folder = samples.a_copy(tmp_path)
    change(folder)
    assert words in failed(folder)


def _other_epsilon(folder: Path) -> None:
    text = (folder / "dossier.json").read_text()
    table = json.loads(text)
    for part in table["parts"]:
        for fact in part["facts"]:
            if fact["key"] in ("guarantee/epsilon", "guarantee/own_epsilon", "selection/epsilon"):
                fact["value"] = 0.5
    (folder / "dossier.json").write_text(json.dumps(table))


def _other_verdict(folder: Path) -> None:
    record = samples.record_of(folder)
    parts = tuple(
        replace(part, facts=tuple(replace(fact, value="consistent") for fact in part.facts))
        if part.key == "membership"
        else part
        for part in record.parts
    )
    artifacts.write(folder, replace(record, parts=parts))


def _no_warnings(folder: Path) -> None:
    artifacts.write(folder, replace(samples.record_of(folder), warnings=("all is well",)))


def _swapped(folder: Path, kind: type[OneRunRecord] | type[MembershipAudit]) -> None:
    record = artifacts.require(folder / "run", kind, fix="")
    artifacts.write(folder / "run", replace(record, origin=replace(record.origin, run="e" * 32)))


def _bounds(folder: Path, change: Callable[[BoundsRecord], BoundsRecord]) -> None:
    record = artifacts.require(folder / "run" / "audit", BoundsRecord, fix="")
    artifacts.write(folder / "run" / "audit", change(record))


def _lower_bound(record: BoundsRecord) -> BoundsRecord:
    point = record.operating
    assert point is not None
    found = point.worst["1 of 10"]
    worst = point.worst | {
        "1 of 10": replace(found, lower=found.lower / 2, value=found.value / 2, upper=found.upper / 2)
    }
    return replace(record, operating=replace(point, worst=worst))


def _lower_auc(record: BoundsRecord) -> BoundsRecord:
    assert record.membership is not None
    auc = replace(record.membership.auc, lower=0.5, value=0.51, upper=0.52)
    return replace(record, membership=replace(record.membership, auc=auc))


def _other_prior(record: BoundsRecord) -> BoundsRecord:
    return replace(record, priors=tuple(replace(item, kappa=item.kappa / 10) for item in record.priors))


def _other_axis(record: BoundsRecord) -> BoundsRecord:
    first = replace(record.points[0], noise_multiplier=(record.points[0].noise_multiplier or 1) * 5)
    return replace(record, points=(first, *record.points[1:]))


def _cut_ledger(folder: Path) -> None:
    path = next(folder.glob("runs/*/ledger.jsonl"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:30]))


def _edited_ledger(folder: Path) -> None:
    path = next(folder.glob("runs/*/ledger.jsonl"))
    path.write_text(path.read_text().replace('"noise_multiplier":1.0', '"noise_multiplier":9.0'))


def _other_run(folder: Path) -> None:
    record = artifacts.require(folder / "run", RunRecord, fix="")
    artifacts.write(folder / "run", replace(record, id="a" * 32))


def _other_page(folder: Path) -> None:
    path = folder / "dossier.html"
    path.write_text(path.read_text().replace("4.644", "0.644"))


def _other_crate(folder: Path) -> None:
    path = folder / "ro-crate-metadata.json"
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0'))


def _made_again(folder: Path) -> None:
    """Derive the dossier again from changed evidence, as the program would."""
    old = samples.record_of(folder)
    again = derivation.derived(folder, title=old.title, date=old.date, signer=old.signer, made_by=old.made_by)
    dossiers._write_documents(folder, again)


def _summary(folder: Path, change: Callable[[AuditRecord], AuditRecord]) -> None:
    artifacts.write(folder / "run", change(artifacts.require(folder / "run", AuditRecord, fix="")))
    _made_again(folder)


def _green_lines(record: AuditRecord) -> AuditRecord:
    return replace(
        record,
        lines=tuple(
            replace(line, colour="green", words="Epsilon 0.1: all is well.") for line in record.lines
        ),
    )


def _halved_findings(record: AuditRecord) -> AuditRecord:
    return replace(
        record,
        parts=tuple(
            replace(
                part,
                findings=tuple(
                    replace(item, value=0.5, low=0.4, high=0.6) if item.key.endswith("rmia/auc") else item
                    for item in part.findings
                ),
            )
            for part in record.parts
        ),
    )


def _other_membership_verdict(folder: Path) -> None:
    for name in ("audit.json", "plan.json", "plan.toml"):
        (folder / "run" / "audit" / name).unlink()
    record = artifacts.require(folder / "run", MembershipAudit, fix="")
    attacks = tuple(replace(item, auc=0.9, auc_high=0.95, p_value=0.001) for item in record.attacks)
    artifacts.write(folder / "run", replace(record, attacks=attacks))
    _made_again(folder)


def _earlier_plan(folder: Path) -> None:
    """Say that the plan took the place of one with results, and was made before any."""
    record = artifacts.require(folder / "run", PlanRecord, fix="")
    earlier = EarlierPlan(sha256="a" * 64, registered="2026-11-19T09:00:00+00:00", results=True)
    plan = replace(record, earlier=(earlier,))
    artifacts.write(folder / "run", plan)
    _summary(folder, lambda summary: replace(summary, plan=plan))


FORGERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "epsilon": (_other_epsilon, "guarantee/epsilon: stated 0.5, by the ledgers 4.644"),
    "verdict": (_other_verdict, "facts do not follow from the files: membership/"),
    "warnings": (_no_warnings, "its warnings do not follow from the files"),
    "audit with canaries of another run": (
        lambda folder: _swapped(folder, OneRunRecord),
        "run/audit/one_run.json is about another run",
    ),
    "attacks on another run": (
        lambda folder: _swapped(folder, MembershipAudit),
        "run/audit/membership.json is about another run",
    ),
    "summary of an older audit": (
        lambda folder: artifacts.write(
            folder / "run", samples.one_run(samples.origin_of(folder / "run"), control="consistent")
        ),
        "run/audit/audit.json is older than one_run.json",
    ),
    "bound": (lambda folder: _bounds(folder, _lower_bound), "operating point, 1 of 10, worst case"),
    "bound on membership": (lambda folder: _bounds(folder, _lower_auc), "membership, AUC"),
    "prior": (lambda folder: _bounds(folder, _other_prior), "the blind guess of 1 of"),
    "axis": (lambda folder: _bounds(folder, _other_axis), "epsilon 1, 1 of"),
    "ledger cut": (_cut_ledger, "not the one in release/lineage.json"),
    "ledger edited": (_edited_ledger, "the line was changed"),
    "run": (_other_run, "run.json is of another run than the one that was chosen"),
    "page": (_other_page, "dossier.html shows something else"),
    "crate": (_other_crate, "does not name"),
    "green lines": (
        lambda folder: _summary(folder, _green_lines),
        "its line measured is green, by the records amber",
    ),
    "halved findings": (
        lambda folder: _summary(folder, _halved_findings),
        "its findings of membership do not follow",
    ),
    "no open ends": (
        lambda folder: _summary(folder, lambda record: replace(record, not_tested=("Nothing.",))),
        "its not tested do not follow from the records",
    ),
    "registration": (
        lambda folder: _summary(
            folder, lambda record: replace(record, plan=replace(record.plan, registered="2026-01-01"))
        ),
        "it states another registration of the plan than plan.json",
    ),
    "plan after results": (_earlier_plan, "took the place of one with results"),
    "verdict of attacks": (
        _other_membership_verdict,
        "audit/membership.json: its verdict does not follow from its numbers",
    ),
    "release": (
        lambda folder: files.write_text(folder / "release" / "bundle" / "models" / "model.pt", "other"),
        "release against the run's own list",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_with_new_digests_and_another_key_is_named(tmp_path: Path, name: str):
    folder = samples.a_copy(tmp_path)
    signer = samples.record_of(folder).signer
    change, words = FORGERIES[name]
    change(folder)
    forged(folder)
    found = failed(folder, signer=signer)
    assert words in found
    assert "another key signed it" in found
    assert stage.run(folder).exit_code in (3, 4)


def test_an_unsigned_dossier_says_so_and_fits_no_signer(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    (folder / "signature.json").unlink()
    signer = samples.record_of(folder).signer
    artifacts.write(folder, replace(samples.record_of(folder), signer="unsigned"))
    samples.listed_again(folder)
    lines = {check.what: check for check in stage.run(folder).checks}
    assert lines["signature"].state is State.NOT_POSSIBLE
    assert "unsigned" in lines["signature"].why
    assert "signature.json is missing" in failed(folder, signer=signer)


def test_a_signer_belongs_to_a_dossier_and_has_64_digits(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        stage.run(folder, signer="abc")
    shutil.copytree(folder / "release", tmp_path / "release")
    with pytest.raises(UsageError, match="belongs to a dossier"):
        stage.run(tmp_path / "release", signer="a" * 64)


def test_a_record_of_a_later_format_or_of_another_form_is_refused(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    path = folder / "dossier.json"
    table = json.loads(path.read_text())
    for change, words in (
        ({"version": 99}, "a record of format"),
        ({"parts": [{"key": 1}]}, "a file as this version writes it"),
        ({"title": float("nan")}, "not valid JSON"),
    ):
        path.write_text(json.dumps({**table, **change}))
        assert words in failed(folder)
    path.write_text('{"title": ' + "[" * 100_000)
    assert "dossier.json (" in failed(folder)


def _filled(folder: Path, **fields: object) -> Path:
    form = artifacts.require(folder, Decision, fix="")
    given = {"checker": "A. Checker", "role": "output checker", "date": "2026-11-28", **fields}
    path = folder.parent / "answer.json"
    path.write_text(plain.to_json(replace(form, dossier=integrity.digest_of(folder), **given)))
    return path


def test_a_decision_is_complete_and_about_this_dossier(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    good = stage.run(folder, decision=_filled(folder, decision="approve"))
    assert good.ok
    assert "approve; " in next(check.why for check in good.checks if check.what == "decision")
    for fields, words in (
        ({}, "still open"),
        ({"decision": "refuse"}, "names no reason"),
        ({"decision": "approve with conditions"}, "names no condition"),
        ({"decision": "approve", "checker": " "}, "lacks checker"),
        ({"decision": "approve", "answers": {"x": "y"}}, "its questions are not those"),
        ({"decision": "maybe"}, "a file as this version writes it"),
    ):
        assert words in failed(folder, decision=_filled(folder, **fields))
    other = _filled(folder, decision="approve")
    table = json.loads(other.read_text()) | {"dossier": "0" * 64}
    other.write_text(json.dumps(table))
    assert "about another dossier" in failed(folder, decision=other)
    assert artifacts.require(folder, DossierRecord, fix="").version == 1


def _other_folder(folder: Path) -> None:
    path = folder / "selection.json"
    table = json.loads(path.read_text())
    table["candidates"][0]["folder"] = "../../elsewhere"
    path.write_text(json.dumps(table))


def _unknown_choice(folder: Path) -> None:
    path = folder / "selection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chosen": "b" * 32}))


def _odd_groups(folder: Path) -> None:
    path = folder / "selection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"assumed": []}))


def _odd_bounds(folder: Path) -> None:
    path = folder / "run" / "audit" / "bounds.json"
    table = json.loads(path.read_text())
    table["operating"]["worst"] = {}
    path.write_text(json.dumps(table))


def _odd_evaluation(folder: Path) -> None:
    path = folder / "release" / "evaluation.json"
    table = json.loads(path.read_text())
    table["evaluation"]["metrics"][0]["value"] = {"a": [None]}
    path.write_text(json.dumps(table))


def _odd_ledger(folder: Path) -> None:
    path = next(folder.glob("runs/*/ledger.jsonl"))
    path.write_text('{"index":"x","hash":"y"}\n')


def _outside_list(folder: Path) -> None:
    path = folder / "release" / "checksums.sha256"
    path.write_text(f"{'0' * 64}  ../../secret\n")


def _long_name(folder: Path) -> None:
    path = folder / "release" / "checksums.sha256"
    path.write_text(f"{'0' * 64}  {'a/' * 1900}a\n")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a folder elsewhere": _other_folder,
    "a run that is not there": _unknown_choice,
    "groups that do not fit": _odd_groups,
    "bounds without adversaries": _odd_bounds,
    "an evaluation of another form": _odd_evaluation,
    "a ledger of another form": _odd_ledger,
    "a list that leads out": _outside_list,
    "a list with a path that is too long": _long_name,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_become_lines(tmp_path: Path, name: str):
    folder = samples.a_copy(tmp_path)
    HOSTILE[name](folder)
    forged(folder)
    result = stage.run(folder)
    assert not result.ok
    assert "elsewhere" not in result.summary()
    assert result.exit_code in (3, 4)


def test_a_link_in_a_dossier_is_not_followed(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    path = folder / "run" / "run.json"
    path.rename(tmp_path / "run.json")
    path.symlink_to(tmp_path / "run.json")
    assert "a dossier holds no links: run/run.json" in failed(folder)


def test_without_the_libraries_it_says_what_it_cannot_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = samples.a_copy(tmp_path)
    signer = samples.record_of(folder).signer
    gone = ("cryptography", "dp_accounting", "scipy", "reportlab")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in gone else find(name, *rest)
    )
    result = stage.run(folder)
    lines = {check.what: check for check in result.checks}
    assert result.ok
    assert "cryptography is not installed" in lines["signature"].why
    assert "dp_accounting, scipy is not installed" in lines["numbers computed again"].why
    assert "cryptography is not installed" in failed(folder, signer=signer)


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 1900 + "a", "a/" * 100 + "a", "../a", "a\x07b"])
def test_a_name_that_no_file_can_have_is_refused_by_rule(tmp_path: Path, name: str):
    folder = samples.a_copy(tmp_path)
    with (folder / "checksums.sha256").open("a") as stream:
        stream.write(f"{'0' * 64}  {name}\n")
    result = stage.run(folder)
    assert "checksums.sha256, line " in failed(folder)
    assert (result.ok, result.exit_code) == (False, 4)
    assert any(check.what == "epsilon from the ledgers" for check in result.checks)


def _of_another_version(folder: Path) -> None:
    record = samples.record_of(folder)
    artifacts.write(folder, replace(record, made_by={**record.made_by, "meninx": "9.9.9"}))


def test_a_dossier_of_another_version_is_not_called_verified(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    _of_another_version(folder)
    (folder / "signature.json").unlink()
    artifacts.write(folder, replace(samples.record_of(folder), signer="unsigned"))
    samples.listed_again(folder)
    result = stage.run(folder)
    assert (failed(folder), result.ok, result.exit_code) == ("", False, 3)
    assert "\nnot verified: made by another version" in result.summary()
    assert "another version" in result.in_full()
    assert "another version of meninx drew it, 9.9.9" in result.in_full()
    assert "all checks passed" not in result.summary()
    with pytest.raises(MeninxError):
        result.raise_if_failed()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("4.644", "0.644", "it shows another value of"),
        ("<h2", "<script>x</script><h2", "it holds script"),
        ("0.53 (0.45 to 0.61)", "0.5", "it shows another value of"),
    ],
)
def test_a_page_with_other_numbers_is_found_whatever_version_made_it(
    tmp_path: Path, old: str, new: str, words: str
):
    folder = samples.a_copy(tmp_path)
    _of_another_version(folder)
    page = folder / "dossier.html"
    page.write_text(page.read_text().replace(old, new))
    forged(folder)
    assert words in failed(folder)


_WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "monai"):
            raise ModuleNotFoundError(f"No module named {name}", name=name)
sys.meta_path.insert(0, Refuse())
from pathlib import Path
from meninx.verify import stage
print(stage.run(Path(sys.argv[1])).summary())
"""


def test_a_dossier_with_every_audit_is_verified_without_torch(tmp_path: Path):
    run = samples.a_run(tmp_path / "run")
    link = LinkRecord(
        attack="pixels", question="another image", probes=50, patients=20, gallery=50, p_at_1=0.08,
        p_at_1_low=0.02, p_at_1_high=0.2, chance=0.05, per_patient=0.2, per_patient_low=0.1,
        per_patient_high=0.3, auc=0.6, auc_low=0.5, auc_high=0.7, null_low=0.0, null_high=0.1, p_value=0.5,
    )  # fmt: skip
    identity = IdentityAudit(
        subject="dataset", links=(link,), floor=None, negative=(link,),
        positive=(replace(link, p_at_1=0.2, p_value=0.001),), reconstructions=(), fitted_patients=10,
        fitted_images=20, copies=0, grid=(8, 8), patients_known=True, synthetic=False, probes="",
        probes_data="", significance=0.05, seed=0, seconds=0.0, verdict="nothing found", reason="",
        origin=samples.origin_of(run),
    )  # fmt: skip
    artifacts.write(run, identity)
    out = dossiers.run(DossierConfig.of(date=samples.DATE), [run], tmp_path / "dossier").out
    found = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, str(out)], capture_output=True, text=True, check=False
    )
    assert found.stderr == ""
    assert "all checks passed" in found.stdout
    assert "audits from their records (bounds, one-run, membership, identity" in found.stdout


def test_a_run_is_checked_with_its_audit(tmp_path: Path):
    run = samples.a_run(tmp_path / "run")
    lines = {check.what: check for check in stage.run(run).checks}
    assert lines["audits from their records"].state is State.OK
    record = artifacts.require(run, AuditRecord, fix="")
    artifacts.write(run, _green_lines(record))
    assert "its line measured is green, by the records amber" in failed(run)
    artifacts.write(run, record)
    path = run / "audit" / "bounds.json"
    path.write_text(path.read_text() + "\n")
    assert "is older than bounds.json" in failed(run)


@pytest.mark.parametrize("kind", ["missing", "a folder"])
def test_a_dossier_without_its_list_is_refused(tmp_path: Path, kind: str):
    folder = samples.a_copy(tmp_path)
    (folder / "checksums.sha256").unlink()
    if kind == "a folder":
        (folder / "checksums.sha256").mkdir()
    result = stage.run(folder)
    assert not result.ok
    assert "checksums.sha256 is missing" in failed(folder)


@pytest.mark.parametrize("damaged_list", [False, True])
def test_a_huge_file_is_named_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged_list: bool
):
    folder = samples.a_copy(tmp_path)
    with (folder / "release" / "huge").open("wb") as stream:
        stream.truncate(3 << 30)
    if damaged_list:
        (folder / "checksums.sha256").write_text("no list")
    monkeypatch.setattr(files, "digest", lambda path: pytest.fail(f"{path.name} was read"))
    assert "larger than the record states, and nothing was read: release/huge" in failed(folder)
    with (folder / "release" / "huge").open("wb") as stream:
        stream.truncate(1 << 40)
    assert "more than 64 GiB" in failed(folder)


def test_a_sweep_that_names_further_runs_is_no_single_run(tmp_path: Path):
    folder = samples.a_copy(tmp_path)
    chosen = samples.record_of(folder).run
    rows = ({"epsilon": 8.0, "metric": "auroc", "mean": 0.8, "low": 0.7, "high": 0.9, "seeds": 1},)
    sweep = SweepRecord(rows=rows, together=None, runs=(chosen, "a" * 32, "b" * 32, "c" * 32))
    files.write_text(folder / "runs" / "sweep-1.json", plain.to_json(sweep))
    forged(folder)
    assert "3 runs that a sweep names are no candidates" in failed(folder)
    again = derivation.derived(folder, title="x", date="2026-11-28", signer="unsigned", made_by={})
    assert again.fact("selection/not_given").value == 3
    assert not again.fact("selection/inside").shown
