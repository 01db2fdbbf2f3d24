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
from meninx.core.proportions import clopper_pearson
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


def named(record: Any, **changes: object) -> Any:
    """Return bounds whose adversary "1 of 10" has other fields, under another name where one is given."""
    name = str(changes.get("name", "1 of 10"))

    def renamed(point: Any) -> Any:
        tables = {
            kind: {
                name if known == "1 of 10" else known: value for known, value in getattr(point, kind).items()
            }
            for kind in ("worst", "relaxed")
        }
        return replace(point, **tables)

    priors = tuple(replace(one, **changes) if one.name == "1 of 10" else one for one in record.priors)
    points = tuple(map(renamed, record.points))
    return replace(record, priors=priors, points=points, operating=renamed(record.operating))


def without(record: Any, name: str) -> Any:
    """Return bounds without an adversary."""

    def fewer(point: Any) -> Any:
        tables = {
            kind: {known: value for known, value in getattr(point, kind).items() if known != name}
            for kind in ("worst", "relaxed")
        }
        return replace(point, **tables)

    priors = tuple(prior for prior in record.priors if prior.name != name)
    return replace(
        record, priors=priors, points=tuple(map(fewer, record.points)), operating=fewer(record.operating)
    )


def mechanism(**changes: object) -> Callable[[Any], Any]:
    return lambda record: replace(record, mechanism=replace(record.mechanism, **changes))


def every_attack(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda record: replace(record, attacks=tuple(map(change, record.attacks)))


def out_of_paper(attack: Any) -> Any:
    """Return an attack on many patients whose rates are refused for a reason of the forger's."""
    points = tuple(
        replace(point, tpr=None, low=None, high=None, fpr_high=None, refusal="the printer was out of paper")
        for point in attack.points
    )
    deviation = (10_001 / (12 * 5_000 * 5_000)) ** 0.5
    null = {"null_low": 0.5 - 2 * deviation, "null_high": 0.5 + 2 * deviation}
    return replace(attack, members=5_000, others=5_000, points=points, auc=0.5, **null)


def zero_rates(attack: Any) -> Any:
    """Return an attack on eleven non-members that finds nobody, at rates that need a hundred and more."""
    low, high = clopper_pearson(0, attack.members)
    rates = {"tpr": 0.0, "low": low, "high": high, "fpr_high": 0.3, "refusal": ""}
    return replace(attack, others=11, points=tuple(replace(point, **rates) for point in attack.points))


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
    "bounds, unit": ("bounds", mechanism(unit="hospital"), "unit hospital, by the ledger patient"),
    "bounds, number of units": (
        "bounds",
        mechanism(units=360_000),
        "units 360000, by the ledger",
    ),
    "bounds, sampler": ("bounds", mechanism(sampler="fixed"), "sampler fixed, by the ledger poisson"),
    "bounds, noise": ("bounds", mechanism(noise_multiplier=77.0), "noise multiplier 77, by the ledger"),
    "bounds, accountant": ("bounds", mechanism(accountant="exact"), "accountant exact, by the ledger"),
    "bounds, source": ("bounds", mechanism(source="measured by a notary"), "source measured by a notary"),
    "bounds, an adversary is called another": (
        "bounds",
        lambda record: named(record, name="image metric", hits=0, images=10_000),
        "the blind guess of image metric is not",
    ),
    "bounds, an adversary without fields": (
        "bounds",
        lambda record: named(record, name="image metric"),
        "no audit knows an adversary image metric with these fields",
    ),
    "bounds, an adversary with fields of another": (
        "bounds",
        lambda record: named(record, share=0.5),
        "no audit knows an adversary 1 of 10 with these fields",
    ),
    "bounds, an adversary is missing": (
        "bounds",
        lambda record: without(record, "1 of 10"),
        "is not what the plan asked for: adversaries of the plan are missing: 1 of 10",
    ),
    "bounds, the axis is missing": (
        "bounds",
        lambda record: replace(record, points=(), no_guarantee_from=None),
        "its axis of epsilon is not that of the plan",
    ),
    "canaries, fewer than planned": (
        "one-run",
        lambda record: replace(record, audit=replace(record.audit, included=40)),
        "it has 90 canaries, planned 100",
    ),
    "canaries, significance": (
        "one-run",
        lambda record: replace(record, audit=replace(record.audit, confidence=0.999)),
        "its significance is 0.001, planned 0.05",
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
    "membership, an attack is missing": (
        "membership",
        lambda record: replace(record, attacks=record.attacks[1:]),
        "attacks of the plan are missing: loss",
    ),
    "membership, a rate is missing": (
        "membership",
        every_attack(lambda attack: replace(attack, points=attack.points[:2])),
        "an attack has other rates than 0.1, 0.01, 0.001",
    ),
    "membership, a control is missing": (
        "membership",
        lambda record: replace(record, split_control=None),
        "the control by models that know half of both splits is missing",
    ),
    "membership, references": (
        "membership",
        lambda record: replace(record, references=64),
        "it has 64 reference models, planned 4",
    ),
    "membership, refusal": (
        "membership",
        every_attack(out_of_paper),
        "the refusal of a rate does not follow from the non-members",
    ),
    "membership, refusal of a rate that is possible": (
        "membership",
        every_attack(lambda attack: replace(attack, others=1_200)),
        "the refusal of a rate does not follow from the non-members",
    ),
    "membership, null": (
        "membership",
        every_attack(lambda attack: replace(attack, auc=0.95, auc_high=0.97, null_high=0.96, p_value=0.3)),
        "so many patients cannot have such a range by chance",
    ),
    "membership, p-value by the counts": (
        "membership",
        every_attack(lambda attack: replace(attack, auc=0.57, null_high=0.575, p_value=0.3)),
        "so many patients cannot have such an area by chance so often",
    ),
    "membership, rates by too few non-members": (
        "membership",
        every_attack(zero_rates),
        "the refusal of a rate does not follow from the non-members",
    ),
    "membership, an interval beside its area": (
        "membership",
        lambda record: first(record, "attacks", auc_high=record.attacks[0].auc - 0.01),
        "attack loss: its interval does not contain its area",
    ),
    "reconstruction, an attack is missing": (
        "reconstruction",
        lambda record: replace(record, matches=()),
        "attacks of the plan are missing: imprint-pca",
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
    "attributes, seed": ("attributes", lambda record: replace(record, seed=7), "its seed is not that of"),
    "attributes, none": (
        "attributes",
        lambda record: replace(record, attributes=()),
        "attributes of the plan are missing: all",
    ),
    "identity, an attack is missing": (
        "identity",
        lambda record: first(record, "links", attack="hog"),
        "attacks on another image of the plan are missing: pixels",
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


UNPLANNED = {
    "bounds, an adversary is missing",
    "bounds, the axis is missing",
    "canaries, fewer than planned",
    "canaries, significance",
    "membership, an attack is missing",
    "membership, a rate is missing",
    "membership, a control is missing",
    "membership, references",
    "reconstruction, an attack is missing",
    "attributes, seed",
    "attributes, none",
    "identity, an attack is missing",
}
"""What is compared with the plan, once the summary names the digests of the records."""


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
        "membership": lambda record: replace(record, left_out=9),
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
    found = failed(folder)
    assert ("which was made again or changed" if name in UNPLANNED else words) in found


# the summary


def summarized(folder: Path, **changes: object) -> str:
    """Return what is found in a copy of the run whose summary was changed."""
    run = Path(shutil.copytree(whole_run(), folder / "run"))
    summary = artifacts.require(run, AuditRecord, fix="")
    artifacts.write(run, replace(summary, **changes))
    return failed(run)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"facts": (("epsilon", "0.01"), ("delta", "1e-30"))}, "its facts do not follow from the records"),
        ({"facts": ()}, "its facts do not follow from the records"),
        ({"rerun": "rm -rf /"}, "the command to repeat it is none of meninx audit"),
        ({"rerun": "meninx audit a; rm b --plan a/audit/plan.toml"}, "the command to repeat it is none"),
        ({"deterministic": True}, "whether it can be repeated bit for bit"),
    ],
)
def test_facts_of_a_summary_are_derived_again(tmp_path: Path, changes: dict[str, object], words: str):
    assert words in summarized(tmp_path, **changes)


