"""The stage: runs, and what is known of their data, in; one dossier out, which appears as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from meninx.audit import rederivation
from meninx.core import artifacts, files, integrity, plain, provenance, signing_key, workspace
from meninx.core.dossier_records import (
    CRATE,
    DOSSIER,
    FORM,
    PAGE,
    PDF,
    SCHEMA,
    Decision,
    DossierRecord,
)
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.folder_signature import SIGNATURE
from meninx.core.names import printable
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result, command
from meninx.dossier import (
    audit_facts,
    crate,
    dossier_page,
    dossier_pdf,
    evidence,
    identifier_search,
    schema,
    signature,
)
from meninx.dossier.config import DossierConfig
from meninx.dossier.derivation import derived
from meninx.dossier.facts import RUN, EvidenceFolder, shown
from meninx.dossier.signature import UNSIGNED
from meninx.report.config import ReportConfig
from meninx.report.context import ReportContext, gather

_SHOWN = ("guarantee/epsilon", "selection/epsilon", "implementation/verdict", "membership/verdict")
_NAMED = 5  # files in one message; the others are counted


@dataclass(frozen=True, kw_only=True)
class DossierResult(Result):
    """A written dossier.

    Attributes:
        run: identity of the run whose model is to be released.
        record: what ``dossier.json`` says; None after a dry run.
        files: number of files in its list.
        checksums: SHA-256 of that list, which names the dossier; empty after a dry run.
        signer: fingerprint of the key, or ``unsigned``.
        searched: identifiers of patients that were searched for in it.
        unknown: runs whose dataset is not where it was, so that not all of its identifiers are known.
        plan: what a dry run says it would hold.
    """

    run: str
    record: DossierRecord | None = None
    files: int = 0
    checksums: str = ""
    signer: str = UNSIGNED
    searched: int = 0
    unknown: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return what was written, the numbers that matter most, and what to do next."""
        if self.record is None:
            return "\n".join([f"run: {self.run}", *self.plan, "dry run: nothing was written"])
        lines = [f"out: {self.out}", f"run: {self.run}"]
        for key in _SHOWN:
            fact = self.record.fact(key)
            if fact is not None:
                lines.append(f"{fact.words}: {shown(fact)}")
        lines += [f"warning: {item}" for item in self.record.warnings]
        signed = "not signed; --key FILE signs it" if self.signer == UNSIGNED else self.signer
        lines += [
            f"{self.files} files, list {self.checksums}",
            f"signer: {signed}",
            f"searched for {self.searched:,} identifiers of patients: none is in it",
        ]
        lines += [
            f"warning: the dataset of {name} is not where it was, so its patients' identifiers were not all "
            "searched for; put it back, and make the dossier again"
            for name in self.unknown
        ]
        signer = f" --signer {self.signer}" if self.signer != UNSIGNED else ""
        lines.append(f"the checker runs {command('verify', self.out)[:-1]}{signer}`")
        return "\n".join(lines)

    def to_table(self) -> dict[str, object]:
        """Return the fields as plain values, without the record, which lies in ``dossier.json``."""
        table = super().to_table()
        table.pop("record")
        return table


def run(
    config: DossierConfig,
    sources: Sequence[Path],
    out: Path,
    *,
    key: Path | None = None,
    progress: Progress = SILENT,
) -> DossierResult:
    """Write the dossier of one run to ``out``. Nothing appears there before all of it is complete.

    Args:
        config: title, date, which run is to be released, and how it was chosen.
        sources: output folders of deid, prepare, train, sweep and federate, or folders of them; every run on
            the same patients belongs here, because its cost counts.
        out: folder of the dossier.
        key: file of the secret key that signs it, made on first use; None leaves it unsigned.
        progress: advanced by every part.

    Guarantee: facts come from files in the dossier. No file of a private room is copied but ledgers. An
        identifier of a patient that the private files of the given folders know is in no file and no name of
        it, apart from those too short to search for.

    Raises:
        UsageError: no run or several fit, or ``out`` holds something else or lies in a source.
        DataError: a record is damaged, contradicts another, or an audit is about another run.
        PrivacyRefusal: a privacy record contradicts its ledger, an identifier would get out, or others may
            read the key.
    """
    given = replace(config, date=config.date or datetime.now(UTC).date().isoformat())
    _refuse_place(out, sources, overwrite=given.overwrite)
    context = gather(ReportConfig(), sources)
    chosen = evidence.chosen_run(given, context)
    if given.dry_run:
        return DossierResult(out=out, run=chosen.record.id, plan=tuple(_plan(context)))
    secret = signature.key_in(key, out) if key is not None else None
    signer = signing_key.fingerprint(signing_key.public_bytes(secret)) if secret is not None else UNSIGNED
    with task(progress, "dossier", 4), _building(out) as room:
        evidence.write(room, given, context, chosen, sources)
        _refuse_strangers(room)
        progress.advance()
        record = derived(room, title=given.title, date=given.date, signer=signer, made_by=versions())
        _write_documents(room, record)
        progress.advance()
        every = (*context.runs, *context.unfinished)
        own = {item.record.id for item in every}  # stated on every page, whatever a table calls its cases
        known = identifier_search.of_patients(every, sources)
        index = identifier_search.IdentifierIndex(text for text in known if text not in own)
        identifier_search.refuse(room, index)
        progress.advance()
        names = [path for path in room.rglob("*") if path.is_file()]
        checksums = integrity.write(room, integrity.measured(room, names))
        if secret is not None:
            signature.write(room, secret, record.run)
        progress.advance()
    return DossierResult(
        out=out,
        run=record.run,
        record=record,
        files=len(names),
        checksums=checksums,
        signer=signer,
        searched=index.count,
        unknown=identifier_search.without_tables(every),
    )


