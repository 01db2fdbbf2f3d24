"""Match between a model and another site's dataset: labels by name, grey levels by bit depth, size, spacing.

    >>> from meninx.core.manifest import TaskKind
    >>> match = LabelMatch.of(("effusion", "nodule"), ("nodule", "fluid"), ["fluid=effusion"])
    >>> match.measured, match.sources["effusion"], match.missing, match.unused
    (('effusion', 'nodule'), ('fluid',), (), ())

Nothing is matched by position. Labels of different names are matched only if the user says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import check, names
from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.core.manifest import Manifest, TaskKind

Array = npt.NDArray[np.float64]
_FLAG = "--rename-labels"


@dataclass(frozen=True)
class LabelMatch:
    """Correspondence between the labels of a dataset and the outputs of a model.

    Attributes:
        learned: labels of the model, in output order.
        theirs: labels of the dataset, in its order.
        sources: for each label of the model that the dataset has, the dataset's labels that correspond to it.
    """

    learned: tuple[str, ...]
    theirs: tuple[str, ...]
    sources: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, learned: Sequence[str], theirs: Sequence[str], renamed: Sequence[str] = ()) -> LabelMatch:
        """Return the match of two lists of labels.

        Args:
            learned: labels of the model, in output order.
            theirs: labels of the dataset.
            renamed: ``theirs=ours`` for each label with another name; several may correspond to one, which is
                then present where any of them is.

        Raises:
            ConfigError: an entry is not ``theirs=ours``, names an unknown label, gives a label a
                second meaning, or merges it with a label of the dataset that has no entry.
            DataError: no label is common to both.
        """
        named = _renamed(renamed, learned, theirs)
        to = {name: named.get(name, name) for name in theirs}
        sources = {
            label: tuple(name for name in theirs if to[name] == label)
            for label in learned
            if label in to.values()
        }
        match = cls(tuple(learned), tuple(theirs), sources)
        if not sources:
            fix = f"name the labels that mean the same, e.g. {_FLAG} '{theirs[0]}={learned[0]}'"
            got = _listed(theirs)
            raise DataError(
                expected(
                    f"labels of the training: {_listed(learned)}", got=got, where="dataset.toml", fix=fix
                )
            )
        return match

    @property
    def measured(self) -> tuple[str, ...]:
        """Labels of the model that the dataset has, in output order."""
        return tuple(label for label in self.learned if label in self.sources)

    @property
    def missing(self) -> tuple[str, ...]:
        """Labels of the model that the dataset lacks."""
        return tuple(label for label in self.learned if label not in self.sources)

    @property
    def unused(self) -> tuple[str, ...]:
        """Labels of the dataset without a corresponding output of the model."""
        used = {name for found in self.sources.values() for name in found}
        return tuple(name for name in self.theirs if name not in used)

    @property
    def columns(self) -> list[int]:
        """Positions of :attr:`measured` among the outputs of the model."""
        return [self.learned.index(label) for label in self.measured]

    def usable(self, chosen: Manifest) -> Manifest:
        """Return the cases that can be measured; for classes, those whose class the model has."""
        if chosen.info.task is not TaskKind.MULTICLASS or not self.unused:
            return chosen
        return chosen.select(lambda case: not any(case.labels.get(name) for name in self.unused))

    def targets(self, chosen: Manifest) -> Array:
        """Return the truth in the model's columns, with shape (cases, labels of the model).

        A label with several corresponding labels is 1 where any of them is, and unknown where none is and
        one is unknown. A label that the dataset lacks is unknown, or 0 for classes.
        """
        theirs = chosen.targets().astype(np.float64)
        fill = 0.0 if chosen.info.task is TaskKind.MULTICLASS else np.nan
        truth = np.full((len(chosen), len(self.learned)), fill)
        for column, label in enumerate(self.learned):
            found = [self.theirs.index(name) for name in self.sources.get(label, ())]
            if found:
                part = theirs[:, found]
                some = (part == 1).any(axis=1)
                truth[:, column] = np.where(some, 1.0, np.where(np.isnan(part).any(axis=1), np.nan, 0.0))
        return truth

    def translated(self, mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a label map of the dataset in the model's values; other labels become background.

        Raises:
            DataError: the mask holds a value without a name.
        """
        if mask.size and (mask.min() < 0 or mask.max() > len(self.theirs)):
            raise DataError(
                problem(f"a mask has values outside 0 .. {len(self.theirs)}", where="masks of the dataset")
            )
        if self.learned == self.theirs and all(found == (label,) for label, found in self.sources.items()):
            return mask
        table = np.zeros(len(self.theirs) + 1, dtype=np.uint8 if len(self.learned) < 256 else np.uint16)
        for value, label in enumerate(self.learned, start=1):
            for name in self.sources.get(label, ()):
                table[self.theirs.index(name) + 1] = value
        return table[mask.astype(np.int64)]

    def notes(self, left_out: int = 0) -> Iterator[str]:
        """Yield notes on labels that were matched under another name or not measured.

        Args:
            left_out: number of cases whose class the model does not have.
        """
        other = [
            f"{' or '.join(found)} as {label}" for label, found in self.sources.items() if found != (label,)
        ]
        if other:
            yield f"labels of the dataset under another name: {_listed(other)}"
        if self.missing:
            yield f"not measured, because the dataset lacks them: {_listed(self.missing)}"
        if self.unused:
            cases = f" ({left_out} {'case' if left_out == 1 else 'cases'})" if left_out else ""
            yield f"left out, because the model does not know them: {_listed(self.unused)}{cases}"


def _renamed(entries: Sequence[str], learned: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """Return label of the dataset -> label of the model for the entries of ``rename_labels``.

    Raises:
        ConfigError: an entry is wrong, a label has two meanings, or is merged with one without an entry.
    """
    named: dict[str, str] = {}
    for text in entries:
        left, right = _entry(text, learned, theirs)
        if named.setdefault(left, right) != right:
            got = f"{named[left]!r} and {right!r}"
            raise ConfigError(
                expected(f"one label of the model for {left!r}", got=got, where="rename_labels")
            )
    for left, right in named.items():
        if right in theirs and right not in named:
            fix = f"add '{right}={right}' if both labels stand for it, or leave '{left}={right}' out"
            what = f"the dataset has its own label {right!r}, with which {left!r} would be merged"
            raise ConfigError(problem(what, where="rename_labels", fix=fix))
    return named


def _entry(text: str, learned: Sequence[str], theirs: Sequence[str]) -> tuple[str, str]:
    """Return (label of the dataset, label of the model) of an entry of ``rename_labels``."""
    where = "rename_labels"
    cuts = [(text[:at], text[at + 1 :]) for at, sign in enumerate(text) if sign == "="]
    if not cuts:
        raise ConfigError(expected("entries such as 'theirs=ours'", got=repr(text), where=where))
    known = [(left, right) for left, right in cuts if left in theirs and right in learned]
    if known:
        return known[0]
    left, right = cuts[0]
    for name, labels, whose in ((left, theirs, "the dataset"), (right, learned, "the model")):
        if name not in labels:
            fix = check.did_you_mean(name, labels) or f"it has {_listed(labels)}"
            raise ConfigError(problem(f"{name!r} is no label of {whose}", where=where, fix=fix))
    raise ConfigError(expected("entries such as 'theirs=ours'", got=repr(text), where=where))


def _listed(labels: Sequence[str]) -> str:
    """Return names as a text; of many names, the first ones and the number of the others."""
    shown = [names.printable(label) for label in labels[:_MOST_NAMED]]
    more = len(labels) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


_MOST_NAMED = 20