def test_facts_in_a_dossier_are_derived_again(dossier: Path):
    root = dossier / "run"
    summary = artifacts.require(root, AuditRecord, fix="")
    facts = tuple((name, "0.01" if name == "epsilon" else value) for name, value in summary.facts)
    artifacts.write(root, replace(summary, facts=facts))
    samples.listed_again(dossier)
    assert "its facts do not follow from the records: epsilon" in failed(dossier)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_not_called_undone_beside_its_record(tmp_path: Path, part: str):
    summary = artifacts.require(whole_run(), AuditRecord, fix="")
    hidden = {"state": "not done", "reason": "its budget is used up", "sha256": "", "findings": ()}
    parts = tuple(
        replace(one, **hidden, refuted=False, void="") if one.name == part else one for one in summary.parts
    )
    found = summarized(tmp_path, parts=parts)
    assert f"its part {part} is not done, and its record {audit_parts.place_of(part)} is there" in found


def test_what_an_adversary_knows_is_not_read_from_a_record(dossier: Path):
    """A text beside the typed fields of an adversary has no effect: no page shows it."""
    path = place(dossier, "bounds")
    text = path.read_text()
    forged = text.replace('"kappa": 0.1,', '"kappa": 0.1, "meaning": "the patient is one of two",')
    assert forged != text
    path.write_text(forged)
    record = artifacts.read_file(path, audit_parts.PARTS["bounds"].record)
    assert [prior.meaning("patient") for prior in record.priors if prior.name == "1 of 10"] == [
        "the patient's data is one of 10"
    ]
