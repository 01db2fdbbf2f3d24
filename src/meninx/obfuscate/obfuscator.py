"""What every method that hides an attribute takes and gives: a table of images, and a fitted obfuscator.

An obfuscator is fitted on patients of the training split and then releases every image of the dataset. The
methods are listed in :data:`OBFUSCATORS`, from where :func:`create` imports the one that a config names::

    obfuscator = create(config.method, config, key=private_bytes(32))
    fitted = obfuscator.fit(table, seed=0, progress=SILENT)
    released = fitted.release(table)          # same shape as table.values, values in [0, 1]

The key is the only source of randomness that protects a patient. Seeds drive initialisation, folds and order.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from meninx.core import randomness
from meninx.core.errors import DataError, expected, problem
from meninx.core.manifest import SPLITS
from meninx.core.obfuscation_records import CertificateRecord
from meninx.core.progress import Progress
from meninx.core.settings import Settings

UNKNOWN = -1
"""Class number of a patient whose attribute is not known."""
Values = npt.NDArray[np.float32]
MethodName = Literal[
    "noise",
    "blur",
    "pixelation",
    "dp-pix",
    "viewmaker",
    "viewmaker-seed",
    "maxent",
    "codes",
    "leace",
    "kernel-erasure",
]
METHODS: tuple[MethodName, ...] = get_args(MethodName)


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Images (or feature vectors) of a dataset with their private attributes and utility labels, row by row.

    Attributes:
        values: images of shape (n, channels, height, width) in [0, 1], or features of shape (n, d); float32.
        cases: identifier of each row, unique.
        patients: pseudonym of each row's patient.
        split: ``train``, ``valid`` or ``test`` of each row.
        private: attribute -> class number of each row, :data:`UNKNOWN` where it is not known; shape (n,). A
            joint attribute is one entry, e.g. ``sex+age``.
        classes: attribute -> names of its classes, in the order of their numbers.
        labels: utility label -> 0, 1 or NaN (unknown) of each row; shape (n,), float64. They are published.
        published: what else is published beside the values: name -> 0, 1 or NaN of each row, as above.

    Raises:
        DataError: lengths differ, a case occurs twice, or a patient is in two splits.
    """

    values: Values
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    split: tuple[str, ...]
    private: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    published: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.values)
        numbers = (*self.private.values(), *self.labels.values(), *self.published.values())
        columns = (self.cases, self.patients, self.split, *numbers)
        if any(len(column) != rows for column in columns):
            raise DataError(problem("the columns have different lengths", where="table of images"))
        if len(set(self.cases)) != rows:
            raise DataError(problem("a case occurs twice", where="table of images"))
        if not set(self.split) <= set(SPLITS):
            raise DataError(problem("a split is none of " + ", ".join(SPLITS), where="table of images"))
        refuse_divided_patients(self.patients, self.split)

    def __len__(self) -> int:
        return len(self.values)

    def where(self, *splits: str) -> npt.NDArray[np.bool_]:
        """Return which rows belong to one of some splits, shape (n,)."""
        return np.array([name in splits for name in self.split], dtype=bool)

    def select(self, rows: npt.NDArray[Any]) -> ImageTable:
        """Return the table of some rows.

        Args:
            rows: a mask of shape (n,), or row numbers.
        """
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows

        def taken(column: Sequence[str]) -> tuple[str, ...]:
            return tuple(column[int(row)] for row in chosen)

        return ImageTable(
            values=self.values[chosen],
            cases=taken(self.cases),
            patients=taken(self.patients),
            split=taken(self.split),
            private={name: column[chosen] for name, column in self.private.items()},
            classes=self.classes,
            labels={name: column[chosen] for name, column in self.labels.items()},
            published={name: column[chosen] for name, column in self.published.items()},
        )


