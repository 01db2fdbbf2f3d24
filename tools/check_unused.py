"""Fail when vulture finds code in ``src`` that ``src``, ``tools`` and ``examples`` do not use.

The names on a reviewed list are left out.

Code that only tests call is unused. ``tools/unused_allowed.txt`` names what is used in a way that vulture
cannot see; a line that is no longer needed fails, too. Attributes of DICOM data sets are DICOM keywords, not
ours.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from vulture import Vulture

GENERATED = "_settings.py"  # keys of settings, written by tools/build_settings.py
CONFIDENCE = 60  # percent; vulture gives unused names 60 and unreachable code 100


def main() -> int:
    """Return 0 when nothing else is unused, 1 otherwise, with the offences on stdout."""
    root = Path(__file__).resolve().parents[1]
    allowed = read_allowed(root / "tools" / "unused_allowed.txt")
    finder = Vulture()
    finder.scavenge([str(root / name) for name in ("src", "tools", "examples") if (root / name).is_dir()])
    unused = [
        item
        for item in finder.get_unused_code(CONFIDENCE)
        if item.filename.is_relative_to(root / "src")
        and item.filename.name != GENERATED
        and not _is_keyword(item.typ, item.name)
    ]
    offences = [
        f"{item.filename.relative_to(root)}:{item.first_lineno}: {item.typ} {item.name} is not used"
        for item in unused
        if not any(fnmatchcase(item.name, pattern) for pattern in allowed)
    ]
    offences += [
        f"tools/unused_allowed.txt: {pattern} is used, or gone"
        for pattern in sorted(allowed)
        if not any(fnmatchcase(item.name, pattern) for item in unused)
    ]
    print("\n".join(offences) if offences else f"nothing unused; {len(allowed)} names allowed")
    return 1 if offences else 0


def read_allowed(path: Path) -> set[str]:
    """Return the names of a list: one per line, each followed by its reason; ``#`` begins a comment.

    Raises:
        ValueError: a name without a reason.
    """
    names = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, reason = line.partition(" ")
        if not name or name.startswith("#"):
            continue
        if not reason.strip():
            raise ValueError(f"{path.name}: {name} has no reason")
        names.add(name)
    return names


def _is_keyword(kind: str, name: str) -> bool:
    return kind == "attribute" and tag_for_keyword(name) is not None


if __name__ == "__main__":
    sys.exit(main())
