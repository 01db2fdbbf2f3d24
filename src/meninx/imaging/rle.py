"""Run-length masks as text, in both directions: column by column, with relative gaps or absolute starts.

``relative`` (SIIM-ACR): pairs ``gap length``, where the gap counts pixels since the end of the run before
(since pixel 0 for the first). ``absolute`` (Airbus and others): pairs ``start length``, where starts count
from 1. Both run down the columns; ``-1`` or nothing is an empty mask.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, LayoutError, expected, problem

Variant = Literal["relative", "absolute"]
Mask = npt.NDArray[np.bool_]
EMPTY = "-1"


def decode(text: str, shape: tuple[int, int], *, variant: Variant = "relative", where: str = "mask") -> Mask:
    """Return the mask described by a text of runs.

    Args:
        text: pairs of integers; ``-1`` (with any blanks) or nothing for an empty mask.
        shape: (rows, columns) of the image.
        variant: how positions are counted; see the module.
        where: name of the text in errors, e.g. table and row.

    Raises:
        DataError: not integers, an odd count, a run without length, or runs that overlap or leave the image.
    """
    mask = np.zeros(shape[0] * shape[1], dtype=np.bool_)
    words = text.replace("\ufeff", "").split()
    if words in ([], [EMPTY]):
        return mask.reshape(shape)
    for start, end in _runs(words, variant, mask.size, where):
        mask[start:end] = True
    return np.ascontiguousarray(mask.reshape(shape[1], shape[0]).T)


def encode(mask: npt.NDArray[Any], *, variant: Variant = "relative") -> str:
    """Return the shortest run-length text of a mask; ``-1`` for an empty mask.

    Args:
        mask: shape (rows, columns) or (1, rows, columns); nonzero values are set.
        variant: how positions are counted; see the module.

    Raises:
        DataError: another number of axes.
    """
    plane = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
    if plane.ndim != 2:
        raise DataError(expected("a mask of shape (rows, columns)", got=f"{mask.ndim} axes", where="mask"))
    flat = np.concatenate([[False], (plane != 0).T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    if not edges.size:
        return EMPTY
    starts, ends = edges[::2], edges[1::2]
    positions = starts - np.concatenate([[0], ends[:-1]]) if variant == "relative" else starts + 1
    return " ".join(str(number) for number in np.stack([positions, ends - starts], axis=1).ravel())


def decode_rows(
    rows: Iterable[str], shape: tuple[int, int], *, variant: Variant = "relative", where: str = "mask"
) -> Mask:
    """Return the union of several texts of one image, since a table may have one row per finding.

    Raises:
        DataError: as :func:`decode`.
    """
    mask = np.zeros(shape, dtype=np.bool_)
    for row in rows:
        mask |= decode(row, shape, variant=variant, where=where)
    return mask


def read_table(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the run-length texts of each image of a CSV table: first column the image, second the runs.

    A byte order mark, a header row, and blanks around names and values are tolerated.

    Raises:
        LayoutError: no such file, or a row with fewer than two columns; names file and row.
    """
    if not path.is_file():
        raise LayoutError(problem("no such file: table of run-length masks", where=path.name))
    table: dict[str, tuple[str, ...]] = {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        for number, row in enumerate(csv.reader(stream), start=1):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) < 2:
                got = f"{len(row)} column"
                raise LayoutError(
                    expected("two columns, image and runs", got=got, where=f"{path.name}, row {number}")
                )
            name, runs = row[0].strip(), row[1].strip()
            if number > 1 or _is_runs(runs):
                table[name] = (*table.get(name, ()), runs)
    return table


def _is_runs(text: str) -> bool:
    return all(word == EMPTY or word.isdecimal() for word in text.split())


def _runs(words: list[str], variant: Variant, size: int, where: str) -> list[tuple[int, int]]:
    """Return half-open runs in ascending order, checked."""
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        raise DataError(problem("expected whole numbers, got text", where=where)) from None
    if len(numbers) % 2:
        raise DataError(expected("pairs of numbers", got=f"{len(numbers)} numbers", where=where))
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    runs: list[tuple[int, int]] = []
    end = 0
    for position, length in pairs if variant == "relative" else sorted(pairs):
        start = end + position if variant == "relative" else position - 1
        if length < 1:
            raise DataError(expected("runs of at least one pixel", got=length, where=where))
        if start < end:
            fix = "" if start < 0 else f"try the other variant than {variant!r}"
            got = "a start before the image" if start < 0 else f"an overlap at pixel {start}"
            raise DataError(expected("runs that do not overlap", got=got, where=where, fix=fix))
        end = start + length
        if end > size:
            fix = f"check the size of the image, or try the other variant than {variant!r}"
            raise DataError(
                expected(f"runs within {size} pixels", got=f"a run up to pixel {end}", where=where, fix=fix)
            )
        runs.append((start, end))
    return runs