class FittedObfuscator(Protocol):
    """An obfuscator whose parameters are fixed; it can release images any number of times."""

    def release(self, table: ImageTable, *, draw: int = 0) -> Values:
        """Return the released images, of the shape of ``table.values`` and in [0, 1].

        Args:
            table: any rows. A row is identified by its case, so that the order and the presence of other rows
                change nothing.
            draw: number of the release. The same case and draw give the same values. A method that caches a
                code per image ignores it.
        """

    def facts(self) -> Mapping[str, Any]:
        """Return what was fitted, as JSON values without anything about single patients; it is published."""

    def private_files(self) -> Mapping[str, bytes]:
        """Return name -> content of files for ``private/``: code table, gallery, weights, key.

        Names are constants of the method, such as ``codes.csv``.
        """


@runtime_checkable
class CodedObfuscator(FittedObfuscator, Protocol):
    """A fitted obfuscator whose released images depend on a discrete code alone."""

    def codes(self, table: ImageTable) -> npt.NDArray[np.int64]:
        """Return the released code of each row, shape (n,)."""

    def certificates(
        self, table: ImageTable, attribute: str, *, target: float
    ) -> tuple[CertificateRecord, ...]:
        """Return a bound on every attacker, or a refusal, for every two classes of the attribute.

        Args:
            table: all rows; only patients that nothing was fitted on count.
            attribute: key of ``table.private``.
            target: largest AUROC that is accepted; 0 for 0.6.
        """


class Obfuscator(Protocol):
    """A method with its settings, before it has seen data."""

    def fit(self, table: ImageTable, *, seed: int, progress: Progress) -> FittedObfuscator:
        """Return the obfuscator fitted on the rows of the training split.

        Args:
            table: all rows that the stage gives. Rows of ``valid`` may choose a hyperparameter; rows of
                ``test`` are not in it.
            seed: of initialisation, folds and order; never of what protects a patient.
            progress: shows the work.
        """


@dataclass(frozen=True, kw_only=True)
class ObfuscationMethod:
    """What the program knows of a method before it imports it.

    Attributes:
        factory: ``module:function``, called with (config, key) and returning a :class:`Obfuscator`.
        summary: what is released, in words that follow "images obfuscated by".
        budgeted: the setting ``budget`` fixes its mean absolute change of the training images.
        learned: it is fitted on half of the training patients, and attackers are trained on the other half.
            False: it learns nothing about patients, or is cross-fitted, so attackers have all of them.
        aware: it reads the private attribute of each patient at release time.
        features: it releases feature vectors instead of images.
        random: every release of an image is drawn anew, so that an attacker may average several.
        certified: the record may carry a certificate that holds against every attacker.
        caveat: what every page about it says; holds whatever was measured.
    """

    factory: str
    summary: str
    budgeted: bool = False
    learned: bool = False
    aware: bool = False
    features: bool = False
    random: bool = False
    certified: bool = False
    caveat: str = ""


_RETRAINED = "does not stop a retrained attacker"
_PIXELS = f"{_RETRAINED} (its differential privacy is for m pixels, not for a patient or the attribute)"