def versions() -> dict[str, str]:
    """Return package -> version of what decides the bytes of a dossier."""
    return provenance.packages() | provenance.versions(dossier_pdf.LIBRARIES)


def _plan(context: ReportContext) -> list[str]:
    runs, private = (*context.runs, *context.unfinished), sum(run.private for run in context.runs)
    return [
        f"runs given: {len(runs)}, finished and private: {private}",
        f"datasets given: {len(context.datasets)}, de-identified archives: {len(context.deid)}",
        *context.missing,
    ]


def _refuse_strangers(room: Path) -> None:
    """Refuse an audit of another run, of other weights or of another ledger, or with another verdict."""
    for item in audit_facts.strangers(EvidenceFolder(room)):
        fix = "run the audit of this run again"
        raise DataError(problem(f"the record {item.why}", where=item.path, fix=fix))
    for words in rederivation.records_contradict(room / RUN):
        fix = "run the audit of this run again"
        raise DataError(problem("the record contradicts itself", where=words, fix=fix))


def _write_documents(room: Path, record: DossierRecord) -> None:
    """Write what people and programs read."""
    artifacts.write(room, record)
    files.write_text(room / SCHEMA, schema.text())
    form = Decision(answers={f"{item.norm}, {item.clause}": "" for item in record.headings})
    files.write_text(room / FORM, plain.to_json(form))
    files.write_text(room / PAGE, dossier_page.render(record))
    files.write_bytes(room / PDF, dossier_pdf.render(record))
    crate.write(room, record)


def _refuse_place(out: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    workspace.apart(out, sources)
    earlier = all((out / name).is_file() for name in (DOSSIER, integrity.CHECKSUMS, CRATE))
    workspace.outside(out.parent if earlier else out)
    if not out.exists():
        return
    if earlier and not overwrite:
        fix = "give --overwrite or another folder"
        raise UsageError(problem("the folder holds a dossier already", where=out.name, fix=fix))
    if earlier:
        _refuse_foreign(out)
    if out.is_symlink() or not out.is_dir() or (not earlier and any(out.iterdir())):
        fix = "choose a new or empty folder"
        raise UsageError(problem("the output folder holds other files", where=out.name, fix=fix))


def _refuse_foreign(out: Path) -> None:
    """Refuse to replace a dossier beside which somebody keeps files, or whose form was filled in."""
    damage = integrity.damage(out, leave_out=(SIGNATURE,))
    foreign = [*damage.unlisted, *(name for name in damage.changed if name == FORM)]
    if foreign:
        more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        listed = ", ".join(printable(name) for name in foreign[:_NAMED])
        fix = "move them elsewhere, or choose another folder"
        what = f"the old dossier's folder holds files that are not its own: {listed}{more}"
        raise UsageError(problem(what, where=out.name, fix=fix))


@contextmanager
def _building(out: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``out`` when the block ends; after an error it goes."""
    room, aside = (out.with_name(f".{out.name}{files.PARTIAL}{token_hex(4)}") for _ in range(2))
    try:
        room.mkdir(parents=True)
        yield room
        if out.exists():
            out.rename(aside)
        room.rename(out)
    except BaseException as error:
        if aside.exists() and not out.exists():
            aside.rename(out)
        if isinstance(error, OSError):
            raise files.storage_error(error, out) from error
        raise
    finally:
        shutil.rmtree(room, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
