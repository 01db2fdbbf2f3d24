"""Reading a prepared dataset as a table of images, private attributes and utility labels.

Everything that no method can handle is refused here, before anything is fitted: volumes, images of several
sizes, an attribute that the dataset does not have, and the same image in two splits.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from meninx.core import files, machine, names
from meninx.core import progress as bars
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import FIRST_ROW, INFO_NAME, MANIFEST_NAME, Case, DatasetInfo, Manifest, TaskKind
from meninx.core.obfuscation_records import LabelFloorRecord
from meninx.imaging import load
from meninx.metrics.groups import MIN_CELL, Grouping
from meninx.metrics.label_floor import label_floor
from meninx.obfuscate.obfuscator import UNKNOWN, ImageTable, Values
from meninx.obfuscate.published_columns import PublishedColumns, indicators

AGE = "age"
_MOST_CLASSES = 20
_MEMORY_SHARE = 3  # a table may use a third of the free memory: there is a released one beside it
_BRIGHTEST = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


@dataclass(frozen=True, kw_only=True)
class AttributeClasses:
    """The classes of a private attribute, and the class of each case.

    Attributes:
        attribute: e.g. ``sex``, ``age`` or ``sex+age``.
        names: names of the classes, at least two.
        index: shape (cases,), position in ``names``, -1 where unknown.
    """

    attribute: str
    names: tuple[str, ...]
    index: npt.NDArray[np.int64]


def refuse_unfit(info: DatasetInfo) -> None:
    """Refuse a dataset whose images no method can change.

    Raises:
        DataError: volumes, label maps, several sizes, other channels than grey or colour, or images that
            were obfuscated before.
    """
    where = INFO_NAME
    if info.spatial_dims != 2:
        fix = "give a dataset of 2-D images"
        raise DataError(problem("the images are volumes, which no method obfuscates", where=where, fix=fix))
    if info.task is TaskKind.SEGMENTATION:
        what = "the dataset has label maps, whose shape may tell what the images hide"
        raise DataError(problem(what, where=where, fix="give a dataset with labels of whole images"))
    if not info.size:
        fix = "prepare it with --size"
        raise DataError(expected("images of one size", got="several", where=where, fix=fix))
    if info.channels not in (1, 3):
        got = f"{info.channels} channels"
        raise DataError(expected("grey or colour images", got=got, where=where))
    if info.obfuscated:
        fix = "give the original dataset"
        raise DataError(problem("the images were obfuscated before", where=where, fix=fix))


def read_images(manifest: Manifest, progress: bars.Progress) -> Values:
    """Return the images of a dataset in [0, 1], shape (cases, channels, height, width).

    Raises:
        DataError: an image cannot be read, is not the one that was prepared, or has another form than
            ``dataset.toml`` says; the message names the row.
    """
    info = manifest.info
    shape = (len(manifest), info.channels, *info.size)
    needed, free = 4 * int(np.prod(shape)), machine.free_memory() // _MEMORY_SHARE
    if needed > free:
        got = f"{machine.shown_size(free)} that may be used"
        fix = "prepare smaller images, or use a machine with more memory"
        raise DataError(
            expected(f"{machine.shown_size(needed)} for the images", got=got, where="memory", fix=fix)
        )
    values = np.empty(shape, dtype=np.float32)
    with bars.task(progress, "read images", len(manifest)):
        for row, case in enumerate(manifest.cases):
            values[row] = _pixels(manifest, case, f"{MANIFEST_NAME}, row {row + FIRST_ROW}")
            progress.advance()
    return values


def read_table(
    manifest: Manifest,
    private: AttributeClasses,
    published: PublishedColumns,
    values: Values,
    shown: Manifest | None = None,
) -> ImageTable:
    """Return the table of a dataset whose images were read.

    Args:
        manifest: the dataset.
        private: the attribute to hide.
        published: columns of the released table.
        values: of :func:`read_images`.
        shown: the released table, its cases in the same order, where it is not made of this dataset here.

    Raises:
        DataError: the same image is in two splits.
    """
    cases = manifest.cases
    refuse_shared_images(values, [case.split for case in cases])
    return ImageTable(
        values=values,
        cases=tuple(case.case_id for case in cases),
        patients=tuple(case.patient_id for case in cases),
        split=tuple(case.split for case in cases),
        private={private.attribute: private.index},
        classes={private.attribute: private.names},
        labels=_label_columns(manifest, published.labels),
        published=indicators(shown or manifest, published, private.attribute.split("+")),
    )


def with_utility(table: ImageTable, labels: Sequence[str]) -> ImageTable:
    """Return a table whose utility is measured by some labels only; the others stay published columns."""
    others = {name: column for name, column in table.labels.items() if name not in labels}
    wanted = {name: table.labels[name] for name in labels if name in table.labels}
    return replace(table, labels=wanted, published={**others, **table.published})


def refuse_shared_images(values: Values, split: Sequence[str]) -> None:
    """Refuse images with the same pixels in two splits: an attacker would be judged by what it was shown.

    Raises:
        DataError: there are some.
    """
    home: dict[bytes, str] = {}
    shared = 0
    for image, name in zip(values, split, strict=True):
        shared += home.setdefault(hashlib.sha256(image.tobytes()).digest(), name) != name
    if shared:
        fix = "prepare the dataset with --duplicates drop, or assign copies of an image to one split"
        got = f"{shared} images that are also in another split"
        raise DataError(expected("every image in one split", got=got, where=MANIFEST_NAME, fix=fix))


def attribute_classes(
    manifest: Manifest, attributes: Sequence[str], bins: Sequence[float]
) -> AttributeClasses:
    """Return the classes of an attribute, or of several at once.

    Ages are divided at ``bins``. Values of fewer than 10 patients count as unknown, so that a rare value,
    which may identify a patient, is neither released nor printed.

    Args:
        manifest: the dataset.
        attributes: columns of the dataset; several form one joint attribute.
        bins: ages at which a new group begins, ascending.

    Raises:
        UsageError: the dataset has no such attribute.
        DataError: an attribute has fewer than two classes or more than 20, or the name of a class is not
            allowed.
    """
    known = manifest.info.attributes
    for name in attributes:
        if name not in known:
            fix = f"choose among {', '.join(known)}" if known else "prepare the dataset with attributes"
            raise UsageError(
                problem("the dataset has no such attribute", where=f"attribute: {name}", fix=fix)
            )
    joint = "+".join(attributes)
    columns = [_texts(manifest.attribute(name), name, bins) for name in attributes]
    texts = [", ".join(row) if all(row) else "" for row in zip(*columns, strict=True)]
    patients: dict[str, set[str]] = {}
    for text, case in zip(texts, manifest.cases, strict=True):
        patients.setdefault(text, set()).add(case.patient_id)
    frequent = [text for text, people in patients.items() if text and len(people) >= MIN_CELL]
    order = _ordered(frequent, attributes, bins)
    if not 2 <= len(order) <= _MOST_CLASSES:
        fix = "hide an attribute with a few frequent values"
        what = f"2 to {_MOST_CLASSES} values of {joint} that at least {MIN_CELL} patients have"
        raise DataError(expected(what, got=str(len(order)), where=MANIFEST_NAME, fix=fix))
    names.check(order, what="class of the attribute", where=MANIFEST_NAME)
    position = {text: number for number, text in enumerate(order)}
    index = np.array([position.get(text, UNKNOWN) for text in texts], dtype=np.int64)
    return AttributeClasses(attribute=joint, names=tuple(order), index=index)


def measured_floor(
    manifest: Manifest,
    private: AttributeClasses,
    published: PublishedColumns,
    seed: int,
    released: Manifest | None = None,
) -> LabelFloorRecord:
    """Return how well the published columns alone tell the attribute, over all patients of the dataset.

    The true labels are among them, and the attribute columns that stay; not the attribute itself where it is
    published on request. ``released`` is the released table as in :func:`read_table`.
    """
    hidden = private.attribute.split("+")
    shown = indicators(released or manifest, published, hidden)
    columns = {**_label_columns(manifest, published.labels), **shown}
    grouping = Grouping(private.attribute, private.names, private.index)
    known = private.index != UNKNOWN
    usable = {name: column for name, column in columns.items() if np.isfinite(column[known]).any()}
    if not usable:
        return LabelFloorRecord(attribute=private.attribute, refusal="no published column is known")
    found = label_floor(grouping, usable, manifest.patient_index(), seed=seed)
    found = replace(found, labels=tuple(name for name in published.names if name not in hidden))
    return LabelFloorRecord(
        attribute=found.attribute,
        group=found.group,
        labels=found.labels,
        rows=found.rows,
        patients=found.patients,
        auroc=found.value,
        low=found.low,
        high=found.high,
        sentence=found.in_words,
    )


def _label_columns(manifest: Manifest, labels: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    targets = manifest.targets().astype(np.float64)
    return {name: targets[:, manifest.info.labels.index(name)] for name in labels}


def _texts(column: Sequence[str], name: str, bins: Sequence[float]) -> list[str]:
    """Return the class of each value as text; empty where it is unknown."""
    if name != AGE:
        return [text.strip() for text in column]
    groups = _age_groups(bins)
    years = [float(text) if text.replace(".", "", 1).isdigit() else None for text in column]
    return ["" if age is None else groups[int(np.searchsorted(bins, age, side="right"))] for age in years]


def _age_groups(bins: Sequence[float]) -> list[str]:
    """Return the names of the age groups, youngest first.

    >>> _age_groups([47, 61])
    ['under 47', '47 to under 61', '61 or older']
    """
    inner = [f"{low:g} to under {high:g}" for low, high in itertools.pairwise(bins)]
    return [f"under {bins[0]:g}", *inner, f"{bins[-1]:g} or older"]


def _ordered(texts: Sequence[str], attributes: Sequence[str], bins: Sequence[float]) -> list[str]:
    """Return the classes in alphabetical order, and of ages the youngest first."""
    if AGE not in attributes:
        return sorted(texts)
    groups, place = _age_groups(bins), tuple(attributes).index(AGE)

    def key(text: str) -> tuple[str | int, ...]:
        parts: list[str | int] = list(text.rsplit(", ", len(attributes) - 1))
        parts[place] = groups.index(str(parts[place]))
        return tuple(parts)

    return sorted(texts, key=key)


def _pixels(manifest: Manifest, case: Case, where: str) -> npt.NDArray[np.float32]:
    manifest.check_file(case.image)
    array = load.load(files.below(manifest.root, case.image, where=where)).array
    wanted = (manifest.info.channels, *manifest.info.size)
    if array.shape != wanted or array.dtype not in _BRIGHTEST:
        got = f"{' x '.join(map(str, array.shape))} of {array.dtype}"
        what = f"{' x '.join(map(str, wanted))} grey levels of 8 or 16 bits"
        raise DataError(expected(what, got=got, where=where, fix="prepare the dataset again"))
    return (array / _BRIGHTEST[array.dtype]).astype(np.float32)