OBFUSCATORS: Mapping[MethodName, ObfuscationMethod] = {
    "noise": ObfuscationMethod(
        factory="meninx.obfuscate.baselines:noise",
        random=True,
        summary="Gaussian noise",
        budgeted=True,
        caveat=_RETRAINED,
    ),
    "blur": ObfuscationMethod(
        factory="meninx.obfuscate.baselines:blur",
        summary="Gaussian blur",
        budgeted=True,
        caveat=_RETRAINED,
    ),
    "pixelation": ObfuscationMethod(
        factory="meninx.obfuscate.baselines:pixelation",
        summary="pixelation",
        budgeted=True,
        caveat=_RETRAINED,
    ),
    "dp-pix": ObfuscationMethod(
        factory="meninx.obfuscate.baselines:dp_pix",
        random=True,
        summary="pixelation with Laplace noise (DP-Pix)",
        budgeted=True,
        caveat=_PIXELS,
    ),
    "viewmaker": ObfuscationMethod(
        factory="meninx.obfuscate.viewmaker:create",
        random=True,
        summary="a viewmaker network",
        budgeted=True,
        learned=True,
        caveat=_RETRAINED,
    ),
    "viewmaker-seed": ObfuscationMethod(
        factory="meninx.obfuscate.viewmaker:create",
        random=True,
        summary="a viewmaker network with the losses of DP-Viewmaker",
        budgeted=True,
        learned=True,
        caveat=_RETRAINED,
    ),
    "maxent": ObfuscationMethod(
        factory="meninx.obfuscate.viewmaker:create",
        random=True,
        summary="a viewmaker network that maximises the attackers' entropy",
        budgeted=True,
        learned=True,
        caveat=_RETRAINED,
    ),
    "codes": ObfuscationMethod(
        factory="meninx.obfuscate.codes:create",
        summary="prototypes of attribute-aware codes",
        aware=True,
        certified=True,
        caveat="is proven only where its certificate says so, for images without the labels beside them, and "
        "does not hide whose the image is",
    ),
    "leace": ObfuscationMethod(
        factory="meninx.obfuscate.erasure:create",
        summary="least-squares concept erasure",
        learned=True,
        features=True,
        caveat="is proven against linear attackers alone, on the patients that it was fitted on",
    ),
    "kernel-erasure": ObfuscationMethod(
        factory="meninx.obfuscate.erasure:create",
        summary="kernel concept erasure",
        learned=True,
        features=True,
        caveat="is proven against linear attackers on its own kernel features alone, on the patients that it "
        "was fitted on",
    ),
}


def stored(values: Values) -> Values:
    """Return images as a released file holds them: clipped to [0, 1] and rounded to 8 bits.

    It is a function of the released values alone, so it tells nothing more about the originals.
    """
    return (levels(values) / np.float32(255.0)).astype(np.float32)


def levels(values: Values) -> npt.NDArray[np.uint8]:
    """Return images as grey or colour levels of 8 bits."""
    return np.round(np.clip(values, 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)


def create(name: MethodName, config: Settings, *, key: bytes) -> Obfuscator:
    """Return a method's obfuscator, imported now.

    Args:
        name: of the method.
        config: the settings of the stage, ``meninx.obfuscate.config.ObfuscateConfig``.
        key: 32 secret bytes, from which all randomness that protects a patient is derived.
    """
    module, _, function = OBFUSCATORS[name].factory.partition(":")
    made: Obfuscator = getattr(importlib.import_module(module), function)(config, key)
    return made


def refuse_divided_patients(patients: Sequence[str], split: Sequence[str]) -> None:
    """Refuse a table with a patient in two splits.

    Raises:
        DataError: there is one; the message does not name the patient.
    """
    home: dict[str, str] = {}
    divided = {
        patient
        for patient, name in zip(patients, split, strict=True)
        if home.setdefault(patient, name) != name
    }
    if divided:
        fix = "assign each patient to one split"
        got = f"{len(divided)} in two or more"
        raise DataError(expected("every patient in one split", got=got, where="splits", fix=fix))


def fitting_half(table: ImageTable, *, seed: int) -> npt.NDArray[np.bool_]:
    """Return which rows a learned method is fitted on: half of the training patients, drawn by the seed.

    Attackers and utility models are trained on the released images of the other half.

    Args:
        table: the whole table.
        seed: public.

    Returns:
        A mask of shape (n,); False outside the training split.
    """
    train = table.where("train")
    patients = sorted({patient for patient, inside in zip(table.patients, train, strict=True) if inside})
    order = randomness.child(seed, "obfuscate", "half").permutation(len(patients))
    chosen = {patients[number] for number in order[: (len(patients) + 1) // 2]}
    half: npt.NDArray[np.bool_] = train & np.array([patient in chosen for patient in table.patients])
    return half
