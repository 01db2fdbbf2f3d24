"""The files of a source: paths of the settings, published names, and images by name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from meninx.core.errors import ConfigError, LayoutError, problem
from meninx.imaging.load import PICTURES, VOLUMES

DICOM = (".dcm", ".dicom")
IMAGES = (*PICTURES, *VOLUMES, *DICOM)
WITHOUT_ROW = "images without a row of the table"
TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
# Files that operating systems and archive programs leave beside the files of a dataset.
_STRAY = {
    "__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini",
}  # fmt: skip


class NoSuchTable(LayoutError):
    """Raised if a source has no file with any of the published names."""


def is_stray(name: str) -> bool:
    """Return whether a file or folder belongs to an operating system, not to a dataset.

    >>> [is_stray(name) for name in ("__MACOSX", ".DS_Store", "._1.png", "train")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _STRAY


def folders_in(root: Path) -> list[Path]:
    """Return the sorted folders directly below ``root`` without stray ones; linked folders are included."""
    return [path for path in sorted(root.iterdir()) if not is_stray(path.name) and path.is_dir()]


def files_below(root: Path, suffixes: Iterable[str]) -> Iterator[Path]:
    """Yield every file below ``root`` with one of the suffixes, sorted folder by folder.

    Linked folders are followed. Stray files and folders are skipped.

    Raises:
        LayoutError: a linked folder leads to a folder that is read anyway, whose images would be read twice.
    """
    yield from _walk(root, tuple(suffixes), {os.path.realpath(root)}, os.path.realpath(root))


def note_without_row(files: Collection[Path], named: Collection[Path]) -> list[tuple[str, str]]:
    """Return a note with the number of image files that no row of a table names; empty if there are none.

    Args:
        files: the images on the disk.
        named: images that a row names, and images that need no row.
    """
    count = sum(path not in named for path in files)
    return [(WITHOUT_ROW, f"{count:,} of {len(files):,} files")] if count else []


def linked_folders(root: Path) -> tuple[Path, ...]:
    """Return the targets of the linked folders directly below ``root``."""
    return tuple(path.resolve() for path in folders_in(root) if path.is_symlink()) if root.is_dir() else ()


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name from a table may be too long or contain a NUL
        return False


def resolve(text: str, root: Path, site: str = "") -> Path:
    """Return a path of the config with ``{source}`` and ``{site}`` filled in.

    Relative paths start at ``root``.
    """
    return root / _filled(text, root, site)


def table_path(text: str, root: Path, site: str = "", *, name: str = "table") -> Path:
    """Return the path of a table that a setting names, with ``{source}`` and ``{site}`` filled in.

    A relative path starts at the working folder, as everywhere on a command line. If no such file is there,
    it starts at ``root``.

    Raises:
        ConfigError: both files exist, and they are not the same.
    """
    here, there = Path(_filled(text, root, site)), resolve(text, root, site)
    if not is_file(here):
        return there
    if is_file(there) and not here.samefile(there):
        fix = "give the whole path, or begin it with {source}/"
        what = "two tables have this path: one below the working folder and one below the source"
        raise ConfigError(problem(what, where=f"{name} {Path(text).name[:80]}", fix=fix))
    return here


def first_of(root: Path, names: Iterable[str]) -> Path:
    """Return the file with one of several published names, in ``root`` or in one of its folders.

    Folders that contain only one folder are skipped.

    Raises:
        LayoutError: there is no such file, or there are several in different folders.
    """
    choices, top = tuple(names), _unwrapped(root)
    for folders in ([top], folders_in(top) if top.is_dir() else []):
        found = [folder / name for name in choices for folder in folders if is_file(folder / name)]
        if len({path.parent for path in found}) > 1:
            places = ", ".join(sorted(path.relative_to(root).as_posix() for path in found))
            raise LayoutError(
                problem(
                    f"the table is there {len(found)} times: {places}",
                    where=f"folder {root.name}",
                    fix="give table",
                )
            )
        if found:
            return found[0]
    raise NoSuchTable(
        problem(f"there is no file {' or '.join(choices)}", where=f"folder {root.name}", fix="give table")
    )


@dataclass
class ImageIndex:
    """The images below a folder, found by the end of their path; ambiguous names are never resolved.

    >>> from tempfile import mkdtemp
    >>> root = Path(mkdtemp())
    >>> for name in ("a/1.png", "b/1.png", "b/2.png"):
    ...     (root / name).parent.mkdir(exist_ok=True)
    ...     (root / name).touch()
    >>> index = ImageIndex(root, (".png",))
    >>> [relative(index.find(cell), root) for cell in ("2", "b/1.png")]
    ['b/2.png', 'b/1.png']
    >>> index.find("3.png"), index.find("1")
    (None, None)
    >>> index.refuse_ambiguous()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    meninx.core.errors.LayoutError: 1 image name of the table has 2 files (table); give image_folder...

    Attributes:
        root: the folder.
        suffixes: endings of the files that count.
        depth: how many parts at the end of a path identify an image: 1 for its name, 3 for
            patient/study/name.
        ambiguous: names of several files, to the place of the cell and the number of files.
    """

    root: Path
    suffixes: tuple[str, ...]
    depth: int = 1
    ambiguous: dict[str, tuple[str, int]] = field(default_factory=dict)
    _by_end: dict[str, list[Path]] | None = None

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Every image below the folder."""
        return tuple(files_below(self.root, self.suffixes))

    def find(self, text: str, where: str = "table") -> Path | None:
        """Return the only image that a cell names, with or without its suffix; None if there is none.

        The end of the path in the cell decides among images of one name. If it does not, the cell is
        remembered for :meth:`refuse_ambiguous`.

        Args:
            text: the cell.
            where: its place, for the message.
        """
        parts = tuple(part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in (".", "/"))
        if len(parts) < self.depth:
            return None
        if self._by_end is None:
            self._by_end = self._read()
        found = self._by_end.get("/".join(parts[-self.depth :]), [])
        if len(found) > 1:
            found = _longest_match(found, parts)
        if len(found) > 1:
            self.ambiguous[text] = where, len(found)
        return found[0] if len(found) == 1 else None

    def refuse_ambiguous(self) -> None:
        """Raise LayoutError if a cell named several images; says how many cells did, and the first of them.

        The folders of the files are not named, because they may contain names of patients.
        """
        if not self.ambiguous:
            return
        where, first = next(iter(self.ambiguous.values()))
        count = len(self.ambiguous)
        what = f"{count:,} image names of the table have several files, the first one {first}"
        if count == 1:
            what = f"1 image name of the table has {first} files"
        fix = "give image_folder, or write the images' paths into the table"
        raise LayoutError(problem(what, where=where, fix=fix))

    def _read(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            parents = path.relative_to(self.root).parts[:-1]
            before = parents[len(parents) - self.depth + 1 :] if self.depth > 1 else ()
            if len(parents) >= self.depth - 1:
                for name in {path.name, stem(path.name)}:
                    found["/".join((*before, name))].append(path)
        return found


def stem(name: str) -> str:
    """Return a file name without its image suffix; ``.nii.gz`` is one suffix.

    >>> stem("case_1.nii.gz"), stem("view.1.png")
    ('case_1', 'view.1')
    """
    return name[:-7] if name.lower().endswith(".nii.gz") else name.rpartition(".")[0] or name


def relative(path: Path, root: Path) -> str:
    """Return a path relative to ``root`` as POSIX text, or the whole path if it is elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _filled(text: str, root: Path, site: str) -> str:
    return text.replace("{source}", str(root.resolve())).replace("{site}", site)


def _unwrapped(root: Path) -> Path:
    """Return the first folder from ``root`` downwards that contains more than one folder."""
    while root.is_dir():
        there = [path for path in root.iterdir() if not is_stray(path.name)]
        if len(there) != 1 or not there[0].is_dir():
            break
        root = there[0]
    return root


def _longest_match(paths: list[Path], parts: tuple[str, ...]) -> list[Path]:
    """Return the paths whose ends agree with the most parts of a table's path."""

    def agreement(path: Path) -> int:
        count = 1  # the names agree, up to the suffix
        for mine, asked in zip(reversed(path.parts[:-1]), reversed(parts[:-1]), strict=False):
            if mine != asked:
                break
            count += 1
        return count

    most = max(map(agreement, paths))
    same = [path for path in paths if agreement(path) == most]
    exact = [path for path in same if path.name == parts[-1]]
    return exact if len(exact) == 1 and len({path.parent for path in same}) == 1 else same


def _walk(folder: Path, suffixes: tuple[str, ...], seen: set[str], root: str) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if is_stray(path.name):
            continue
        if path.is_dir():
            if path.is_symlink():
                _refuse_twice(path, seen, root)
            yield from _walk(path, suffixes, seen, root)
        elif path.name.lower().endswith(suffixes) and path.is_file():
            yield path


def _refuse_twice(link: Path, seen: set[str], root: str) -> None:
    """Refuse a linked folder that is above, below or equal to a folder that is read anyway."""
    # A link to a folder above would also make the walk endless.
    target = os.path.realpath(link)
    for other in seen:
        if os.path.commonpath((target, other)) in (target, other):
            what = f"the linked folder {link.name!r} leads to a folder that is read already"
            raise LayoutError(problem(what, where="source", fix="remove the link"))
    seen.add(target)
