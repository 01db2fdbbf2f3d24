"""Codes that are equally frequent in every class of an attribute, released as fixed prototypes.

An image becomes one of a few codes: the leaf of its utility scores in a tree that cuts every class into equal
parts. What is released is the prototype of the code, a mean of training images. So the release tells the
attribute no better than the code does, and the code is equally frequent in every class of the training
patients. New patients say how well that holds for them (:meth:`FittedCodes.certificates`). ::

    >>> from meninx.core.progress import SILENT
    >>> from meninx.obfuscate.config import ObfuscateConfig
    >>> rng = np.random.default_rng(0)
    >>> sex, ill = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    >>> values = rng.normal(0.5, 0.1, (400, 1, 16, 16)).astype(np.float32)
    >>> values[:, :, :4] += 0.2 * sex[:, None, None, None]
    >>> values[:, :, 8:, 8:] += 0.05 * ill[:, None, None, None]
    >>> names = tuple(f"P{number}" for number in range(400))
    >>> table = ImageTable(
    ...     values=values.clip(0, 1), cases=names, patients=names, split=("train",) * 400,
    ...     private={"sex": sex}, classes={"sex": ("F", "M")}, labels={"effusion": ill.astype(float)},
    ... )
    >>> config = ObfuscateConfig(method="codes", codes=CodeSettings(utility="linear"))
    >>> codes = create(config, bytes(32)).fit(table, seed=0, progress=SILENT)
    >>> released = codes.release(table)
    >>> released.shape, len(np.unique(released.reshape(400, -1), axis=0)) == codes.facts()["codes"]
    ((400, 1, 16, 16), True)
    >>> codes.certificates(table, "sex", target=0.6)[0].sentence.endswith("has 0 and 0")  # no new patients
    True

Not hidden are the identity (two images of a patient tend to have codes alike) and what labels tell that are
published beside the images. Every class has the same codes, so a true difference in the frequency of a label
is
lost: combined with the true labels, the codes show it again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected, problem
from meninx.core.obfuscation_records import CertificateRecord
from meninx.core.progress import Progress
from meninx.core.randomness import child
from meninx.metrics.groups import Grouping
from meninx.metrics.release_certificate import TARGET, certify_release
from meninx.obfuscate.config import CodeSettings, ObfuscateConfig
from meninx.obfuscate.equal_mass_tree import (
    Cuts,
    EqualMassTree,
    best_cuts,
    equal_mass_tree,
    even_cuts,
    merged_leaves,
)
from meninx.obfuscate.obfuscator import UNKNOWN, ImageTable, Values, stored
from meninx.obfuscate.utility_scores import CrossFittedUtility, cross_fitted_utility

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
LEAST_IMAGES = 16
"""Fewest images, each of another patient, in a prototype."""
MOST_LABELS = 5
"""Most labels within whose combinations codes can be balanced."""
_DIGEST = 32
_IMAGE_AXES = 4
_JITTER = 1e-6  # of the scores' standard deviation: enough to break ties


def create(config: ObfuscateConfig, key: bytes) -> CodedRelease:
    """Return the method before it has seen data."""
    return CodedRelease(config, key)


@dataclass(frozen=True)
class CodedRelease:
    """Attribute-aware codes with the settings of ``config.codes``.

    Attributes:
        config: the settings.
        key: 32 secret bytes: models of new patients, gallery and ties are drawn with it.
    """

    config: ObfuscateConfig
    key: bytes = field(repr=False)

    def fit(self, table: ImageTable, *, seed: int, progress: Progress) -> FittedCodes:
        """Return the codes fitted on all training patients; validation patients are not used.

        Raises:
            DataError: no label, or too few patients of a class.
            PrivacyRefusal: an attribute is unknown, and ``unknown_attribute`` is ``refuse``.
        """
        settings, attribute = self.config.codes, self.config.attribute
        train = table.select(table.where("train"))
        if settings.unknown_attribute == "refuse" and not settings.oblivious:
            _refuse_unknown(train.private[attribute])
        train = train.select(train.private[attribute] != UNKNOWN)
        rows = _TrainingRows.of(train, attribute, settings)
        rows.refuse_few(settings)
        digests = image_digests(train.values, self.key)
        fold = _folds(rows, settings.folds, seed)
        utility = cross_fitted_utility(
            train.values, train.labels, rows.patient, fold, kind=settings.utility,
            seed=seed, device=self.config.device, progress=progress,
        )  # fmt: skip
        scores = _untied(utility.out_of_fold, _jitter(utility), digests)
        tree, merged = _fitted_tree(scores, rows, train.labels, utility.labels, settings)
        codes = merged[tree(scores, rows.seen)]
        galleries = _galleries(codes, rows, digests)
        return FittedCodes(
            settings=settings,
            attribute=attribute,
            classes=train.classes[attribute],
            key=self.key,
            utility=utility,
            tree=tree,
            merged=merged,
            prototypes=_prototypes(train.values, galleries),
            galleries=tuple(tuple(train.cases[row] for row in chosen) for chosen in galleries),
            known=dict(zip(digests, codes.tolist(), strict=True)),
            masses=np.bincount(codes, weights=rows.weight) / rows.weight.sum(),
            fitted_on=frozenset(train.patients),
            described={
                "codes": int(codes.max()) + 1,
                "cuts": {name: list(shares) for name, shares in zip(utility.labels, tree.cuts, strict=True)},
                "balance": settings.balance,
                "unknown_attribute": settings.unknown_attribute,
                "utility": utility.kind,
                "folds": settings.folds,
                "auroc_out_of_fold": dict(utility.auroc),
                "auroc_of_codes": _worth_by_label(codes, scores, rows.weight, train.labels, utility.labels),
                "least_images_per_prototype": min(len(chosen) for chosen in galleries),
            },
        )


@dataclass(frozen=True, eq=False)
class FittedCodes:
    """Models, tree and prototypes; the code of an image is fixed at its first release.

    Guarantee: a released image is a function of its code alone. Two deliveries of the same pixels have the
        same code, whatever their case, patient, class or draw. Every prototype is the mean of at least
        :data:`LEAST_IMAGES` images of as many patients, equally many of every class.

    Attributes:
        settings: how it was fitted.
        attribute: the private attribute.
        classes: names of its classes.
        key: secret.
        utility: models of the labels.
        tree: maps scores and classes to leaves.
        merged: code of each leaf, shape (leaves,).
        prototypes: what is released, shape (codes, ...).
        galleries: cases whose mean is the prototype of each code; secret.
        known: code of every image that was released, by keyed digest; grows with each release.
        masses: share of each code among training patients, shape (codes,).
        fitted_on: the training patients.
        described: facts to publish.
    """

    settings: CodeSettings
    attribute: str
    classes: tuple[str, ...]
    key: bytes = field(repr=False)
    utility: CrossFittedUtility
    tree: EqualMassTree
    merged: Numbers
    prototypes: Values
    galleries: tuple[tuple[str, ...], ...] = field(repr=False)
    known: dict[bytes, int] = field(repr=False)
    masses: Array
    fitted_on: frozenset[str] = field(repr=False)
    described: Mapping[str, Any]

    def release(self, table: ImageTable, *, draw: int = 0) -> Values:
        """Return the prototype of each row's code; ``draw`` changes nothing."""
        return self.prototypes[self.codes(table)]

    def codes(self, table: ImageTable) -> Numbers:
        """Return the code of each row, shape (n,).

        Raises:
            PrivacyRefusal: the attribute of a new image is unknown, and ``unknown_attribute`` is ``refuse``.
            DataError: images of another shape.
        """
        if table.values.shape[1:] != self.prototypes.shape[1:]:
            raise DataError(problem("the images have another size than the training images", where="images"))
        digests = image_digests(table.values, self.key)
        new = np.array(
            [row for row, digest in enumerate(digests) if digest not in self.known], dtype=np.int64
        )
        if len(new):
            found = self._new_codes(table.select(new), [digests[row] for row in new])
            for row, code in zip(new.tolist(), found.tolist(), strict=True):
                self.known.setdefault(digests[row], code)
        return np.array([self.known[digest] for digest in digests], dtype=np.int64)

    def certificates(
        self, table: ImageTable, attribute: str, *, target: float
    ) -> tuple[CertificateRecord, ...]:
        """Return a bound on every attacker, or a refusal, for every two classes of the attribute.

        Args:
            table: any rows; those of patients that the codes were fitted on are left out.
            attribute: key of ``table.private``.
            target: largest AUROC that is accepted; 0 for 0.6.
        """
        new = np.array([patient not in self.fitted_on for patient in table.patients], dtype=bool)
        rest = table.select(new & (table.private[attribute] != UNKNOWN))
        found = certify_release(
            self.codes(rest),
            [Grouping(attribute, table.classes[attribute], rest.private[attribute])],
            rest.patients,
            leaves=max(2, len(self.prototypes)),
            target=target or TARGET,
        )
        return tuple(
            CertificateRecord(
                attribute=item.attribute, groups=item.groups, patients=item.patients, leaves=item.leaves,
                target=item.target, delta=item.delta, needed=item.needed, plug_in=item.plug_in,
                limit=item.limit, sentence=item.in_words,
            )
            for item in found
        )  # fmt: skip

    def facts(self) -> Mapping[str, Any]:
        """Return how the codes were fitted, and how well they tell the labels apart."""
        return self.described

    def private_files(self) -> Mapping[str, bytes]:
        """Return the code of every image released so far, by keyed digest, and the prototypes' cases."""
        codes = [(digest.hex(), code) for digest, code in sorted(self.known.items())]
        cases = [(code, case) for code, chosen in enumerate(self.galleries) for case in chosen]
        return {
            "codes.csv": _csv_bytes(("digest", "code"), codes),
            "gallery.csv": _csv_bytes(("code", "case"), cases),
        }

    def _new_codes(self, table: ImageTable, digests: list[bytes]) -> Numbers:
        """Return codes of images that were not released before."""
        unknown = (table.private[self.attribute] == UNKNOWN) & (not self.settings.oblivious)
        if self.settings.unknown_attribute == "refuse":
            _refuse_unknown(np.where(unknown, UNKNOWN, 0))
        seen = _seen_groups(table, self.attribute, self.settings)
        words = _words(digests)
        fold = np.asarray(words[:, 1] % len(self.utility.models), dtype=np.int64)
        scores = _untied(self.utility.scores(table.values, fold), _jitter(self.utility), digests)
        codes = self.merged[self.tree(scores, seen)]
        lots = words[:, 2] / 2.0**64
        drawn = np.minimum(np.searchsorted(np.cumsum(self.masses), lots), len(self.masses) - 1)
        return np.where(unknown, drawn, codes)


