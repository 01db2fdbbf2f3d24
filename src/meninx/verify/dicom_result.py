"""What a check of DICOM files found: counts, findings, text and exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meninx.core.errors import DataError, PrivacyRefusal, problem
from meninx.core.result import Result
from meninx.core.summaries import number_of
from meninx.dicomfile.refusals import meaning
from meninx.verify.check_parts import CheckPart, PartState, open_parts
from meninx.verify.dicom_findings import REASONS, FileFinding, FileVerdict

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
    findings: tuple[FileFinding, ...]


@dataclass(frozen=True, kw_only=True)
class DicomCheckResult(Result):
    """What was found in DICOM files.

    Attributes:
        files: number of files.
        dicom: files among these that are DICOM, unreadable ones included.
        images: files among these with pixel data.
        verdicts: number of files per verdict.
        reasons: number of files per reason code.
        places: number of files per reason code and attribute.
        matched: files whose original is known.
        originals: files of the archive given as originals that were read.
        originals_unread: reason code -> files of it that were not read.
        unread_paths: their paths, where paths are shown.
        people: people in the originals.
        values: distinct identifiers that were searched for.
        dangling: references to instances that are not among the files.
        parts: what was checked, in part or not at all.
        findings: the files with a finding.
        page: the page that was written, if any.
    """

    files: int
    dicom: int
    images: int
    verdicts: dict[str, int]
    reasons: dict[str, int]
    places: dict[str, int]
    matched: int
    originals: int
    originals_unread: dict[str, int]
    unread_paths: tuple[str, ...]
    people: int
    values: int
    dangling: int
    parts: tuple[CheckPart, ...]
    findings: tuple[CheckedFile, ...] = field(repr=False)
    page: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether no file is a leak and every file could be read, whatever parts were checked."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """4 if an identifier or a file that is not de-identified was found, 3 if a file could not be read."""
        if self.verdicts.get(FileVerdict.LEAK):
            return PrivacyRefusal.exit_code
        return DataError.exit_code if self.verdicts.get(FileVerdict.UNREADABLE) else 0

    def state(self, name: str) -> PartState:
        """Return whether a part, by its name, was checked."""
        return next(part.state for part in self.parts if part.name == name)

    @property
    def verdict(self) -> str:
        """One line: what was found in what was checked, and the names of what was not checked."""
        leaks, unread, open_ = (
            self.verdicts.get(word, 0)
            for word in (FileVerdict.LEAK, FileVerdict.UNREADABLE, FileVerdict.SUSPICIOUS)
        )
        if leaks:
            first = f"FAILED: {_leaking(leaks, self.files)}"
        elif unread:
            first = f"NOT VERIFIED: {unread:,} of {number_of(self.files, 'file')} could not be read"
        elif open_:
            first = f"no leak in what was checked; to look at: {open_:,} of {number_of(self.files, 'file')}"
        else:
            first = f"nothing found in what was checked of {number_of(self.files, 'file')}"
        return f"{first}. Not checked: {', '.join(open_parts(self.parts))}"

    def summary(self) -> str:
        """Return counts, reasons, what was checked and what was not; the last line is the verdict."""
        counts = ", ".join(f"{count} {word}" for word, count in self.verdicts.items() if count)
        lines = [f"{number_of(self.files, 'file')}: {counts or 'none'}"]
        lines += [
            f"  {code:<24} {count:>6}  {REASONS[code][1]} ({REASONS[code][0]})"
            for code, count in self.reasons.items()
        ]
        if self.originals:
            lines.append(
                f"originals: {number_of(self.originals, 'file')} of "
                f"{number_of(self.people, 'person', 'people')}; "
                f"the original of {number_of(self.matched, 'file')} is known"
            )
        lines += [f"  not read: {count} x {words}" for words, count in unread_in_words(self.originals_unread)]
        lines += [f"  not read: {name}" for name in self.unread_paths]
        if self.values:
            lines.append(f"searched for: {number_of(self.values, 'value')}")
        done = [part.name for part in self.parts if part.state is PartState.CHECKED]
        lines += [f"checked: {', '.join(done)}"] if done else []
        left = (part for part in self.parts if part.state is not PartState.CHECKED)
        lines += [f"{part.state}: {part.name}: {part.what}" for part in left]
        lines += [f"page: {self.page}"] if self.page is not None else []
        return "\n".join([*lines, self.verdict])

    def to_table(self) -> dict[str, Any]:
        """Return the fields as plain values, with the verdict."""
        more = {"ok": self.ok, "exit_code": self.exit_code, "verdict": self.verdict}
        return {**super().to_table(), **more}

    def raise_if_failed(self) -> None:
        """Raise the error of the verdict.

        Raises:
            PrivacyRefusal: a file is a leak.
            DataError: files could not be read.
        """
        count = self.verdicts.get(FileVerdict.LEAK, 0)
        if count:
            what = _leaking(count, self.files)
            fix = "do not pass these files on"
            raise PrivacyRefusal(problem(what, where="verify", fix=fix))
        count = self.verdicts.get(FileVerdict.UNREADABLE, 0)
        if count:
            what, fix = (
                f"{count:,} of {number_of(self.files, 'file')} could not be checked",
                "check them by hand, or leave them out",
            )
            raise DataError(problem(what, where="verify", fix=fix))


def _leaking(count: int, files: int) -> str:
    hold, are = ("holds", "is") if count == 1 else ("hold", "are")
    return f"{count:,} of {number_of(files, 'file')} {hold} an identifier or {are} not de-identified"


def unread_in_words(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return each reason for which originals were not read, with what it means, and the number of files."""
    return [(f"{code} ({meaning(code)})", count) for code, count in sorted(counts.items())]
