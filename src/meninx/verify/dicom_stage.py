"""``meninx verify`` of DICOM files of any origin: every file is checked, and one page says what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meninx.core import files, machine
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, problem
from meninx.core.pool import Stop, mapped
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.core.workspace import PRIVATE
from meninx.deid import discover
from meninx.deid.discover import SourceFile
from meninx.imaging import ocr
from meninx.report import stage as reports
from meninx.verify import conformance, dicom_file, identifier_list, originals
from meninx.verify.config import DicomCheckConfig
from meninx.verify.dicom_file import FileOutcome, Search
from meninx.verify.dicom_findings import REASONS, FileVerdict, Finding, Weight, verdict_of
from meninx.verify.known_values import CERTAIN, KnownValues
from meninx.verify.originals import Originals

MOST_SHOWN = 2000  # files that the page lists


@dataclass(frozen=True)
class CheckedFile:
    """One file as it is shown.

    Attributes:
        name: its number, or its path where paths are shown.
        verdict: the worst finding.
        findings: reason codes with places.
    """

    name: str
    verdict: FileVerdict
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class DicomCheckResult(Result):
    """What was found in DICOM files.

    Attributes:
        files: number of files.
        verdicts: number of files per verdict.
        reasons: number of files per reason code.
        places: number of files per reason code and attribute.
        matched: files whose original is known.
        originals: files of the archive given as originals that were read.
        originals_unread: files of it that were not read.
        people: people in the originals.
        values: distinct identifiers that were searched for.
        dangling: references to instances that are not among the files.
        checked: what was checked, in sentences.
        not_checked: what was not, in sentences.
        findings: the files with a finding.
        page: the page that was written, if any.
    """

    files: int
    verdicts: dict[str, int]
    reasons: dict[str, int]
    places: dict[str, int]
    matched: int
    originals: int
    originals_unread: int
    people: int
    values: int
    dangling: int
    checked: tuple[str, ...]
    not_checked: tuple[str, ...]
    findings: tuple[CheckedFile, ...] = field(repr=False)
    page: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether no identifier was found and every file was checked."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """4 if an identifier was found, 3 if files could not be checked (or originals not read), else 0."""
        if self.verdicts.get(FileVerdict.LEAK):
            return PrivacyRefusal.exit_code
        return DataError.exit_code if self.verdicts.get(FileVerdict.UNREADABLE) else 0

    def summary(self) -> str:
        """Return the verdicts, the reasons, and what was not checked."""
        counts = ", ".join(f"{count} {word}" for word, count in self.verdicts.items() if count)
        lines = [f"{self.files} files: {counts or 'none'}"]
        lines += [
            f"  {code:<24} {count:>6}  {REASONS[code][1]} ({REASONS[code][0]})"
            for code, count in self.reasons.items()
        ]
        if self.originals:
            lines.append(
                f"originals: {self.originals} files of {self.people} people, {self.originals_unread} not read; "
                f"the original of {self.matched} files is known"
            )
        if self.values:
            lines.append(f"searched for: {self.values} values")
        lines += [f"not checked: {item}" for item in self.not_checked]
        lines += [f"page: {self.page}"] if self.page is not None else []
        return "\n".join(lines)

    def to_table(self) -> dict[str, Any]:
        """Return the fields as plain values, with the verdict."""
        return {**super().to_table(), "ok": self.ok, "exit_code": self.exit_code}

    def raise_if_failed(self) -> None:
        """Raise the error of the verdict.

        Raises:
            PrivacyRefusal: an identifier was found.
            DataError: files could not be checked.
        """
        count = self.verdicts.get(FileVerdict.LEAK, 0)
        if count:
            what, fix = f"{count} of {self.files} files hold an identifier", "do not pass these files on"
            raise PrivacyRefusal(problem(what, where="verify", fix=fix))
        count = self.verdicts.get(FileVerdict.UNREADABLE, 0)
        if count:
            what, fix = (
                f"{count} of {self.files} files could not be checked",
                "check them by hand, or leave them out",
            )
            raise DataError(problem(what, where="verify", fix=fix))


def run(folder: Path, config: DicomCheckConfig, *, progress: Progress = SILENT) -> DicomCheckResult:
    """Check every file below a folder, or one file; nothing but the page is written.

    Guarantee: every file is counted under one verdict, and no result holds a value of a file.

    Args:
        folder: the files.
        config: what is searched for and checked.
        progress: told of every file.

    Raises:
        UsageError: there is nothing to check, a needed extra is not installed, or the page cannot be written
            there.
        DataError: originals, list or crosswalk cannot be read.
        Interrupted: stopped by the user.
    """
    if config.page is not None:
        reports.refuse_page(config.page, overwrite=config.overwrite)
        if folder.is_dir() and config.page.resolve().is_relative_to(folder.resolve()):
            fix = "write the page elsewhere"
            raise UsageError(problem("the page would lie among the files", where="page", fix=fix))
    if config.pixels and not ocr.is_available():
        fix = "pip install 'meninx[ocr]'"
        raise UsageError(problem("text in pixels cannot be read without rapidocr", where="pixels", fix=fix))
    tool = conformance.program() if config.conformance else ""
    entries = [item for item in discover.files_below(folder) if not item.path.startswith(f"{PRIVATE}/")]
    if not entries:
        raise UsageError(problem("there is no file here", where="verify", fix="check the path"))
    workers = config.workers or min(machine.processors(), max(1, len(entries) // 8))
    with Stop() as stop:
        known, source = KnownValues(), Originals()
        if config.originals is not None:
            source, known = originals.read(
                config.originals, config.crosswalks, workers=workers, stop=stop, progress=progress
            )
            if not source.files:
                fix = "give the archive that the files were made from"
                raise DataError(problem("no file of the originals can be read", where="originals", fix=fix))
        if config.identifiers is not None:
            known.add(identifier_list.read(config.identifiers))
        search = Search(known, source, config.originals, tool, config.pixels)
        outcomes = list(_outcomes(folder, entries, search, workers, stop, progress))
    return _result(folder, config, entries, outcomes, search)


def _outcomes(
    folder: Path,
    entries: Sequence[SourceFile],
    search: Search,
    workers: int,
    stop: Stop,
    progress: Progress,
) -> Iterator[FileOutcome]:
    opened = [item for item in entries if not item.refused]
    tasks = ((str(folder / item.path if folder.is_dir() else folder), item.path) for item in opened)
    with task(progress, "verify", len(entries)):
        done = mapped(
            dicom_file.check,
            tasks,
            workers=workers,
            stop=stop,
            setup=dicom_file.prepare,
            setup_args=(search,),
            died=dicom_file.died,
        )
        for item in entries:
            yield FileOutcome((Finding("unreadable", item.refused),)) if item.refused else next(done)
            progress.advance()
        done.close()


def _conflicts(outcomes: Sequence[FileOutcome]) -> set[int]:
    """Return the files of a study of two patients, of a series of two studies, and instances that occur twice."""
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
    search: Search,
) -> DicomCheckResult:
    conflicts = _conflicts(outcomes)
    checked = []
    for number, (entry, one) in enumerate(zip(entries, outcomes, strict=True)):
        more = (Finding("uid-conflict", "StudyInstanceUID"),) if number in conflicts else ()
        found = (*one.findings, *more)
        shown = config.show_paths and search.known.hit(dicom_file.words_of(entry.path)) != CERTAIN
        name = entry.path if shown else f"file {number + 1}"
        checked.append(CheckedFile(name, verdict_of(found, dicom=one.dicom), found))
    verdicts = Counter(item.verdict for item in checked)
    reasons = Counter(code for item in checked for code in {f.reason for f in item.findings})
    places = Counter(f"{f.reason} {f.place}" for item in checked for f in set(item.findings))
    here = {one.ids[3] for one in outcomes if len(one.ids) == 4}
    weight = [Weight.LEAK, Weight.UNREADABLE, Weight.SUSPICIOUS, Weight.NOTE]
    order = sorted(reasons, key=lambda code: (weight.index(REASONS[code][0]), -reasons[code], code))
    done, open_ = _scope(config, bool(search.known))
    result = DicomCheckResult(
        out=folder,
        files=len(checked),
        verdicts={word: verdicts[word] for word in FileVerdict},
        reasons={code: reasons[code] for code in order},
        places=dict(places.most_common(MOST_SHOWN)),
        matched=sum(one.matched for one in outcomes),
        originals=len(search.originals.files),
        originals_unread=search.originals.unread,
        people=len(search.originals.people),
        values=search.known.count,
        dangling=len({one for item in outcomes for one in item.references} - here),
        checked=done,
        not_checked=open_,
        findings=tuple(item for item in checked if item.findings),
        page=config.page,
    )
    if config.page is not None:
        from meninx.verify import dicom_page

        files.write_text(config.page, dicom_page.render(result))
    return result


def _scope(config: DicomCheckConfig, searched: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what was checked and what was not, in sentences."""
    done = [
        "markers of de-identification against the content; attributes that the Basic Profile removes under "
        "the options that each file declares; private attributes; names of persons, birth dates and ages above 90; "
        "UIDs and dates; overlays, icons, embedded documents; preamble, padding, unused bits and bytes in "
        "pixel data that no viewer shows",
    ]
    open_ = ["faces in head images, which can be recognized"]
    if searched:
        done.append("every text at every depth, the bytes of the pixel data and the paths, for identifiers")
    else:
        open_.append("identifiers of the patients: neither originals nor a list was given")
    for wanted, what in (
        (config.pixels, "text in the pixels"),
        (config.conformance, "conformance by dciodvfy"),
    ):
        (done if wanted else open_).append(what)
    if config.originals is None:
        open_.append("whether dates were shifted and UIDs replaced, which takes the originals")
    open_.append("names and texts that are on no list: free text was not read for its meaning")
    return tuple(done), tuple(open_)
