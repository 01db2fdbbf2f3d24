"""The parts of a check of DICOM files: what was checked, what was checked in part, and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from meninx.core.summaries import number_of
from meninx.dicomfile.refusals import Reason
from meninx.verify.config import DicomCheckConfig


class PartState(StrEnum):
    """Whether a part was checked."""

    CHECKED = "checked"
    PARTLY = "checked in part"
    NOT = "not checked"


@dataclass(frozen=True)
class CheckPart:
    """One part of a check.

    Attributes:
        name: in one or two words.
        state: whether it was checked.
        what: what belongs to it, or why it was not checked, as half a sentence.
    """

    name: str
    state: PartState
    what: str


HEADERS, KNOWN, PIXELS = "headers", "known identifiers", "text in the pixels"
UNCHANGED, CONFORMANCE, FACES, PROSE = "dates and UIDs", "conformance", "faces", "free text"


@dataclass(frozen=True, kw_only=True)
class CheckCounts:
    """The numbers on which the states depend.

    Attributes:
        dicom: files that are DICOM, unreadable ones included.
        unreadable: files that could not be checked.
        images: files with pixel data.
        unread_images: of these, those whose frames could not be decoded for the reading of text.
        matched: files whose original is known.
        values: identifiers searched.
        originals_unread: reason code -> files of the originals that were not read.
        untested: files to which dciodvfy gave no answer.
        others_unread: files that are no DICOM and no text, or in an encoding that cannot be told.
    """

    dicom: int
    unreadable: int
    images: int
    unread_images: int
    matched: int
    values: int
    originals_unread: Mapping[str, int]
    untested: int
    others_unread: int = 0


def parts_of(config: DicomCheckConfig, counts: CheckCounts) -> tuple[CheckPart, ...]:
    """Return every part with its state; parts that no setting can check are among them."""
    return (
        _part(
            HEADERS,
            counts.unreadable == 0,
            "markers of de-identification; attributes that the Basic Profile removes under the options that "
            "each file declares; private attributes; names of persons, birth dates and ages above 90; forms "
            "of UIDs and dates; whether there are overlays, icons or embedded documents; preamble, padding, "
            "unused bits, and bytes in the pixel data that no viewer shows",
        ),
        _known(counts),
        _pixels(config, counts),
        _unchanged(config, counts),
        _part(CONFORMANCE, not counts.untested, "errors that dciodvfy finds")
        if config.conformance
        else CheckPart(CONFORMANCE, PartState.NOT, "give --conformance"),
        CheckPart(FACES, PartState.NOT, "images of a head may show a face that can be recognized"),
        CheckPart(
            PROSE,
            PartState.NOT,
            "names and texts that are on no list: no text was read for its meaning",
        ),
    )


def _part(name: str, whole: bool, what: str) -> CheckPart:
    return CheckPart(name, PartState.CHECKED if whole else PartState.PARTLY, what)


def _known(counts: CheckCounts) -> CheckPart:
    if not counts.values:
        return CheckPart(KNOWN, PartState.NOT, "neither originals nor a list of identifiers was given")
    without = (Reason.NOT_DICOM, Reason.DICOMDIR)  # the files that a DICOMDIR names are read themselves
    unread = sum(number for code, number in counts.originals_unread.items() if code not in without)
    what = (
        "in every value at every depth, in file meta information, preamble, bytes of the pixel data and paths"
    )
    if unread:
        what += f"; those of {number_of(unread, 'original')} that could not be read are not among them"
    return _part(
        KNOWN, not unread and not counts.unreadable and not counts.others_unread, what + _others(counts)
    )


def _pixels(config: DicomCheckConfig, counts: CheckCounts) -> CheckPart:
    if not config.pixels:
        return CheckPart(PIXELS, PartState.NOT, "give --pixels")
    read = counts.images - counts.unread_images
    what = f"read in the frames of {read:,} of {number_of(counts.images, 'image')}"
    what += ", not in overlays, icons and embedded documents; a part of small or faint text is missed"
    whole = not counts.unread_images and not counts.unreadable and not counts.others_unread
    return _part(PIXELS, whole, what + _others(counts))


def _others(counts: CheckCounts) -> str:
    if not counts.others_unread:
        return ""
    others = number_of(counts.others_unread, "file")
    return f"; not in what {others} of another kind than DICOM and readable text may show"


def _unchanged(config: DicomCheckConfig, counts: CheckCounts) -> CheckPart:
    if config.originals is None:
        return CheckPart(UNCHANGED, PartState.NOT, "whether they differ from the originals: give --originals")
    what = f"of the {counts.matched:,} of {number_of(counts.dicom, 'file')} whose original is known"
    return _part(
        UNCHANGED, counts.matched == counts.dicom, f"whether dates differ, {what}; UIDs in all files"
    )


def open_parts(parts: tuple[CheckPart, ...]) -> Iterator[str]:
    """Yield the names of what was not, or not wholly, checked."""
    for part in parts:
        if part.state is PartState.NOT:
            yield part.name
        elif part.state is PartState.PARTLY:
            yield f"{part.name} (in part)"
