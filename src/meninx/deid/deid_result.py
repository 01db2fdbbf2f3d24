"""What a run of the ``deid`` stage returns: counts, and what they mean in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from meninx.core import review_words
from meninx.core.errors import DataError, problem
from meninx.core.result import Result, command
from meninx.core.summaries import (
    ReviewCounts,
    mostly_filled,
    not_searched,
    number_of,
    searched_for_text,
    unsearched,
)
from meninx.deid.review import layout_sheet, thumbnail_sheet
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
        contradicting: patients whose files contradict each other in name, birth date or sex.
        deidentified_before: instances whose original was a clean file of meninx, made with another key or for
            another site.
        burned_in_unknown: images that may show text in their pixels, which were not searched.
        flagged: reason -> images among these.
        images: instances with pixel data (in a dry run, those that would be written).
        pixels_searched: images among these whose pixels were searched for text.
        pixels_redacted: images among these in which text was redacted.
        pixels_mostly_filled: images among these of which more than half was filled.
        layouts: distinct layouts of text among these.
        review: what the decisions of reviewers did; None where none were given.
        series_defaced: CT and MR series from which a mask of the face was removed.
        series_not_head: CT and MR series that show no head, by header and pixels.
        series_face_refused: CT and MR series that were kept out because they may show a face.
        actions: keyword -> action letter -> elements.
        files_resumed: files that an earlier run had finished.
        dry_run: nothing was written.
        sealed: an escrow replaces the lists and tables of the private folder.
        private_files: what was done in the private folder because the settings ask for it, or would be done
            without ``dry_run``; in words.
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
    images: int = 0
    pixels_searched: int = 0
    pixels_redacted: int = 0
    pixels_mostly_filled: int = 0
    layouts: int = 0
    review: ReviewCounts | None = None
    series_defaced: int = 0
    series_not_head: int = 0
    series_face_refused: int = 0
    files_resumed: int = 0
    contradicting: int = 0
    deidentified_before: int = 0
    dry_run: bool = False
    sealed: bool = False
    private_files: tuple[str, ...] = ()
    signer: str = ""
    directories: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_lists(self) -> bool:
        """Whether the private folder holds the lists of the run: not after a dry run, nor once sealed."""
        return not (self.dry_run or self.sealed)

    def alerts(self) -> tuple[str, ...]:
        """Return what somebody has to decide before all files can be written."""
        found = []
        if waiting := self.quarantined.get(Reason.ISSUER_CONFLICT, 0):
            look = "look at private/issuers.csv, and say" if self.has_lists else "say"
            found.append(
                number_of(waiting, "file was kept out because its", "files were kept out because their")
                + f" PatientID is also that of another issuer; {look} "
                "in --issuer-domains which issuers number their patients together"
            )
        if undecided := self.quarantined.get(Reason.REVIEW_UNDECIDED, 0):
            found.append(
                number_of(undecided, "image was kept out because", "images were kept out because")
                + " two persons have not agreed on a layout; settle it with `meninx review --two-person` "
                "and run again"
            )
        return tuple(found)

    def raise_if_nothing_is_clean(self) -> None:
        """Raise if no file could be de-identified.

        Raises:
            DataError: with the number of files.
        """
        if self.files_read and sum(self.quarantined.values()) == self.files_read:
            fix = "private/quarantine.csv in the output folder lists the reasons"
            if self.dry_run:
                fix = "the reasons are counted above; private/quarantine.csv of a run lists the files"
            what = f"none of {number_of(self.files_read, 'file')} could be de-identified"
            raise DataError(problem(what, where="source", fix=fix))

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        kept_out = sum(self.quarantined.values())
        lines = [
            f"{number_of(self.files_read, 'file')} read, {self._written(kept_out)}, {kept_out} kept out"
            + (" (dry run: nothing was written)" if self.dry_run else ""),
            f"{number_of(self.patients, 'patient')}, {number_of(self.studies, 'study', 'studies')}, "
            f"{self.series:,} series",
            *(f"  {refusals.counted(reason, number)}" for reason, number in self.quarantined.items()),
            "self-check: "
            + number_of(
                self.residual_findings,
                "file held an original identifier and was",
                "files held an original identifier and were",
            )
            + " kept out",
        ]
        lines += self._identities()
        if self.directories:
            lines.append(f"DICOMDIR: {media_directory.directories_in_words(self.directories)}")
            if self.files_written:
                medium = self.out.with_name(f"{self.out.name}-medium")
                lines.append(f"a medium with a new DICOMDIR: {command('dicom', 'media', self.out, medium)}")
        lines += self._searches()
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
            lines.append(f"NOT checked: {unsearched(self.burned_in_unknown)} (ultrasound, captures, ...)")
            if self.has_lists:
                page = self.out / "private" / thumbnail_sheet.PAGE
                lines.append(f"look at them before anything leaves: {page}")
        lines += self.private_files
        if self.signer and self.files_written:
            lines.append(f"signed by {self.signer}; tell it to whoever checks the archive")
        return "\n".join(lines)

    def _written(self, kept_out: int) -> str:
        return (
            f"{self.files_read - kept_out} would be written"
            if self.dry_run
            else f"{self.files_written} written"
        )

    def _identities(self) -> list[str]:
        """Return what somebody has to look at, because two people may be one patient or one person two."""
        lines = []
        if self.contradicting:
            lines.append(
                f"contradicting name, birth date or sex under one PatientID: "
                f"{number_of(self.contradicting, 'patient')}; "
                "two people may share the ID"
            )
            if self.has_lists:
                lines.append(f"look at them: {self.out / 'private' / 'contradictions.csv'}")
        if self.deidentified_before:
            lines.append(
                "de-identified by meninx before, under another key or site: "
                f"{number_of(self.deidentified_before, 'image')}; their patients count as other ones"
            )
        return lines

    def _searches(self) -> Iterator[str]:
        kept_out = refusals.kept_out_after_search(self.quarantined)
        searched, written = self.pixels_searched + kept_out, self.pixels_searched
        if self.images > written:
            yield f"pixels: {not_searched(searched, self.images + kept_out)}"
        if searched:
            yield f"pixels: {searched_for_text(written, kept_out, self.pixels_redacted, self.layouts)}"
        if self.pixels_mostly_filled:
            yield f"LOOK: {mostly_filled(self.pixels_mostly_filled)}"
        if self.review is not None:
            yield f"review: {review_words.decided(self.review)}"
            yield from review_words.left(self.review)
            yield from filter(None, [review_words.unused(self.review)])
        reviewed = self.review is not None and not review_words.not_reviewed(self.review)
        if self.has_lists and self.layouts and not reviewed:
            yield f"look at each layout once: {self.out / 'private' / layout_sheet.PAGE}"
