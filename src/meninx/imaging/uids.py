"""Fresh DICOM UIDs."""

from __future__ import annotations

import uuid


def new_uid(name: str = "") -> str:
    """Return a fresh UID ``2.25.<128 random bits>``.

    ``name``, for which a keyed function would be asked, is ignored.
    """
    return f"2.25.{uuid.uuid4().int}"
