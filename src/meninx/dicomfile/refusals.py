"""Reason codes of files that are not read or not cleaned, and the error that carries one."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """The reason codes; ``deid.json`` counts them, ``private/quarantine.csv`` names the files."""

    NOT_DICOM = "not-dicom"
    ARCHIVE = "archive"
    ARCHIVE_IN_ARCHIVE = "archive-in-archive"
    ZIP_DAMAGED = "zip-damaged"
    ZIP_EMPTY = "zip-empty"
    ZIP_TOO_LARGE = "zip-too-large"
    ZIP_ENCRYPTED = "zip-encrypted"
    ZIP_METHOD = "zip-method"
    ZIP_NAME = "zip-name"
    ZIP_DUPLICATE = "zip-duplicate"
    ZIP_LINK = "zip-link"
    ZIP_OVERLAP = "zip-overlap"
    ZIP_MEMBER_DAMAGED = "zip-member-damaged"
    TRUNCATED = "truncated"
    INFLATES_TOO_FAR = "inflates-too-far"
    UNREADABLE = "unreadable"
    DICOMDIR = "dicomdir"
    UNSUPPORTED_SOP_CLASS = "unsupported-sop-class"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported-transfer-syntax"
    ENCAPSULATED_PDF = "encapsulated-pdf"
    ENCAPSULATED_CDA = "encapsulated-cda"
    ENCAPSULATED_MODEL = "encapsulated-model"
    ENCAPSULATED_DOCUMENT = "encapsulated-document"
    VIDEO = "video"
    MISSING_IDENTITY = "missing-identity"
    IDENTITY_UNDECODABLE = "identity-undecodable"
    NOT_IN_LOOKUP = "not-in-lookup"
    LOOKUP_WITHOUT_ISSUER = "lookup-without-issuer"
    LOOKUP_CONFLICT = "lookup-conflict"
    ISSUER_CONFLICT = "issuer-conflict"
    ISSUER_MISSING = "issuer-missing"
    ISSUER_NOT_LISTED = "issuer-not-listed"
    RESIDUAL_IDENTIFIER = "residual-identifier"
    INVALID_UID = "invalid-uid"
    PIXEL_SIZE_MISSING = "pixel-size-missing"
    PIXEL_DATA_TOO_LONG = "pixel-data-too-long"
    SIZE_DISAGREES = "size-disagrees"
    FRAMES_DISAGREE = "frames-disagree"
    PIXELS_UNREADABLE = "pixels-unreadable"
    UNUSED_BITS = "unused-bits"
    PIXELS_CHANGED = "pixels-changed"
    BURNED_IN_DECLARED = "burned-in-declared"
    TEXT_POSSIBLE = "text-in-pixels-possible"
    TEXT_REMAINS = "text-remains"
    ALREADY_DEIDENTIFIED = "already-deidentified"
    REFUSED_IN_REVIEW = "refused-in-review"
    REVIEW_UNDECIDED = "review-undecided"
    HEAD_DOUBTFUL = "head-doubtful"
    HEAD_OUTLINE = "head-outline"
    FACE_NOT_FOUND = "face-not-found"
    FACE_GEOMETRY = "face-geometry"
    FACE_PIXELS = "face-pixels"
    DUPLICATE_IDENTICAL = "duplicate-identical"
    DUPLICATE_DIFFERENT = "duplicate-different"
    SYMLINK_OUTSIDE = "symlink-outside"
    BROKEN_LINK = "broken-link"
    NOT_A_FILE = "not-a-file"
    TOO_LARGE = "too-large"
    WORKER_DIED = "worker-died"
    PROCESSING_FAILED = "processing-failed"


MEANINGS: dict[Reason, str] = {
    Reason.NOT_DICOM: "no DICOM file",
    Reason.ARCHIVE: "a packed file that is no zip (tar, 7z, rar, gzip, ...): unpack it",
    Reason.ARCHIVE_IN_ARCHIVE: "a packed file inside a zip: unpack the outer one",
    Reason.ZIP_DAMAGED: "a zip whose directory is cut or contradicts itself: copy it again",
    Reason.ZIP_EMPTY: "a zip without a file",
    Reason.ZIP_TOO_LARGE: "a zip with more members or content than the limits allow: unpack it",
    Reason.ZIP_ENCRYPTED: "an encrypted member of a zip: unpack it with its password",
    Reason.ZIP_METHOD: "a member of a zip that is neither stored nor deflated: unpack it",
    Reason.ZIP_NAME: "a member of a zip with an absolute, climbing, overlong or unprintable name",
    Reason.ZIP_DUPLICATE: "two members of a zip with one name",
    Reason.ZIP_LINK: "a link or device in a zip",
    Reason.ZIP_OVERLAP: "members of a zip that share bytes, as in a zip bomb",
    Reason.ZIP_MEMBER_DAMAGED: "a member of a zip that is cut or differs from its checksum: copy it again",
    Reason.TRUNCATED: "the file ends early",
    Reason.INFLATES_TOO_FAR: "deflated content that grows too far",
    Reason.UNREADABLE: "the file cannot be parsed",
    Reason.DICOMDIR: "a DICOMDIR, which names patients; the files that it names are read themselves",
    Reason.UNSUPPORTED_SOP_CLASS: "a kind of object that is not cleaned",
    Reason.UNSUPPORTED_TRANSFER_SYNTAX: "a transfer syntax that is not read",
    Reason.ENCAPSULATED_PDF: "a PDF: its text and pictures are not read; export its pages as images",
    Reason.ENCAPSULATED_CDA: "a CDA document: its text is not read; take what you need from it by hand",
    Reason.ENCAPSULATED_MODEL: "a 3-D model (STL, OBJ, MTL): it may show a face or hold names of files",
    Reason.ENCAPSULATED_DOCUMENT: "another encapsulated document: its content is not read",
    Reason.VIDEO: "a video (MPEG-2, MPEG-4, HEVC): its frames are not read; export them as multi-frame",
    Reason.MISSING_IDENTITY: "a UID that assigns the file to a study is missing",
    Reason.IDENTITY_UNDECODABLE: (
        "PatientID or its issuer does not decode in the declared character set: correct SpecificCharacterSet"
    ),
    Reason.NOT_IN_LOOKUP: "the lookup table does not list the patient",
    Reason.LOOKUP_WITHOUT_ISSUER: "the lookup table does not say whose PatientID it lists",
    Reason.LOOKUP_CONFLICT: "the new PatientID belongs to another patient",
    Reason.ISSUER_CONFLICT: "the PatientID is also that of another issuer",
    Reason.ISSUER_MISSING: "no issuer of the PatientID",
    Reason.ISSUER_NOT_LISTED: "an issuer that the policy does not list",
    Reason.RESIDUAL_IDENTIFIER: "the self-check found an original identifier",
    Reason.INVALID_UID: "a cleaned UID is not a valid one",
    Reason.PIXEL_SIZE_MISSING: "pixels without rows, columns or a number of bits that all readers understand",
    Reason.PIXEL_DATA_TOO_LONG: "bytes after the pixels",
    Reason.SIZE_DISAGREES: "a frame of another size than the header says",
    Reason.FRAMES_DISAGREE: "another number of frames than the header says",
    Reason.PIXELS_UNREADABLE: "a compressed frame cannot be parsed",
    Reason.UNUSED_BITS: "bits of pixels beyond their value that cannot be read or cleared",
    Reason.PIXELS_CHANGED: "the pixels of the output could not be verified",
    Reason.BURNED_IN_DECLARED: "the header declares text in the pixels, which were not read",
    Reason.TEXT_POSSIBLE: "text in the pixels is possible, and they were not read",
    Reason.TEXT_REMAINS: "text was found again after redaction",
    Reason.ALREADY_DEIDENTIFIED: "a clean file of this site and key: give the original instead",
    Reason.REFUSED_IN_REVIEW: "a reviewer keeps the layout out",
    Reason.REVIEW_UNDECIDED: "two persons have not agreed on the layout",
    Reason.HEAD_DOUBTFUL: "header and pixels of the series do not agree on whether it shows a head",
    Reason.HEAD_OUTLINE: "contours, a segmentation or a surface that may outline a face",
    Reason.FACE_NOT_FOUND: "the series may show a head, but its face was not found",
    Reason.FACE_GEOMETRY: "a CT or MR image without a complete series around it, so a face cannot be found",
    Reason.FACE_PIXELS: "CT or MR pixels (lossy, colour, ...) from which a face cannot be removed exactly",
    Reason.DUPLICATE_IDENTICAL: "the same instance again, with the same bytes",
    Reason.DUPLICATE_DIFFERENT: "the same instance again, with other content",
    Reason.SYMLINK_OUTSIDE: "a link that leaves the source",
    Reason.BROKEN_LINK: "a link to nothing",
    Reason.NOT_A_FILE: "a device, pipe or socket",
    Reason.TOO_LARGE: "the file exceeds the limits of size",
    Reason.WORKER_DIED: "the process that read the file ended",
    Reason.PROCESSING_FAILED: "the output could not be made",
}
"""What each reason means, and for refused kinds what to do, in words for a page."""


REFUSED_KINDS = (
    Reason.ENCAPSULATED_PDF,
    Reason.ENCAPSULATED_CDA,
    Reason.ENCAPSULATED_MODEL,
    Reason.ENCAPSULATED_DOCUMENT,
    Reason.VIDEO,
)
"""Objects that are refused whatever the settings are, because nothing reads their content."""


def meaning(code: str) -> str:
    """Return what a reason code means; empty for a code of another version."""
    return MEANINGS[Reason(code)] if code in set(Reason) else ""


def kept_out_after_search(quarantined: Mapping[str, int]) -> int:
    """Return how many images were searched for text in their pixels and then kept out for what was found.

    >>> kept_out_after_search({"refused-in-review": 3, "text-remains": 1, "video": 2})
    4
    """
    reasons = (Reason.REFUSED_IN_REVIEW, Reason.REVIEW_UNDECIDED, Reason.TEXT_REMAINS)
    return sum(quarantined.get(reason, 0) for reason in reasons)


def counted(code: str, number: int) -> str:
    """Return a number of files with their reason, and what to do about kinds that are always refused."""
    return f"{number} x {code}" + (f" ({meaning(code)})" if code in REFUSED_KINDS else "")


class Refused(Exception):
    """One file cannot be de-identified; it is counted and never copied.

    Attributes:
        reason: the code, which is the whole message.
        issuer: original issuer of the PatientID, where the reason depends on it; for the private room only.
        pixels: what was found in the pixels, where a reviewer may take the reason back; for the private room
            only.
        face: the series and its plan, where the reason is about a face; for the private room only.
    """

    def __init__(
        self, reason: Reason, *, issuer: str = "", pixels: Mapping[str, Any] | None = None, face: str = ""
    ) -> None:
        super().__init__(str(reason))
        self.reason, self.issuer, self.pixels, self.face = reason, issuer, dict(pixels or {}), face
