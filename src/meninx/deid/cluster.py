"""What the stage needs on other machines: equal programs, and folders that all of them see."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from meninx.imaging import ocr

_DECIDING = (
    "meninx",
    "pydicom",
    "numpy",
    "pillow",
    "imagecodecs",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pyjpegls",
)

PARTS = ("core", "deid", "dicomfile", "imaging")  # packages whose files decide the clean bytes


def versions() -> Mapping[str, str]:
    """Return the versions of all that decides the clean bytes, and a digest of the program's own files."""
    found = {name: metadata.version(name) for name in _DECIDING}
    source, digest = Path(ocr.__file__).parents[1], hashlib.sha256()
    for part in PARTS:
        for path in sorted((source / part).rglob("*")):
            if path.suffix in (".py", ".csv"):
                digest.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes())
    recogniser = ocr.fingerprint() if ocr.is_available() else "none"
    python = ".".join(map(str, sys.version_info[:3]))
    return found | {"python": python, "meninx's files": digest.hexdigest(), "ocr": recogniser}
