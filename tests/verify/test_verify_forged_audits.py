"""Every record of an audit: an edited verdict or number is found, also where all that follows was made again.

The forger edits one record, derives the summary, the facts and the documents from it as the program does,
lists all digests again and signs with another key.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import dossier_samples as samples
import part_samples
import pytest
from audit_samples import record_of

from meninx.audit import rederivation
from meninx.core import artifacts, audit_parts, files, signing_key
from meninx.core.artifacts import RunRecord
from meninx.core.audit_summary import AuditRecord
from meninx.dossier import derivation, dossier_pdf, signature
from meninx.dossier import stage as dossiers
from meninx.dossier.config import DossierConfig
from meninx.verify import stage
from meninx.verify.check_list import State

PARTS = ("bounds", "one-run", "membership", "reconstruction", "attributes", "identity")


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no PDF: it takes most of the time, and shows what the other documents show."""
    monkeypatch.setattr(dossier_pdf, "render", lambda record: b"%PDF of another test")


@cache
def whole_run() -> Path:
    """Return a run with a record of every part, and its summary."""
    folder = samples.a_run(Path(tempfile.mkdtemp(prefix="forged-")) / "run")
    run = record_of(folder)
    for record in (part_samples.reconstruction_audit(run), part_samples.attributes_audit(run)):
        samples.write_agreeing(folder, record)
    artifacts.write(folder, part_samples.identity_audit(run))
    samples.summarize(folder, PARTS)
    return folder


@cache
def whole_dossier() -> Path:
    folder = whole_run().parent
    config, key = DossierConfig.of(date=samples.DATE), folder / "signing.key"
    return Path(dossiers.run(config, [whole_run()], folder / "dossier", key=key).out)


@pytest.fixture
def dossier(tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_dossier(), tmp_path / "dossier"))


def place(folder: Path, part: str) -> Path:
    return folder / "run" / audit_parts.place_of(part)


def edited(folder: Path, part: str, change: Callable[[Any], Any]) -> None:
    """Edit one record, and make all that follows from it again."""
    root, kind = folder / "run", audit_parts.PARTS[part].record
    known = artifacts.read_file(place(folder, part), kind)
    below = root / "audit" if part == "bounds" else root
    artifacts.write(below, change(known))
    run, summary = artifacts.require(root, RunRecord, fix=""), artifacts.require(root, AuditRecord, fix="")
    again = next(rederivation._derived(root, summary, run, rederivation._plan(root)))
    parts = tuple(replace(one, sha256=files.digest(place(folder, one.name))) for one in again.parts)
    new = {"lines": again.lines, "sentences": again.sentences, "conditions": again.conditions}
    artifacts.write(root, replace(summary, parts=parts, **new))
    old = samples.record_of(folder)
    facts = derivation.derived(folder, title=old.title, date=old.date, signer=old.signer, made_by=old.made_by)
    dossiers._write_documents(folder, facts)


def failed(folder: Path, **known: object) -> str:
    checks = stage.run(folder, **known).checks
    return "\n".join(check.line() for check in checks if check.state is State.NOT_OK)


def first(record: Any, name: str, **changes: object) -> Any:
    """Return a record with changes in the first entry of a list of it."""
    items = getattr(record, name)
    return replace(record, **{name: (replace(items[0], **changes), *items[1:])})


def low_bound(record: Any) -> Any:
    found = record.operating.worst["1 of 10"]
    worst = record.operating.worst | {"1 of 10": replace(found, lower=0.1, value=0.11, upper=0.12)}
    return replace(record, operating=replace(record.operating, worst=worst))


def refuted_by_its_area(record: Any) -> Any:
    """Say that a run with the scores of the halved noise is consistent."""
    checks = tuple(replace(check, refuted=False) for check in record.control.checks)
    return replace(record, audit=replace(record.control, checks=checks, verdict="consistent"))


def high_rate(attack: Any) -> Any:
    points = [
        replace(point, tpr=1.1 * point.tpr) if point.tpr is not None else point for point in attack.points
    ]
    return replace(attack, points=tuple(points))


