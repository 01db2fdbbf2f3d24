"""The hash of the code that a study runs: the source of the installed meninx.

No code travels in a study. Every institution installs meninx itself; the study file states the hash of the
coordinator's installation, and a site takes part only with the same one:

>>> own = installed()
>>> own.digest == installed().digest, difference(own)
(True, '')
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import msgspec

from meninx.core import files, names, provenance
from meninx.core.errors import DataError, problem

_SUFFIXES = (".py", ".toml", ".csv", ".txt", ".html", ".css", ".js", ".j2", ".svg")
_PACKAGE = Path(__file__).resolve().parents[1]  # the folder of meninx
_SKIPPED = "__pycache__"


class CodeVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which code an institution has installed.

    Attributes:
        version: version of meninx, for people.
        digest: SHA-256 over names and content of its source files, 64 hexadecimal digits.
    """

    version: str
    digest: str


@functools.cache
def installed() -> CodeVersion:
    """Return the code that is installed here.

    Raises:
        DataError: a source file cannot be read.
    """
    return CodeVersion(provenance.version(), source_digest(_PACKAGE))


def source_digest(root: Path) -> str:
    """Return the SHA-256 over names and content of the source files below a folder.

    Line ends are read as those of Unix, because Git on Windows may have changed them.

    Raises:
        DataError: a file cannot be read, or there is none.
    """
    found = hashlib.sha256(b"meninx code 1\0")
    paths = [
        path
        for path in root.rglob("*")
        if path.suffix in _SUFFIXES and _SKIPPED not in path.parts and path.is_file()
    ]
    if not paths:
        raise DataError(problem("there is no source to hash", where=root.name))
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in paths):
        content = hashlib.sha256(files.read_bytes(path).replace(b"\r\n", b"\n")).hexdigest()
        found.update(f"{content}  {name}\n".encode())
    return found.hexdigest()


def difference(code: CodeVersion) -> str:
    """Return why a study's code is not the code installed here, as a sentence; empty when it is."""
    own = installed()
    if code.digest == own.digest:
        return ""
    if code.version != own.version:
        theirs = names.printable(code.version)[:60]
        return f"The study runs meninx {theirs}, {own.version} is installed here: install the same version."
    return (
        f"The study and this installation both have meninx {own.version}, but the source differs "
        f"({code.digest[:12]} and {own.digest[:12]}): one of the two was changed after it was installed."
    )
