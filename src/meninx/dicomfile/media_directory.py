"""What a DICOMDIR names: how many of its files are there. The DICOMDIR itself is never copied.

The files that lie below the source are read anyway, so nothing is followed: a name is only looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from meninx.core.summaries import number_of
from meninx.dicomfile import zip_archive
from meninx.dicomfile.charset import decode, encodings_of
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.instance import directory_records

NAMED, MISSING, OUTSIDE = "named", "missing", "outside"  # files that a DICOMDIR names


_FILE_ID = 0x00041500


def counts(root: Path, found: SourceFile, content: bytes | FilePart) -> dict[str, int]:
    """Return how many files a DICOMDIR names, how many of them are missing, and how many lie outside.

    A name that leaves the folder of the DICOMDIR is not looked up. Names are compared as they are and in
    lower case, as some systems show them. A DICOMDIR that names none gives no counts.

    Args:
        root: folder of the source, resolved.
        found: the DICOMDIR.
        content: its bytes.

    Raises:
        Exception: it cannot be read.
    """
    if found.member is None:
        exists = _on_disk(root, (root / found.path).parent)
    else:
        names = [member.name for member in zip_archive.members_of(root / found.archive)]
        exists = _in_archive(names, PurePosixPath(found.member.name).parent)
    places = [exists(parts) if _is_plain(parts) else OUTSIDE for parts in _named(content)]
    if not places:
        return {}
    return {NAMED: len(places), MISSING: places.count(MISSING), OUTSIDE: places.count(OUTSIDE)}


def _named(content: bytes | FilePart) -> Iterator[list[str]]:
    for record in directory_records(content):
        value = next((element.value for element in record if element.tag == _FILE_ID), b"")
        text = decode(bytes(value), encodings_of(b"")).strip(" \0")
        if text:
            yield [part.strip(" ") for part in text.split("\\")]


def _is_plain(parts: Collection[str]) -> bool:
    return not any(part in ("", ".", "..") or "/" in part or "\0" in part or ":" in part for part in parts)


def _on_disk(root: Path, folder: Path) -> Callable[[list[str]], str]:
    def exists(parts: list[str]) -> str:
        for names in (parts, [part.lower() for part in parts]):
            path = folder.joinpath(*names)
            try:
                if path.is_file():
                    return NAMED if path.resolve().is_relative_to(root) else OUTSIDE
            except (OSError, RuntimeError, ValueError):  # too long a name, a link that leads to itself
                continue
        return MISSING

    return exists


def _in_archive(names: list[str], folder: PurePosixPath) -> Callable[[list[str]], str]:
    known = set(names)

    def exists(parts: list[str]) -> str:
        paths = {str(folder.joinpath(*parts)), str(folder.joinpath(*(part.lower() for part in parts)))}
        return NAMED if known & paths else MISSING

    return exists


def directories_in_words(counts: Mapping[str, int]) -> str:
    """Return what DICOMDIRs name and what is missing."""
    named, missing, outside = (counts.get(kind, 0) for kind in (NAMED, MISSING, OUTSIDE))
    are = "is" if missing == 1 else "are"
    listed = f"{number_of(named, 'file')} named"
    return f"{listed}, of which {missing:,} {are} missing and {outside:,} would lie outside"
