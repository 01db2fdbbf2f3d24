"""The labels of a segmentation, and the values or names that stand for them in the source.

The setting ``mask_labels`` means one thing in all layouts. Where the source names its labels, an entry is one
of these names, or ``new=old`` to rename it (``old`` may also be the value). Where the source names none, the
entries name the values 1, 2, ..., or each names its own: ``name=value``.

    >>> published = {"necrosis": 1, "edema": 2, "enhancing": 4}
    >>> chosen = of_names(("edema", "core=necrosis"), published, where="dataset.json")
    >>> chosen.names, dict(chosen.values)
    (('edema', 'core'), {1: 2, 2: 1, 4: 0})
    >>> dict(of_values(("edema=2", "enhancing=4")).values)
    {2: 1, 4: 2}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meninx.core import check
from meninx.core.errors import ConfigError, LayoutError, expected, problem

MOST_LABELS = 255  # a label map has 8 bits, and 0 is background
LARGEST_VALUE = 65535
_NAMES_LISTED = 30


@dataclass(frozen=True)
class MaskLabels:
    """The labels of a segmentation.

    Attributes:
        names: the labels; the n-th has the value n in the dataset.
        values: value in the source's label maps to the label's number, 0 for a label that is left out. Empty
            where the values are the numbers.
        sources: the name of each label in the source.
    """

    names: tuple[str, ...]
    values: Mapping[int, int] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


def of_values(asked: tuple[str, ...]) -> MaskLabels:
    """Return the labels of label maps whose values have no names in the source.

    Args:
        asked: the setting ``mask_labels``; empty for one label, foreground.

    Raises:
        ConfigError: only some entries give a value, a value is not a whole number from 1, or one is given
            twice.
    """
    given = [entry.rpartition("=")[::2] for entry in asked if "=" in entry]
    if not given:
        return MaskLabels(_within_limit(asked or ("foreground",)))
    if len(given) != len(asked) or not all(_is_value(value) for _, value in given):
        what = f"mask_labels as plain names, or each as name=value with a value from 1 to {LARGEST_VALUE}"
        raise ConfigError(expected(what, got=asked, where="mask_labels"))
    names = _within_limit(tuple(name for name, _ in given))
    values = {int(value): number for number, (_, value) in enumerate(given, start=1)}
    if len(values) != len(given):
        raise ConfigError(problem("two labels have one value", where="mask_labels"))
    return MaskLabels(names, values)


def of_names(asked: tuple[str, ...], published: Mapping[str, int], *, where: str) -> MaskLabels:
    """Return the labels of label maps whose values have names in the source.

    Args:
        asked: the setting ``mask_labels``; empty for all labels, in the order of their values.
        published: name to value, without background.
        where: the file with the names, for messages.

    Raises:
        ConfigError: an entry is not a published label, or two entries name the same one.
        LayoutError: a value is out of range, or two labels have one value.
    """
    odd = sum(not 1 <= value <= LARGEST_VALUE for value in published.values())
    if odd or not published:
        got = f"{odd} others" if published else "none"
        raise LayoutError(expected(f"label values from 1 to {LARGEST_VALUE}", got=got, where=where))
    if len(set(published.values())) != len(published):
        raise LayoutError(problem("two labels have one value", where=where))
    by_value = {str(value): name for name, value in published.items()}
    in_order = tuple(sorted(published, key=lambda name: published[name]))
    chosen = [_found(entry, published, by_value, where) for entry in asked] or [(n, n) for n in in_order]
    sources = tuple(old for _, old in chosen)
    if len(set(sources)) != len(sources):
        raise ConfigError(problem("one label is chosen twice", where="mask_labels"))
    numbers = {old: number for number, old in enumerate(sources, start=1)}
    values = {value: numbers.get(name, 0) for name, value in published.items()}
    return MaskLabels(_within_limit(tuple(new for new, _ in chosen)), values, sources)


def _found(
    entry: str, published: Mapping[str, int], by_value: Mapping[str, str], where: str
) -> tuple[str, str]:
    """Return the names of an entry's label in the dataset and in the source."""
    new, _, old = entry.rpartition("=")
    for name, asked in ((entry, entry), (new, old)):
        if asked in published:
            return name, asked
        if name != asked and asked in by_value:
            return name, by_value[asked]
    known = list(published)
    fix = check.did_you_mean(entry, known) or f"known: {', '.join(known[:_NAMES_LISTED])}"
    raise ConfigError(
        expected("mask_labels to name labels of the source", got=repr(entry), where=where, fix=fix)
    )


def _is_value(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= LARGEST_VALUE


def _within_limit(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > MOST_LABELS:
        fix = "choose some with mask_labels"
        raise LayoutError(
            expected(f"at most {MOST_LABELS} labels of a mask", got=len(names), where="mask_labels", fix=fix)
        )
    return names
