"""What of the program decides the clean bytes: its own files, and the versions of the libraries.

Two users compare it. A cluster has to have the same program on every machine, and finished files of another
program are not kept when a run goes on (:mod:`meninx.deid.fingerprint`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from meninx.imaging import ocr

PARTS = ("core", "deid", "dicomfile", "imaging")  # packages whose files decide the clean bytes
LIBRARIES = ("numpy", "pydicom", "pillow", "imagecodecs", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls")
OF_OCR = ("onnxruntime", "opencv-python", "opencv-python-headless")  # where text is found depends on them
_SUFFIXES = (".py", ".csv")


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of all that decides the clean bytes, and a digest of the program's own files.

    They are read once in a process, some 40 milliseconds: what is installed later is not what runs.
    """
    python = ".".join(map(str, sys.version_info[:3]))
    recogniser = ocr.fingerprint() if ocr.is_available() else "none"
    own = {"meninx": _version("meninx"), "meninx's files": _digest_of_files(), "python": python}
    return own | {name: _version(name) for name in (*LIBRARIES, *OF_OCR)} | {"ocr": recogniser}


def digest(*, searches_pixels: bool) -> str:
    """Return a SHA-256 that changes with whatever of the program decides the clean bytes.

    Args:
        searches_pixels: whether text in pixels is searched for; otherwise the networks that find it and their
            libraries decide nothing.
    """
    ignored = () if searches_pixels else ("ocr", *OF_OCR)
    deciding = {name: version for name, version in versions().items() if name not in ignored}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _digest_of_files() -> str:
    source, found = Path(ocr.__file__).parents[1], hashlib.sha256()
    for part in PARTS:
        for path in sorted((source / part).rglob("*")):
            if path.suffix in _SUFFIXES:
                found.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