FORGED: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "bounds, a number": ("bounds", low_bound, "operating point, 1 of 10, worst case"),
    "bounds, a low number and a large precision": (
        "bounds",
        lambda record: replace(low_bound(record), precision=0.1),
        "operating point, 1 of 10, worst case",
    ),
    "bounds, where no guarantee begins": (
        "bounds",
        lambda record: replace(record, no_guarantee_from=1e9),
        "where it says that no guarantee begins",
    ),
    "bounds, none": (
        "bounds",
        lambda record: replace(record, operating=None, membership=None, void="no reason"),
        "nothing in the run says why",
    ),
    "canaries, verdict": (
        "one-run",
        lambda record: replace(record, audit=replace(record.audit, verdict="refuted")),
        "its verdict does not follow from its numbers",
    ),
    "canaries, scores of half the noise": (
        "one-run",
        refuted_by_its_area,
        "the area of the canaries refutes the claim",
    ),
    "canaries, claim": (
        "one-run",
        lambda record: replace(record, audit=replace(record.audit, claim_epsilon=100.0)),
        "the claimed epsilon is not that of the ledger",
    ),
    "canaries, mu": (
        "one-run",
        lambda record: replace(record, audit=replace(record.audit, mu=0.1, mu_low=0.0, mu_high=0.2)),
        "mu and its interval do not follow",
    ),
    "membership, verdict": (
        "membership",
        lambda record: replace(record, verdict="exposed"),
        "its verdict does not follow from its numbers",
    ),
    "membership, p-value": (
        "membership",
        lambda record: first(record, "attacks", auc=0.9, auc_high=0.95),
        "an area lies beyond its null and is called chance",
    ),
    "membership, a rate": (
        "membership",
        lambda record: replace(record, attacks=(high_rate(record.attacks[0]), *record.attacks[1:])),
        "the rate at 0.1 and its interval contradict",
    ),
    "membership, bound": (
        "membership",
        lambda record: replace(record, bound=record.bound | {"0.01": 0.99}),
        "the bound on the rate at 0.01 is 0.99",
    ),
    "membership, excess": (
        "membership",
        lambda record: replace(first(record, "attacks", excess=True), verdict="refuted"),
        "does not exceed the bound, and it states the contrary",
    ),
    "reconstruction, verdict": (
        "reconstruction",
        lambda record: replace(record, verdict="exposed"),
        "its verdict does not follow from its numbers",
    ),
    "reconstruction, a rate": (
        "reconstruction",
        lambda record: first(record, "identification", success=0.09),
        "identification among 10 by whitened: the rate and its interval contradict",
    ),
    "reconstruction, bound": (
        "reconstruction",
        lambda record: first(record, "identification", bound=0.999),
        "the bound on one of 10 images is 0.999",
    ),
    "reconstruction, bound on an attack": (
        "reconstruction",
        lambda record: first(record, "matches", bound=0.999),
        "the bound on images by imprint-pca",
    ),
    "reconstruction, excess": (
        "reconstruction",
        lambda record: replace(first(record, "matches", excess=True), verdict="refuted"),
        "whether the bound is exceeded does not follow from the counts",
    ),
    "attributes, verdict": (
        "attributes",
        lambda record: replace(record, verdict="inferable"),
        "its verdict does not follow from its numbers",
    ),
    "attributes, a rate": (
        "attributes",
        lambda record: first(record, "attributes", on_members=0.9),
        "the rates, the intervals or the p-value of embedding contradict",
    ),
    "attributes, bound": (
        "attributes",
        lambda record: first(record, "attributes", bound=0.51),
        "the bound on sex from the embedding is 0.51",
    ),
    "attributes, excess": (
        "attributes",
        lambda record: replace(first(record, "attributes", excess=True), verdict="refuted"),
        "does not exceed the bound, and it states the contrary",
    ),
    "identity, verdict": (
        "identity",
        lambda record: replace(record, verdict="linked"),
        "its verdict does not follow from its numbers",
    ),
    "identity, p-value": (
        "identity",
        lambda record: first(record, "links", p_at_1=0.5, p_at_1_high=0.6),
        "the rate, the interval or the p-value of pixels contradict",
    ),
}


def test_a_whole_dossier_passes(dossier: Path):
    assert failed(dossier) == ""


def test_a_run_with_every_part_passes():
    found = {check.what: check.state for check in stage.run(whole_run()).checks}
    for what in ("audits from their records", "bounds from the ledger", "attacks against the ledger"):
        assert found[what] is State.OK


@pytest.mark.parametrize("name", FORGED)
def test_what_does_not_follow_is_found_whoever_signed(dossier: Path, name: str):
    part, change, words = FORGED[name]
    signer = samples.record_of(dossier).signer
    edited(dossier, part, change)
    samples.listed_again(dossier)
    assert "is not the list that was signed" in failed(dossier)
    key = signing_key.made_or_read(dossier.parent / "forger.key")
    signature.write(dossier, key, samples.record_of(dossier).run)
    found = failed(dossier, signer=signer)
    assert words in found
    assert f"{audit_parts.place_of(part)}" in found or part == "bounds"
    assert "another key signed it" in found


def test_every_part_is_forged():
    assert {part for part, _, _ in FORGED.values()} == set(PARTS) == set(audit_parts.PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_a_number_from_which_nothing_follows_is_found_by_the_signature_alone(dossier: Path, part: str):
    """Scores stay behind, so nobody can count again; without the signer's key the edit is seen."""
    signer, path = samples.record_of(dossier).signer, place(dossier, part)
    changes: dict[str, Callable[[Any], Any]] = {
        "bounds": lambda record: replace(record, versions={"meninx": "9"}),
        "one-run": lambda record: replace(record, overhead=0.5),
        "membership": lambda record: replace(record, references=64),
        "reconstruction": lambda record: replace(record, members=9_999),
        "attributes": lambda record: replace(record, folds=9),
        "identity": lambda record: replace(record, fitted_patients=9_999),
    }
    before = path.read_bytes()
    edited(dossier, part, changes[part])
    assert path.read_bytes() != before
    samples.listed_again(dossier)
    assert "is not the list that was signed" in failed(dossier)
    signature.write(
        dossier, signing_key.made_or_read(dossier.parent / "forger.key"), samples.record_of(dossier).run
    )
    found = failed(dossier, signer=signer)
    assert "another key signed it" in found
    assert all("sign" in line for line in found.splitlines())


@pytest.mark.parametrize("name", FORGED)
def test_a_run_folder_is_verified_by_the_same_rules(tmp_path: Path, name: str):
    part, change, words = FORGED[name]
    folder = Path(shutil.copytree(whole_run(), tmp_path / "run"))
    known = artifacts.read_file(folder / audit_parts.place_of(part), audit_parts.PARTS[part].record)
    artifacts.write(folder / "audit" if part == "bounds" else folder, change(known))
    assert words in failed(folder)
