"""``dataset.json`` of the Medical Segmentation Decathlon and of nnU-Net: labels, channels, lists of files.

Its names and paths are untrusted: a duplicate key, a label without a whole number, a path that leaves
the folder, and more than ``files.TEXT_LIMIT`` bytes are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meninx.core import files, names
from meninx.core.errors import DataError, LayoutError, expected, problem
from meninx.prepare.readers.channels import numbered

NAME = "dataset.json"
BACKGROUND = "background"


def read(root: Path) -> dict[str, Any]:
    """Return the table of a folder's ``dataset.json``.

    Raises:
        LayoutError: the file is missing, is not a JSON object, or contains a key twice.
    """
    path = root / NAME
    try:
        table = json.loads(files.read_text(path), object_pairs_hook=_once)
    except (DataError, ValueError, RecursionError) as error:
        if isinstance(error, LayoutError):
            raise
        got = "none" if not path.is_file() else "something else"
        fix = _folders_below(root)
        raise LayoutError(
            expected("a dataset.json", got=got, where=f"folder {root.name}", fix=fix)
        ) from error
    if not isinstance(table, dict):
        raise LayoutError(problem("the file does not hold one JSON object", where=NAME))
    return table


def labels_of(table: Mapping[str, Any]) -> dict[str, int]:
    """Return label name to value, without background.

    Both forms are accepted: value to name (Decathlon, nnU-Net version 1) and name to value (nnU-Net version
    2).

    Raises:
        LayoutError: labels are missing, are regions or voxels to ignore, or are not names with whole numbers.
    """
    where = f"{NAME}, key 'labels'"
    given = table.get("labels")
    if not isinstance(given, dict) or not given:
        raise LayoutError(problem("there are no labels", where=where, fix="list names and values"))
    by_value = all(key.isascii() and key.isdigit() for key in given)
    pairs = [(name, key) if by_value else (key, name) for key, name in given.items()]
    for number, (name, value) in enumerate(pairs, start=1):
        if isinstance(value, list):
            fix = "convert the regions to label maps without overlap, or choose labels of one value"
            got = f"a region of several values: {_shown(name)}"
            raise LayoutError(expected("one value per label", got=got, where=where, fix=fix))
        if not isinstance(name, str) or not _is_whole(value):
            got = f"something else in entry {number}"
            raise LayoutError(expected("label names with whole numbers", got=got, where=where))
    labels = {str(name): int(value) for name, value in pairs}
    if len(labels) != len(pairs):
        raise LayoutError(problem("a label is named twice", where=where))
    if "ignore" in labels:
        fix = "give the voxels a label, or take the cases out"
        raise LayoutError(problem("voxels to ignore are not supported: 'ignore'", where=where, fix=fix))
    if labels.get(BACKGROUND, 0) != 0:
        raise LayoutError(problem(f"background has value {labels[BACKGROUND]}, not 0", where=where))
    return {name: value for name, value in labels.items() if value != 0}


def channels_of(table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the channels (``channel_names``, or ``modality`` of older files), in order.

    Raises:
        LayoutError: the channels are not numbered 0, 1, ..., or have no plain names.
    """
    key = "channel_names" if "channel_names" in table else "modality"
    where = f"{NAME}, key {key!r}"
    given = table.get(key)
    if not isinstance(given, dict) or not given:
        raise LayoutError(problem("there are no channels", where=where, fix="list numbers and names"))
    numbers = [str(number) for number in range(len(given))]
    if set(given) != set(numbers) or not all(isinstance(name, str) for name in given.values()):
        raise LayoutError(problem("channels are not numbered 0, 1, ..., each with a name", where=where))
    found = tuple(given[number] for number in numbers)
    names.check(found, what="channel", where=where)
    return numbered(found)


def path_of(root: Path, name: object, *, where: str) -> Path:
    """Return the path of a file that ``dataset.json`` lists; links on the disk are followed.

    Raises:
        LayoutError: the path is not a text, is absolute, or leaves the folder.
    """
    if not isinstance(name, str):
        raise LayoutError(problem("a path is not text", where=where))
    try:
        return root / files.relative(name.removeprefix("./"), where=where)
    except DataError as error:
        raise LayoutError(problem("a path does not lead to a file inside the folder", where=where)) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object with distinct keys; json would silently keep the last of two equal keys."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise LayoutError(problem("a key stands twice in one object", where=NAME))
    return dict(pairs)


def _folders_below(root: Path) -> str:
    below = sorted(path.parent.name for path in root.glob(f"*/{NAME}")) if root.is_dir() else []
    return f"give one of its folders: {', '.join(map(_shown, below[:10]))}" if below else ""


def _is_whole(value: object) -> bool:
    if isinstance(value, str):
        # Five digits suffice for 16-bit values, and longer numbers could exceed Python's limit for int().
        return value.isascii() and value.isdigit() and len(value) <= 5
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(name: object) -> str:
    return repr(names.printable(str(name))[:60])
