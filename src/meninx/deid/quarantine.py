"""Reason codes of files that cannot be de-identified, and the two errors that carry one."""

from __future__ import annotations

from enum import StrEnum

from meninx.core.errors import DataError


class Reason(StrEnum):
    """The reason codes; ``deid.json`` counts them, ``private/quarantine.csv`` names the files."""

    NOT_DICOM = "not-dicom"
    ARCHIVE = "archive"
    TRUNCATED = "truncated"
    INFLATES_TOO_FAR = "inflates-too-far"
    UNREADABLE = "unreadable"
    DICOMDIR = "dicomdir"
    UNSUPPORTED_SOP_CLASS = "unsupported-sop-class"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported-transfer-syntax"
    ENCAPSULATED_DOCUMENT = "encapsulated-document"
    VIDEO = "video"
    MISSING_IDENTITY = "missing-identity"
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
    PIXELS_CHANGED = "pixels-changed"
    BURNED_IN_DECLARED = "burned-in-declared"
    TEXT_POSSIBLE = "text-in-pixels-possible"
    TEXT_REMAINS = "text-remains"
    REFUSED_IN_REVIEW = "refused-in-review"
    HEAD_DOUBTFUL = "head-doubtful"
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


DEPENDING_ON_IDENTITIES = frozenset(
    {
        Reason.LOOKUP_WITHOUT_ISSUER,
        Reason.LOOKUP_CONFLICT,
        Reason.ISSUER_CONFLICT,
        Reason.ISSUER_MISSING,
        Reason.ISSUER_NOT_LISTED,
    }
)
"""Reasons that another policy on issuers can remove, so such a file is tried again in every run."""


class Refused(Exception):
    """One file cannot be de-identified; it is counted and never copied.

    Attributes:
        reason: the code, which is the whole message.
        issuer: original issuer of the PatientID, where the reason depends on it; for the private room only.
        face: the series and its plan, where the reason is about a face; for the private room only.
    """

    def __init__(self, reason: Reason, *, issuer: str = "", face: str = "") -> None:
        super().__init__(str(reason))
        self.reason, self.issuer, self.face = reason, issuer, face


class Quarantined(DataError):
    """An instance in memory cannot be de-identified; the folder stage would quarantine it.

    The message holds the reason code and no value of the file. The exception has no cause and no context,
    because the errors of a parser quote values.

    Attributes:
        reason: the code, as ``private/quarantine.csv`` of the folder stage names it.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"expected an instance that can be de-identified, got {reason}")
        self.reason = reason

    def __reduce__(self) -> tuple[type[Quarantined], tuple[Reason]]:
        return Quarantined, (self.reason,)
