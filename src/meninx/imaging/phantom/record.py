"""Writes values into a data set and notes each in the answer key, so that the two cannot disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items


class Record:
    """What was planted in one file, as (path, kind, value)."""

    def __init__(self) -> None:
        self.plants: list[tuple[str, str, str]] = []
        self.safe: list[tuple[str, str, str]] = []

    def note(self, path: str, kind: str, *values: str) -> None:
        """Note planted values; empty ones are left out."""
        self.plants.extend((path, kind, value) for value in values if value)

    def put(
        self,
        data: Dataset,
        keyword: str,
        value: Any,
        kind: str,
        *,
        at: str = "",
        hide: Sequence[str] | None = None,
    ) -> None:
        """Set an attribute and note it.

        Args:
            data: the data set or sequence item.
            keyword: DICOM keyword.
            value: what to write.
            kind: see :class:`~meninx.imaging.phantom.key.Plant`.
            at: path of the item that ``data`` is, ending in ``/``.
            hide: the identifying parts of a longer text; None when the whole value identifies.
        """
        setattr(data, keyword, value)
        self.note(f"{at}{keyword}", kind, *(_texts(value) if hide is None else hide))

    def keep(self, data: Dataset, keyword: str, value: Any, kind: str, *, at: str = "") -> None:
        """Set an attribute that identifies nobody and note that it may stay."""
        setattr(data, keyword, value)
        self.safe.extend((f"{at}{keyword}", kind, text) for text in _texts(value))


def item(data: Dataset, keyword: str, at: str = "") -> tuple[Dataset, str]:
    """Append an item to a sequence (made when missing); return it and its path."""
    if tag_for_keyword(keyword) is None:
        raise ValueError(f"{keyword} is no DICOM keyword")
    if keyword not in data:
        setattr(data, keyword, Items())
    items = getattr(data, keyword)
    inner = Dataset()
    items.append(inner)
    return inner, f"{at}{keyword}[{len(items) - 1}]/"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a code sequence item."""
    inner = Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = value, scheme, meaning
    return inner


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [str(one) for one in values]
