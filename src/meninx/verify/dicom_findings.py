"""Findings of a check of DICOM files: reason codes, their weight, and the verdict of a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FileVerdict(StrEnum):
    """What came of one file: the worst finding, or that what was checked found nothing."""

    NOTHING = "nothing found"
    SUSPICIOUS = "suspicious"
    LEAK = "leak"
    UNREADABLE = "unreadable"
    OTHER = "not DICOM"


class Weight(StrEnum):
    """What a finding means for the verdict; a note does not change it."""

    NOTE = "note"
    SUSPICIOUS = "suspicious"
    LEAK = "leak"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, order=True, slots=True)
class FileFinding:
    """One finding; it never holds a value.

    Attributes:
        reason: a key of :data:`REASONS`.
        place: keyword, or path of keywords, of the attribute; or a part of the file.
    """

    reason: str
    place: str = ""


REASONS: dict[str, tuple[Weight, str]] = {
    "not-deidentified": (
        Weight.LEAK,
        "nothing says that the file is de-identified, and it names a person: an original",
    ),
    "identifier": (Weight.LEAK, "an identifier of the original, or of the list"),
    "identifier-in-path": (Weight.LEAK, "an identifier in the path of the file"),
    "identifier-in-bytes": (Weight.LEAK, "an identifier in bytes that are no attribute's text"),
    "identifier-in-pixels": (Weight.LEAK, "an identifier was read in the pixels"),
    "date-unchanged": (Weight.LEAK, "a date equals that of the original, and no option keeps dates"),
    "uid-unchanged": (Weight.LEAK, "a UID of an original, and no option keeps UIDs"),
    "identifier-by-chance": (
        Weight.SUSPICIOUS,
        "a short or common value that is an identifier of somebody; it may stand there by chance",
    ),
    "marker-missing": (Weight.SUSPICIOUS, "PatientIdentityRemoved is not YES"),
    "method-missing": (Weight.SUSPICIOUS, "no de-identification method, or no codes of the profile"),
    "marker-contradicted": (Weight.SUSPICIOUS, "dates are declared removed, and are there"),
    "not-removed": (Weight.SUSPICIOUS, "the profile removes this attribute, and it has a value"),
    "patient-name": (Weight.SUSPICIOUS, "PatientName has the form of a person's name"),
    "person-name": (Weight.SUSPICIOUS, "a person's name other than that of the patient"),
    "birth-date": (Weight.SUSPICIOUS, "a birth date"),
    "age-over-89": (Weight.SUSPICIOUS, "an age above 90 years"),
    "private-attribute": (Weight.SUSPICIOUS, "a private attribute that is not on the safe list"),
    "looks-identifying": (Weight.SUSPICIOUS, "a text with an e-mail address, a title with a name, or a date"),
    "invalid-uid": (Weight.SUSPICIOUS, "a value that is no UID"),
    "uid-disagrees": (Weight.SUSPICIOUS, "file meta and data set name different instances"),
    "uid-conflict": (
        Weight.SUSPICIOUS,
        "a study of two patients, a series of two studies, or an instance twice",
    ),
    "invalid-date": (Weight.SUSPICIOUS, "a value that is no date"),
    "burned-in-declared": (Weight.SUSPICIOUS, "BurnedInAnnotation is YES"),
    "text-in-pixels": (Weight.SUSPICIOUS, "text in the pixels that is not technical"),
    "pixel-text-unread": (Weight.SUSPICIOUS, "pixels that cannot be decoded, so text in them was not read"),
    "overlay": (Weight.SUSPICIOUS, "an overlay or a curve"),
    "unused-bits": (Weight.SUSPICIOUS, "content in bits of the pixels that are not displayed"),
    "icon": (Weight.SUSPICIOUS, "an icon image, which shows the pixels as they were"),
    "preamble": (Weight.SUSPICIOUS, "content in the first 128 bytes"),
    "trailing-bytes": (Weight.SUSPICIOUS, "content in the padding behind the data set"),
    "hidden-bytes": (Weight.SUSPICIOUS, "pixel data with bytes that no viewer shows"),
    "pixels-unchecked": (Weight.SUSPICIOUS, "pixel data that does not agree with its description"),
    "encapsulated-document": (Weight.SUSPICIOUS, "an embedded document, whose pages were not read"),
    "content-unread": (
        Weight.SUSPICIOUS,
        "no DICOM and no text, such as a picture or a PDF, or a text in an unknown encoding or with other "
        "bytes in it: not all of it was read",
    ),
    "old-values": (Weight.SUSPICIOUS, "original or encrypted attributes, or a signature"),
    "new-conformance-error": (Weight.SUSPICIOUS, "dciodvfy finds an error"),
    "conformance-unchecked": (Weight.SUSPICIOUS, "dciodvfy gave no answer"),
    "group-length": (Weight.NOTE, "a retired group length"),
    "unreadable": (Weight.UNREADABLE, "the file cannot be read"),
}
"""Reason code -> its weight, and what it says."""

_ORDER = (Weight.LEAK, Weight.UNREADABLE, Weight.SUSPICIOUS)
_VERDICTS = {
    Weight.LEAK: FileVerdict.LEAK,
    Weight.UNREADABLE: FileVerdict.UNREADABLE,
    Weight.SUSPICIOUS: FileVerdict.SUSPICIOUS,
}


def verdict_of(found: Iterable[FileFinding], *, dicom: bool = True) -> FileVerdict:
    """Return the verdict of a file from its findings: the worst one counts.

    >>> verdict_of([FileFinding("overlay"), FileFinding("identifier", "StudyDescription")])
    <FileVerdict.LEAK: 'leak'>
    >>> verdict_of([FileFinding("group-length")])
    <FileVerdict.NOTHING: 'nothing found'>
    """
    weights = {REASONS[item.reason][0] for item in found}
    worst = next((weight for weight in _ORDER if weight in weights), None)
    if worst is not None:
        return _VERDICTS[worst]
    return FileVerdict.NOTHING if dicom else FileVerdict.OTHER
