"""What a check of DICOM files found: counts, findings, text and exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meninx.core.errors import DataError, PrivacyRefusal, problem
from meninx.core.result import Result
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
                f"originals: {self.originals} files of {self.people} people, "
                f"{self.originals_unread} not read; "
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