def _csv_bytes(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue().encode()


def image_digests(values: Values, key: bytes) -> list[bytes]:
    """Return a keyed digest of every image's pixels, 32 bytes each."""
    rows = np.ascontiguousarray(values)
    return [hashlib.blake2b(row.data, key=key, digest_size=_DIGEST).digest() for row in rows]


@dataclass(frozen=True, eq=False)
class _TrainingRows:
    """Patient, class and weight of each training row.

    Attributes:
        patient: number of the patient, from 0.
        group: class of the attribute.
        weight: 1 divided by the patient's rows of that class.
        groups: number of classes.
        seen: group that the tree tells apart.
        strata: combination of labels of each such group; None if they do not matter.
    """

    patient: Numbers
    group: Numbers
    weight: Array
    groups: int
    seen: Numbers
    strata: Numbers | None

    @classmethod
    def of(cls, train: ImageTable, attribute: str, settings: CodeSettings) -> _TrainingRows:
        patient = np.unique(np.array(train.patients), return_inverse=True)[1].astype(np.int64)
        groups = len(train.classes[attribute])
        group = train.private[attribute]
        pair = patient * groups + group
        weight = np.asarray(1 / np.bincount(pair)[pair], dtype=np.float64)
        strata = None
        if settings.balance == "class-and-labels":
            if len(train.labels) > MOST_LABELS:
                fix = "name the labels to keep"
                what = f"at most {MOST_LABELS} labels, in whose combinations the codes are balanced"
                raise ConfigError(expected(what, got=len(train.labels), where="labels", fix=fix))
            strata = np.repeat(np.arange(3 ** len(train.labels)), groups)
        return cls(patient, group, weight, groups, _seen_groups(train, attribute, settings), strata)

    def refuse_few(self, settings: CodeSettings) -> None:
        """Refuse a class with fewer patients than one prototype needs."""
        least = _least_patients(settings, self.groups)
        fewest = min(len(np.unique(self.patient[self.group == number])) for number in range(self.groups))
        if fewest < least:
            what = f"at least {least} training patients of every class of the attribute"
            raise DataError(expected(what, got=fewest, where="attribute", fix="add patients or join classes"))


def _seen_groups(table: ImageTable, attribute: str, settings: CodeSettings) -> Numbers:
    """Return the group of each row that the tree tells apart; an unknown class is taken for the first one."""
    if settings.oblivious:
        return np.zeros(len(table), dtype=np.int64)
    group = np.maximum(table.private[attribute], 0)
    if settings.balance == "class":
        return np.asarray(group)
    combination = np.zeros(len(table), dtype=np.int64)
    for column in table.labels.values():
        combination = 3 * combination + np.where(np.isnan(column), 2, column).astype(np.int64)
    return np.asarray(combination * len(table.classes[attribute]) + group)


def _least_patients(settings: CodeSettings, groups: int) -> int:
    return max(settings.patients_per_code, math.ceil(LEAST_IMAGES / groups))


def _refuse_unknown(classes: Numbers) -> None:
    count = int((classes == UNKNOWN).sum())
    if count:
        what = f"{count} images have no known class of the attribute, so their codes cannot be balanced"
        fix = "leave them out, or set unknown_attribute to draw, a code at random"
        raise PrivacyRefusal(problem(what, where="attribute", fix=fix))


def _folds(rows: _TrainingRows, folds: int, seed: int) -> Numbers:
    """Return the fold of each row: by patient, with every class in equal shares."""
    first = np.unique(rows.patient, return_index=True)[1]
    order = child(seed, "code folds").permutation(len(first))
    order = order[np.argsort(rows.group[first[order]], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % folds
    return np.asarray(fold[rows.patient], dtype=np.int64)


def _words(digests: list[bytes]) -> npt.NDArray[np.uint64]:
    """Return four numbers of 64 bits for each digest: order, model, drawn code, jitter."""
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 4)


def _jitter(utility: CrossFittedUtility) -> Array:
    return np.asarray(_JITTER * utility.out_of_fold.std(axis=0), dtype=np.float64)


def _untied(scores: Array, scale: Array, digests: list[bytes]) -> Array:
    """Return scores that differ between images: equal ones could not be divided into equal parts."""
    lots = _words(digests)[:, 3] / 2.0**64
    return np.asarray(scores + lots[:, None] * scale)


def _fitted_tree(
    scores: Array,
    rows: _TrainingRows,
    labels: Mapping[str, Array],
    names: tuple[str, ...],
    settings: CodeSettings,
) -> tuple[EqualMassTree, Numbers]:
    """Return the tree with the chosen levels, and the code of each leaf."""
    seen, least = rows.seen, _least_patients(settings, rows.groups)

    def grown(cuts: Cuts) -> tuple[EqualMassTree, Numbers]:
        tree = equal_mass_tree(scores, seen, rows.weight, cuts, rows.strata)
        leaves = tree(scores, seen)
        merged = np.arange(tree.size)
        while True:  # a patient with images in two leaves counts once where they are merged
            size = int(merged.max()) + 1
            joined = merged_leaves(_patients_of(merged[leaves], size, rows), least)
            merged = joined[merged]
            if joined.max() + 1 == size:
                return tree, merged

    def worth(cuts: Cuts) -> float:
        tree, merged = grown(cuts)
        by_label = _worth_by_label(merged[tree(scores, seen)], scores, rows.weight, labels, names)
        return float(np.mean(list(by_label.values())))

    if settings.levels:
        if len(settings.levels) != len(labels):
            what = f"one number of levels for each of the {len(labels)} labels"
            raise ConfigError(expected(what, got=len(settings.levels), where="levels"))
        asked = dict(zip(labels, settings.levels, strict=True))
        return grown(tuple(even_cuts(asked[name]) for name in names))
    fewest = min(len(np.unique(rows.patient[rows.group == number])) for number in range(rows.groups))
    return grown(best_cuts(len(names), max(2, min(settings.most_codes, fewest)), worth))


def _patients_of(leaves: Numbers, size: int, rows: _TrainingRows) -> Numbers:
    """Return the number of patients of each leaf and class, shape (leaves, classes)."""
    once = np.unique(np.stack([leaves, rows.group, rows.patient], axis=1), axis=0)
    counted = np.bincount(once[:, 0] * rows.groups + once[:, 1], minlength=size * rows.groups)
    return counted.reshape(size, rows.groups).astype(np.int64)


def _worth_by_label(
    codes: Numbers, scores: Array, weight: Array, labels: Mapping[str, Array], names: tuple[str, ...]
) -> dict[str, float]:
    """Return the AUROC of each label from the mean score of each image's code."""
    mass = np.maximum(np.bincount(codes, weights=weight), 1e-12)
    found = {}
    for column, name in enumerate(names):
        mean = np.bincount(codes, weights=weight * scores[:, column]) / mass
        rank = np.unique(mean, return_inverse=True)[1][codes]
        positive, negative = (
            np.bincount(rank[labels[name] == value], minlength=len(mean)) for value in (1, 0)
        )
        beaten = np.cumsum(negative) - negative / 2
        found[name] = float(positive @ beaten / (positive.sum() * negative.sum()))
    return found


def _galleries(codes: Numbers, rows: _TrainingRows, digests: list[bytes]) -> tuple[Numbers, ...]:
    """Return the training rows whose mean is the prototype of each code.

    They are one image of each of m patients of every class, where m is the number of patients of the smallest
    class in the code. The key decides which.
    """
    order = np.argsort(_words(digests)[:, 0], kind="stable")
    size = int(codes.max()) + 1
    patients = _patients_of(codes, size, rows)
    found = []
    for code in range(size):
        chosen: list[int] = []
        for group in range(rows.groups):
            inside = order[(codes[order] == code) & (rows.group[order] == group)]
            first = np.sort(np.unique(rows.patient[inside], return_index=True)[1])
            chosen += inside[first[: patients[code].min()]].tolist()
        found.append(np.array(sorted(chosen), dtype=np.int64))
    return tuple(found)


def _prototypes(values: Values, galleries: tuple[Numbers, ...]) -> Values:
    means = np.array([values[rows].mean(axis=0, dtype=np.float64) for rows in galleries], dtype=np.float32)
    return stored(means) if values.ndim == _IMAGE_AXES else means
