"""``meninx verify`` of DICOM files of any origin: every file is checked, and one page says what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from meninx.core import files, machine, names
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.pool import Stop, mapped
from meninx.core.progress import SILENT, Progress, task
from meninx.core.workspace import PRIVATE
from meninx.deid.burned_in.burned_text import Reader
from meninx.dicomfile import discover
from meninx.dicomfile.discover import SourceFile
from meninx.imaging import ocr
from meninx.verify import check_parts, conformance, dicom_file, identifier_list, originals, pixel_text
from meninx.verify.check_parts import CheckCounts
from meninx.verify.config import DicomCheckConfig
from meninx.verify.dicom_file import FileOutcome, IdentifierSearch
from meninx.verify.dicom_findings import REASONS, FileFinding, FileVerdict, Weight, verdict_of
from meninx.verify.dicom_result import MOST_SHOWN, CheckedFile, DicomCheckResult
from meninx.verify.known_values import CERTAIN, KnownValues
from meninx.verify.originals import Originals


def run(
    folder: Path, config: DicomCheckConfig, *, progress: Progress = SILENT, reader: Reader | None = None
) -> DicomCheckResult:
    """Check every file below a folder, or one file; nothing but the page is written.

    Guarantee: every file is counted under one verdict, and no result holds a value of a file.

    Args:
        folder: the files.
        config: what is searched for and checked.
        progress: told of every file.
        reader: how text in the pixels is read; by default the models of the extra ``ocr``.

    Raises:
        UsageError: there is nothing to check, a needed extra is not installed, or the page cannot be written
            there.
        DataError: originals, list or crosswalk cannot be read.
        Interrupted: stopped by the user.
    """
    if config.page is not None:
        from meninx.report import stage as reports  # with its plots it takes a second to import

        reports.refuse_page(config.page, overwrite=config.overwrite)
        if folder.is_dir() and config.page.resolve().is_relative_to(folder.resolve()):
            fix = "write the page elsewhere"
            raise UsageError(problem("the page would lie among the files", where="page", fix=fix))
    if config.pixels and reader is None and not ocr.is_available():
        fix = "pip install 'meninx[ocr]'"
        raise UsageError(problem("text in pixels cannot be read without rapidocr", where="pixels", fix=fix))
    tool = conformance.program() if config.conformance else ""
    entries = [item for item in discover.files_below(folder) if not item.path.startswith(f"{PRIVATE}/")]
    if not entries:
        raise UsageError(problem("there is no file here", where="verify", fix="check the path"))
    workers = config.workers or min(machine.processors(), max(1, len(entries) // 8))
    with Stop(progress.note) as stop:
        known, source = KnownValues(), Originals()
        if config.originals is not None:
            source, known = originals.read(
                config.originals, config.crosswalks, workers=workers, stop=stop, progress=progress
            )
            if not source.files:
                fix = "give the archive that the files were made from"
                raise DataError(problem("no file of the originals can be read", where="originals", fix=fix))
        if config.identifiers is not None:
            listed = identifier_list.read(config.identifiers)
            known.add(listed)
            known.births |= listed.days
        reading = (reader or Reader()) if config.pixels else None
        search = IdentifierSearch(known, source, config.originals, tool, reading)
        outcomes = list(_outcomes(folder, entries, search, workers, stop, progress))
    if not any(one.dicom or one.verdict is FileVerdict.LEAK for one in outcomes):
        fix = "give DICOM files, or a run, dataset, clean archive, predictions, release or sweep"
        what = "meninx wrote no folder here, and no file is DICOM"
        raise UsageError(problem(what, where=folder.name, fix=fix))
    return _result(folder, config, entries, outcomes, search)


def _outcomes(
    folder: Path,
    entries: Sequence[SourceFile],
    search: IdentifierSearch,
    workers: int,
    stop: Stop,
    progress: Progress,
) -> Iterator[FileOutcome]:
    opened = [item for item in entries if not item.refused]
    tasks = ((str(folder), item) for item in opened)
    with task(progress, "verify", len(entries)):
        done = mapped(
            dicom_file.check,
            tasks,
            workers=workers,
            stop=stop,
            setup=dicom_file.prepared,
            setup_args=(search,),
            died=dicom_file.died,
        )
        for item in entries:
            yield FileOutcome((FileFinding("unreadable", item.refused),)) if item.refused else next(done)
            progress.advance()
        done.close()


def _conflicts(outcomes: Sequence[FileOutcome]) -> set[int]:
    """Return the files of studies of two patients and of series of two studies, and repeated instances."""
    patients, studies, instances = dict[bytes, bytes](), dict[bytes, bytes](), set[bytes]()
    found = set()
    for number, one in enumerate(outcomes):
        if len(one.ids) != 4:
            continue
        patient, study, series, instance = one.ids
        if study and patients.setdefault(study, patient) != patient:
            found.add(number)
        if series and studies.setdefault(series, study) != study:
            found.add(number)
        if instance and instance in instances:
            found.add(number)
        instances.add(instance)
    return found


def _result(
    folder: Path,
    config: DicomCheckConfig,
    entries: Sequence[SourceFile],
    outcomes: Sequence[FileOutcome],
    search: IdentifierSearch,
) -> DicomCheckResult:
    conflicts = _conflicts(outcomes)
    checked = []
    for number, (entry, one) in enumerate(zip(entries, outcomes, strict=True)):
        more = (FileFinding("uid-conflict", "StudyInstanceUID"),) if number in conflicts else ()
        found = (*one.findings, *more)
        shown = config.show_paths and not _names_somebody(entry.path, search)
        name = names.encodable(entry.path) if shown else f"file {number + 1}"
        checked.append(CheckedFile(name, verdict_of(found, dicom=one.dicom), found))
    verdicts = Counter(item.verdict for item in checked)
    reasons, places = Counter[str](), Counter[str]()
    for item in checked:
        reasons.update({one.reason for one in item.findings})
        places.update({f"{one.reason} {one.place}" for one in item.findings})
    here = {one.ids[3] for one in outcomes if len(one.ids) == 4}
    weight = [Weight.LEAK, Weight.UNREADABLE, Weight.SUSPICIOUS, Weight.NOTE]
    order = sorted(reasons, key=lambda code: (weight.index(REASONS[code][0]), -reasons[code], code))
    matched = sum(one.matched for one in outcomes)
    parts = check_parts.parts_of(
        config,
        CheckCounts(
            dicom=sum(one.dicom for one in outcomes),
            unreadable=verdicts[FileVerdict.UNREADABLE],
            images=sum(one.image for one in outcomes),
            unread_images=reasons[pixel_text.UNREAD],
            matched=matched,
            values=search.known.count,
            originals_unread=search.originals.unread,
            untested=reasons["conformance-unchecked"],
            others_unread=reasons["content-unread"],
        ),
    )
    shown_paths = (item for item in search.originals.unread_paths if config.show_paths)
    result = DicomCheckResult(
        out=folder,
        files=len(checked),
        dicom=sum(one.dicom for one in outcomes),
        images=sum(one.image for one in outcomes),
        verdicts={word: verdicts[word] for word in FileVerdict},
        reasons={code: reasons[code] for code in order},
        places=dict(places.most_common(MOST_SHOWN)),
        matched=matched,
        originals=len(search.originals.files),
        originals_unread=dict(sorted(search.originals.unread.items())),
        unread_paths=tuple(
            names.encodable(item) for item in shown_paths if not _names_somebody(item, search)
        ),
        people=len(search.originals.people),
        values=search.known.count,
        dangling=len({one for item in outcomes for one in item.references} - here),
        parts=parts,
        findings=tuple(item for item in checked if item.findings),
        page=config.page,
    )
    if config.page is not None:
        from meninx.verify import dicom_page

        files.write_text(config.page, dicom_page.render(result))
    return result


def _names_somebody(path: str, search: IdentifierSearch) -> bool:
    return search.known.hit(dicom_file.words_of(path)) == CERTAIN
