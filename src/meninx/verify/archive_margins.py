"""The bytes of a zip archive that belong to none of its members: comments, extra fields and others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.refusals import Refused
from meninx.verify.known_values import CERTAIN, KnownValues

_RUN = re.compile(rb"[\t\x20-\x7e\x80-\xff]{4,}")


def holding(root: Path, entries: Sequence[SourceFile], known: KnownValues) -> set[str]:
    """Return the paths of archives that hold an identifier outside of their members' contents.

    Names of members are among these bytes; one that holds an identifier is a leak as a path, too.

    Args:
        root: folder of the archives, or the archive itself.
        entries: the files below it.
        known: what is searched.
    """
    members: dict[str, list[tuple[int, int]]] = {}
    for entry in entries:
        if entry.member is not None:
            spans = members.setdefault(entry.archive, [])
            spans.append((entry.member.start, entry.member.packed))
    folder = root if root.is_dir() else root.parent
    return {archive for archive, spans in members.items() if known and _holds(folder / archive, spans, known)}


def _holds(path: Path, spans: list[tuple[int, int]], known: KnownValues) -> bool:
    whole = all(start for start, _ in spans)  # else a damaged member lies in the gaps, and words by chance
    try:
        with path.open("rb", buffering=0) as stream:
            at, end = 0, path.stat().st_size
            for start, packed in [*sorted(spans), (end, 0)]:
                gap = FilePart(stream, at, max(0, min(start, end) - at))
                runs = _runs(gap) if whole else iter(())
                if known.raw.found_in(gap, frozenset()) or any(known.hit(run) == CERTAIN for run in runs):
                    return True
                at = max(at, start + packed)
    except (OSError, Refused):
        return False  # its members are unreadable, too
    return False


def _runs(gap: FilePart) -> Iterator[str]:
    """Yield what can be read in the bytes; other bytes above 127 would be names by chance."""
    for window in gap.windows():
        for run in _RUN.findall(window):
            try:
                yield run.decode("utf-8")
            except UnicodeDecodeError:
                yield run.decode("ascii", "replace")
