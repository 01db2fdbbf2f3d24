"""The files of a source: paths of the settings, published names, and images by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from meninx.core.errors import LayoutError, problem

IMAGES = (".png", ".jpg", ".jpeg", ".nii", ".nii.gz", ".dcm")


def resolve(text: str, root: Path, site: str = "") -> Path:
    """Return a path of the config with ``{source}`` and ``{site}`` filled in.

    Relative ones start at ``root``.
    """
    return root / text.replace("{source}", str(root.resolve())).replace("{site}", site)


def first_of(root: Path, names: Iterable[str]) -> Path:
    """Return the first of several published names that exists below ``root``.

    Raises:
        LayoutError: none does.
    """
    choices = tuple(names)
    for name in choices:
        if (root / name).is_file():
            return root / name
    raise LayoutError(
        problem(f"there is no file {' or '.join(choices)}", where=f"folder {root.name}", fix="give table")
    )


def index_files(root: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Return every file below ``root`` with one of the suffixes, by name and by name without suffix."""
    ends = tuple(suffixes)
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        name = path.name
        if name.lower().endswith(ends) and not name.startswith(".") and path.is_file():
            found.setdefault(name, path)
            found.setdefault(stem(name), path)
    return found


def stem(name: str) -> str:
    """Return a file name without its image suffix; ``.nii.gz`` is one suffix.

    >>> stem("case_1.nii.gz"), stem("view.1.png")
    ('case_1', 'view.1')
    """
    return name[:-7] if name.lower().endswith(".nii.gz") else name.rpartition(".")[0] or name


def relative(path: Path, root: Path) -> str:
    """Return a path below ``root`` as POSIX text, or the whole path when it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
