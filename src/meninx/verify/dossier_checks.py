"""Checks of an egress dossier on another machine: files, signature, and all numbers computed again."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from meninx.core import artifacts, belonging, files, integrity, plain, provenance, signing_key
from meninx.core.artifacts import Lineage, PrivacyRecord, RunRecord
from meninx.core.dossier_records import (
    CRATE,
    DOSSIER,
    PAGE,
    PDF,
    SCHEMA,
    Decision,
    DossierRecord,
    Fact,
)
from meninx.core.folder_signature import SIGNATURE
from meninx.core.progress import Progress
from meninx.core.summaries import number_of
from meninx.dossier import audit_facts, dossier_page, dossier_pdf, privacy_facts, schema, signature
from meninx.dossier.derivation import LIMITS, derived
from meninx.dossier.facts import RELEASE, RUN, EvidenceFolder, every, number
from meninx.dossier.signature import UNSIGNED
from meninx.report import privacy_account
from meninx.verify import audit_checks, dossier_files, page_numbers
from meninx.verify.audited_ledgers import AuditedLedgers
from meninx.verify.check_list import CheckList, Expected, some
from meninx.verify.check_list import plain as one_line

_LIBRARIES = ("dp_accounting", "scipy")
_TOLERANCE = 1e-6  # relative, between numbers that two machines computed from the same file
_EPSILONS = ("guarantee/epsilon", "guarantee/own_epsilon", "selection/epsilon")


def check(book: CheckList, root: Path, expected: Expected, progress: Progress) -> None:
    """Check a dossier; whatever its files hold becomes a line."""
    links = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink()]
    if links:
        book.judge("links", [f"a dossier holds no links: {some(links)}"], fix="ask for the whole dossier")
        return
    readable = True

    def listed() -> None:
        nonlocal readable
        readable = dossier_files.check(book, root, progress)

    _guard(book, dossier_files.WHAT, listed)
    if not readable:
        book.impossible("all other checks", "the files are not those that were written")
        return
    _guard(book, "dossier.json", lambda: _dossier(book, root, expected))
    _guard(book, "release of the run", lambda: _release(book, root, progress))
    if expected.decision is not None:
        form = expected.decision
        _guard(book, "decision", lambda: _decision(book, root, form))
    for limit in LIMITS:
        book.impossible("not in the folder", limit)


def _guard(book: CheckList, what: str, action: Callable[[], None]) -> None:
    """Run checks of hostile files; what nobody wrote by this program is a line, not the end."""
    try:
        book.guard(what, action)
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
        book.judge(what, ["the files are not as meninx writes them"], privacy=True)


def _dossier(book: CheckList, root: Path, expected: Expected) -> None:
    record = artifacts.require(root, DossierRecord, fix="ask for the whole dossier")
    _guard(book, "signature", lambda: _signature(book, root, record, expected))
    _guard(book, "audits belong to the run", lambda: _strangers(book, root))
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        fix = "pip install 'meninx[train]'"
        book.impossible("numbers computed again", f"{', '.join(missing)} is not installed: {fix}")
        return
    _guard(book, "ledgers", lambda: _ledgers(book, root))
    _guard(book, "numbers computed again", lambda: _numbers(book, root, record))
    _guard(
        book,
        "audits from their records",
        lambda: audit_checks.check(book, root / RUN, _audited_ledgers(EvidenceFolder(root))),
    )
    _guard(book, "documents", lambda: _documents(book, root, record))


def _signature(book: CheckList, root: Path, record: DossierRecord, expected: Expected) -> None:
    what = "signature"
    if importlib.util.find_spec("cryptography") is None:
        why = "cryptography is not installed: pip install 'meninx[dossier]'"
        if expected.signer:
            book.judge(what, [why], privacy=True)
        else:
            book.impossible(what, why)
        return
    statement = signature.read(root)
    if statement is None:
        wrong = [f"{SIGNATURE} is missing"] if record.signer != UNSIGNED or expected.signer else []
        if wrong:
            book.judge(what, wrong, privacy=True, fix="ask for the whole dossier")
        else:
            book.impossible(what, "unsigned: who can write this folder can change it unseen")
        return
    found = signing_key.fingerprint(statement.signer)
    wrong = []
    if statement.checksums != integrity.digest_of(root):
        wrong.append(f"{integrity.CHECKSUMS} is not the list that was signed")
    if statement.run != record.run:
        wrong.append("it is of a dossier about another run")
    if record.signer != found:
        wrong.append(f"{DOSSIER} names another signer")
    book.judge(what, wrong, privacy=True, remark=f"key {found}")
    if not expected.signer:
        book.impossible("signer", "give --signer FINGERPRINT, as the signer read it to you")
        return
    wrong = [] if found == signing_key.read_fingerprint(expected.signer) else ["another key signed it"]
    book.judge("signer", wrong, privacy=True, remark="the expected key")


def _audited_ledgers(evidence: EvidenceFolder) -> AuditedLedgers | None:
    """Return the ledgers of the run in a dossier; None without privacy or without a step."""
    candidate = privacy_facts.candidate_of(evidence)
    if not candidate.private:
        return None
    texts = privacy_facts.account(evidence, candidate).texts
    own = privacy_facts.ledger_of(evidence, candidate)
    earlier = [
        privacy_account.parsed(text, "ledgers")
        for name, text in texts.items()
        if name != candidate.run and text.strip()
    ]
    if not own.accounts:
        return None
    run = artifacts.require(evidence.run.root, RunRecord, fix="ask for the whole dossier")
    return AuditedLedgers(own=own, earlier=earlier, void=candidate.void, patients_known=run.patients_known)


def _strangers(book: CheckList, root: Path) -> None:
    wrong = [f"{item.path} {item.why}" for item in audit_facts.strangers(EvidenceFolder(root))]
    book.judge("audits belong to the run", wrong, privacy=True)


def _ledgers(book: CheckList, root: Path) -> None:
    """Check the ledgers against the other records of the run."""
    evidence = EvidenceFolder(root)
    candidate = privacy_facts.candidate_of(evidence)
    run = artifacts.require(evidence.run.root, RunRecord, fix="ask for the whole dossier")
    record = artifacts.read(evidence.run.root, PrivacyRecord)
    lacking = privacy_facts.runs_left_out(evidence, privacy_facts.selection_of(evidence))
    named = ("run that a sweep names is no candidate", "runs that a sweep names are no candidates")
    left = [f"{number_of(len(lacking), *named)} in selection.json"] if lacking else []
    book.judge("runs of sweeps", left, privacy=True)
    wrong = [] if run.id == candidate.run else ["run.json is of another run than the one that was chosen"]
    wrong += [] if run.private == candidate.private else ["run.json contradicts selection.json"]
    if record is None or run.privacy != files.digest(root / privacy_facts.PRIVACY):
        wrong.append("privacy.json is not the file that run.json names")
    wrong += list(belonging.promise(record, run)) if record is not None else []
    book.judge("records of the run", wrong, privacy=True)
    if not candidate.private or record is None:
        return
    spent = privacy_facts.account(evidence, candidate)
    text = spent.texts[candidate.run]
    lineage = evidence.record(f"{RELEASE}/lineage.json", Lineage)
    wrong = []
    if lineage is None or "\n".join(lineage.ledger).rstrip("\n") != text.rstrip("\n"):
        wrong.append("it is not the one in release/lineage.json")
    if spent.own is None or spent.spent is None:
        wrong.append("it names no step")
    else:
        anchor = privacy_facts.ledger_of(evidence, candidate).anchor
        found = belonging.contradictions(
            record, spent.own, totals=(spent.spent.epsilon,), anchor=anchor, declared=record.declared_units
        )
        wrong += [item.words for item in found]
    count = sum(item.count("\n") for item in spent.texts.values())
    lines = f"{number_of(count, 'line')}, chain intact"
    book.judge("ledger against the records", wrong, privacy=True, remark=lines)


def _numbers(book: CheckList, root: Path, record: DossierRecord) -> None:
    """Derive ``dossier.json`` again from the files beside it, and compare."""
    again = derived(root, title=record.title, date=record.date, signer=record.signer, made_by=record.made_by)
    exact = record.made_by.get("meninx") == provenance.version()
    stated, computed = ({fact.key: fact for fact in every(item.parts)} for item in (record, again))
    wrong = [
        f"{key}: stated {_shown(stated.get(key))}, by the ledgers {_shown(computed.get(key))}"
        for key in _EPSILONS
        if not _same(stated.get(key), computed.get(key), exact=False)
    ]
    epsilon = computed.get("selection/epsilon") or computed.get("guarantee/epsilon")
    book.judge("epsilon from the ledgers", wrong, privacy=True, remark=_shown(epsilon))
    keys = stated.keys() | computed.keys() if exact else stated.keys() & computed.keys()
    other = [
        key
        for key in sorted(keys - set(_EPSILONS))
        if not _same(stated.get(key), computed.get(key), exact=exact)
    ]
    wrong = [f"{len(other)} facts do not follow from the files: {some(other)}"] if other else []
    wrong += list(_lists(record, again, exact=exact))
    remark = f"{len(keys)} facts" + ("" if exact else ", their words not compared: another version wrote it")
    book.judge("facts from the files", wrong, privacy=True, remark=remark)


def _lists(record: DossierRecord, again: DossierRecord, *, exact: bool) -> Iterator[str]:
    if record.run != again.run:
        yield "it names another run than selection.json"
    known, there = ({item.path: item.sha256 for item in one.evidence} for one in (record, again))
    changed = [path for path in known.keys() | there.keys() if known.get(path) != there.get(path)]
    if changed:
        yield f"digests of {number_of(len(changed), 'file')} are not those in {DOSSIER}: {some(changed)}"
    if exact:
        for name in ("warnings", "headings", "limits"):
            if getattr(record, name) != getattr(again, name):
                yield f"its {name} do not follow from the files"


def _same(stated: Fact | None, computed: Fact | None, *, exact: bool) -> bool:
    if stated is None or computed is None:
        return stated is computed
    numbers = ((stated.value, computed.value), (stated.low, computed.low), (stated.high, computed.high))
    if not all(_close(*pair) for pair in numbers):
        return False
    if (stated.source, stated.sha256) != (computed.source, computed.sha256):
        return False
    return not exact or (stated.words, stated.remark) == (computed.words, computed.remark)


def _close(one: object, two: object) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return type(one) is type(two) and one == two


def _shown(fact: Fact | None) -> str:
    if fact is None:
        return "nothing"
    return number(fact.value) if not isinstance(fact.value, tuple) else "a list"


def _documents(book: CheckList, root: Path, record: DossierRecord) -> None:
    """Check that page, PDF, schema and crate are those of ``dossier.json``."""
    page = files.read_text(root / PAGE)
    book.judge(f"numbers of {PAGE}", page_numbers.differences(page, record), privacy=True)
    if record.made_by.get("meninx") != provenance.version():
        version = one_line(record.made_by.get("meninx", "unknown"))
        why = f"made by another version of meninx, {version}: its words cannot be derived again"
        fix = "verify it with the version that made it"
        book.impossible(PDF, f"another version of meninx drew it, {version}")
        book.unverified("documents against dossier.json", why, fix=fix)
        return
    wrong = []
    if page != dossier_page.render(record):
        wrong.append(f"{PAGE} shows something else")
    if files.read_text(root / SCHEMA) != schema.text():
        wrong.append(f"{SCHEMA} is another")
    here = provenance.versions(dossier_pdf.LIBRARIES)
    if importlib.util.find_spec("reportlab") is None:
        book.impossible(PDF, "reportlab is not installed: pip install 'meninx[dossier]'")
    elif any(record.made_by.get(name) != here.get(name) for name in dossier_pdf.LIBRARIES):
        book.impossible(PDF, f"another version of {' or '.join(dossier_pdf.LIBRARIES)} drew it")
    else:
        wrong += (
            [f"{PDF} shows something else"]
            if files.read_bytes(root / PDF) != dossier_pdf.render(record)
            else []
        )
    wrong += list(_crate(root, record))
    book.judge("documents against dossier.json", wrong)


def _crate(root: Path, record: DossierRecord) -> Iterator[str]:
    """Yield what the RO-Crate metadata say otherwise than ``dossier.json``."""
    try:
        table = json.loads(files.read_text(root / CRATE))
        entries = {str(item["@id"]): item for item in table["@graph"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        yield f"{CRATE} is not RO-Crate metadata"
        return
    for item in record.evidence:
        if entries.get(item.path, {}).get("sha256") != item.sha256:
            yield f"{CRATE} does not name {one_line(item.path)} with its digest"
            return


def _release(book: CheckList, root: Path, progress: Progress) -> None:
    record = artifacts.require(root / RUN, RunRecord, fix="ask for the whole dossier")
    what = "release against the run's own list"
    damage = integrity.damage(root / RELEASE, progress=progress)
    wrong = [
        f"{number_of(len(names), 'file')} {kind}: {some(names)}"
        for kind, names in vars(damage).items()
        if names
    ]
    if record.release != integrity.digest_of(root / RELEASE):
        wrong.append("its list is not the one that run.json names")
    book.judge(what, wrong)


def _decision(book: CheckList, root: Path, path: Path) -> None:
    """Check a filled-in form: whether it is complete and about this dossier."""
    form = plain.from_json(files.read_bytes(path), Decision, where=path.name)
    empty = artifacts.require(root, Decision, fix="ask for the whole dossier")
    wrong = []
    if form.dossier != integrity.digest_of(root):
        wrong.append(f"it is about another dossier; this one is {integrity.digest_of(root)}")
    if form.decision == "open":
        wrong.append("it is still open")
    if form.decision == "approve with conditions" and not form.conditions:
        wrong.append("it names no condition")
    if form.decision == "refuse" and not form.reasons:
        wrong.append("it names no reason")
    needed = {"checker": form.checker, "role": form.role, "date": form.date}
    lacking = [name for name, value in needed.items() if not value.strip()]
    wrong += [f"it lacks {', '.join(lacking)}"] if lacking else []
    if set(form.answers) != set(empty.answers):
        wrong.append("its questions are not those of the dossier")
    unanswered = sum(not answer.strip() for answer in form.answers.values())
    remark = f"{form.decision}; {unanswered} of {len(form.answers)} questions are not answered"
    book.judge("decision", wrong, remark=remark)
