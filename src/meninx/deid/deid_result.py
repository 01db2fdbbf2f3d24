"""What a run of the ``deid`` stage returns: counts, and what they mean in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meninx.core.errors import DataError, problem
from meninx.core.result import Result
from meninx.deid.burned_in.pixel_triggers import CONTACT_SHEET
from meninx.deid.review import layout_sheet
from meninx.dicomfile import media_directory, refusals
from meninx.dicomfile.refusals import Reason
from meninx.imaging import ocr


@dataclass(frozen=True, kw_only=True)
class DeidResult(Result):
    """What one run did.

    Attributes:
        files_read: files found below the source.
        files_written: instances in the output folder (none in a dry run).
        quarantined: reason code -> files.
        patients: distinct patients written.
        studies: distinct studies written.
        series: distinct series written.
        residual_findings: files in which the self-check found an original identifier; none of them was
            published.
        burned_in_unknown: images that may show text in their pixels, which were not searched.
        flagged: reason -> images among these.
        pixels_searched: images whose pixels were searched for text.
        pixels_redacted: images among these in which text was redacted.
        layouts: distinct layouts of text among these.
        series_defaced: CT and MR series from which a mask of the face was removed.
        series_not_head: CT and MR series that show no head, by header and pixels.
        series_face_refused: CT and MR series that were kept out because they may show a face.
        actions: keyword -> action letter -> elements.
        files_resumed: files that an earlier run had finished.
        dry_run: nothing was written.
        directories: files that DICOMDIRs of the source name, and those of them missing or outside.
        signer: fingerprint of the site's signing key, which signed the output; empty in a dry run.
    """

    files_read: int
    files_written: int
    quarantined: Mapping[str, int]
    patients: int
    studies: int
    series: int
    residual_findings: int
    burned_in_unknown: int
    actions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    flagged: Mapping[str, int] = field(default_factory=dict)
    pixels_searched: int = 0
    pixels_redacted: int = 0
    layouts: int = 0
    series_defaced: int = 0
    series_not_head: int = 0
    series_face_refused: int = 0
    files_resumed: int = 0
    dry_run: bool = False
    signer: str = ""
    directories: Mapping[str, int] = field(default_factory=dict)

    def alerts(self) -> tuple[str, ...]:
        """Return what somebody has to decide before all files can be written."""
        waiting = self.quarantined.get(Reason.ISSUER_CONFLICT, 0)
        if not waiting:
            return ()
        return (
            f"{waiting} files were kept out because their PatientID is also that of another issuer; look at "
            "private/issuers.csv, and say in --issuer-domains which issuers number their patients together",
        )

    def raise_if_nothing_is_clean(self) -> None:
        """Raise if no file could be de-identified.

        Raises:
            DataError: with the number of files.
        """
        if self.files_read and sum(self.quarantined.values()) == self.files_read:
            fix = "private/quarantine.csv in the output folder lists the reasons"
            if self.dry_run:
                fix = "the reasons are counted above; private/quarantine.csv of a run lists the files"
            what = f"none of {self.files_read:,} files could be de-identified"
            raise DataError(problem(what, where="source", fix=fix))

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        kept_out = sum(self.quarantined.values())
        lines = [
            f"{self.files_read} files read, {self.files_written} written, {kept_out} kept out"
            + (" (dry run: nothing was written)" if self.dry_run else ""),
            f"{self.patients} patients, {self.studies} studies, {self.series} series",
            *(f"  {refusals.counted(reason, number)}" for reason, number in self.quarantined.items()),
            f"self-check: {self.residual_findings} files held an original identifier and were kept out",
        ]
        if self.directories:
            lines.append(f"DICOMDIR: {media_directory.directories_in_words(self.directories)}")
        if self.pixels_searched:
            lines.append(
                f"pixels: {self.pixels_searched} images searched for text, {self.pixels_redacted} redacted, "
                f"{self.layouts} layouts"
            )
            if not self.dry_run:
                lines.append(f"look at each layout once: {self.out / 'private' / layout_sheet.PAGE}")
        if self.series_defaced or self.series_not_head or self.series_face_refused:
            lines.append(
                f"faces: a mask was removed from {self.series_defaced} CT and MR series, "
                f"{self.series_not_head} show no head, {self.series_face_refused} kept out"
            )
        if self.quarantined.get(Reason.TEXT_POSSIBLE) and not ocr.is_available():
            lines.append(
                "images that may hold text were kept out: pip install 'meninx[ocr]' to have them read"
            )
        if self.burned_in_unknown:
            lines.append(
                f"NOT checked: {self.burned_in_unknown} images may show text in their pixels "
                "(ultrasound, captures, ...)"
            )
            lines += (
                []
                if self.dry_run
                else [f"look at them before anything leaves: {self.out / 'private' / CONTACT_SHEET}"]
            )
        if self.signer:
            lines.append(f"signed by {self.signer}; tell it to whoever checks the archive")
        return "\n".join(lines)
