"""What is asked of a release, and the rows that may answer: who attacks, who chooses, who is attacked.

``train`` rows that the method was not fitted on train the attackers, ``valid`` rows choose among them, and
``test`` rows are read once.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected, problem
from meninx.core.obfuscation_records import CertificateRecord, LabelFloorRecord
from meninx.core.origin import Origin
from meninx.metrics.groups import MIN_CELL
from meninx.obfuscate.config import AttackSettings
from meninx.obfuscate.obfuscator import UNKNOWN, ImageTable, Values

Numbers = npt.NDArray[np.int64]
Truth = npt.NDArray[np.float64]
CLEAN_FLOOR = 0.7
_REST = "the rest"
_LEAST_TO_CHOOSE = 2
_CACHED_BYTES = 1 << 28
_TOLERANCE = 1e-5
_IMAGE_AXES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleaseQuestion:
    """A release and what is asked of it.

    Attributes:
        original: the original images (or features) of all splits.
        draws: from the number of a draw to the released values of all rows; draw 0 is the one that is
            published. Where every draw gives the same, the mechanism draws nothing, or caches.
        attribute: key of ``original.private``.
        fitted: rows that the method was fitted on, shape (n,); attackers do not train on them. All False for
            a method that learned nothing or is cross-fitted.
        method: its name; empty for a release of another program.
        method_summary: the method in words.
        caveat: what holds of the method whatever is measured.
        attacks: how it is attacked: target, epochs, averaged draws, permutations.
        seed: of attackers, permutations and resamples.
        clean_floor: the audit is void where the attackers of the original images find less.
        device: where networks are trained.
        deterministic: the record shall depend on data and seed alone.
        synthetic: no patient stands behind the images.
        floor: the label floor, if it was measured.
        certificates: of a method that releases codes.
        codes: released code of each row, shape (n,); None for a method without codes.
        head: from features (n, d) to a score of each label, shape (n, labels): the last layer of the network
            that they come from. None for images.
        published: names of the columns that are published beside the images.
        not_measured: what cannot be measured and why, in words.
        random: the method is known to draw at random, whether or not ``draws`` can draw again.
        source: origin of the original dataset.
        released: origin of the released one.
    """

    original: ImageTable
    draws: Callable[[int], Values]
    attribute: str
    source: Origin
    released: Origin
    fitted: npt.NDArray[np.bool_] | None = None
    method: str = ""
    method_summary: str = ""
    caveat: str = ""
    attacks: AttackSettings = field(default_factory=AttackSettings)
    seed: int = 0
    clean_floor: float = CLEAN_FLOOR
    device: str = "cpu"
    deterministic: bool = False
    synthetic: bool = False
    floor: LabelFloorRecord | None = None
    certificates: tuple[CertificateRecord, ...] = ()
    codes: Numbers | None = None
    head: Callable[[Values], Truth] | None = None
    published: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = ()
    random: bool = False

    @property
    def subject(self) -> str:
        """What is released: ``images`` or ``features``."""
        return "images" if self.original.values.ndim == _IMAGE_AXES else "features"


@dataclass(frozen=True, eq=False)
class Contest:
    """Two sets of classes that an attacker tells apart.

    Attributes:
        name: in words.
        positive: number of the class that counts as positive.
        negative: number of the other class; None for all others.
        truth: 1, 0 or NaN (left out) of each row.
    """

    name: str
    positive: int
    negative: int | None
    truth: Truth

    def of(self, classes: Numbers) -> Contest:
        """Return the same question about other classes of the rows."""
        others = classes != UNKNOWN if self.negative is None else classes == self.negative
        truth = np.where(classes == self.positive, 1.0, np.where(others, 0.0, np.nan))
        return replace(self, truth=truth)

    def scores(self, margins: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return one number per row, larger for the positive class, from margins (rows, classes)."""
        if self.negative is None:
            return margins[:, self.positive]
        return margins[:, self.positive] - margins[:, self.negative]


@dataclass(frozen=True, eq=False)
class AttackRows:
    """Who attacks, who chooses and who is attacked; only rows with a known attribute.

    Attributes:
        classes: class of each row of the table, :data:`UNKNOWN` where it is not known.
        names: names of the classes.
        train: rows of the attackers.
        valid: rows that choose.
        test: rows that are attacked.
        patient: number of each row's patient.
        contests: what is asked, at least one; the first where there are two classes.
    """

    classes: Numbers
    names: tuple[str, ...]
    train: Numbers
    valid: Numbers
    test: Numbers
    patient: Numbers
    contests: tuple[Contest, ...]

    def widened(self, margins: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return margins with a column for every class, also for the last ones if nobody trained on them."""
        missing = len(self.names) - margins.shape[1]
        return np.pad(margins, ((0, 0), (0, missing))) if missing > 0 else margins

    def of_patients(self, rows: Numbers) -> dict[str, int]:
        """Return the patients of some rows with each class."""
        return {
            name: int(np.unique(self.patient[rows[self.classes[rows] == number]]).size)
            for number, name in enumerate(self.names)
        }


def attack_rows(question: ReleaseQuestion) -> AttackRows:
    """Return who attacks whom.

    Raises:
        DataError: the table has no such attribute, a split is empty, a class is missing where attackers
            train or choose, or too few patients of the test split have a class.
    """
    table = question.original
    if question.attribute not in table.private:
        known = ", ".join(table.private) or "none"
        raise DataError(expected(f"one of the attributes {known}", got=question.attribute, where="attribute"))
    classes = np.asarray(table.private[question.attribute], dtype=np.int64)
    top = int(classes.max(initial=0)) + 1
    names = tuple(table.classes.get(question.attribute, ())) or tuple(str(number) for number in range(top))
    known_class = classes != UNKNOWN
    fitted = np.zeros(len(table), dtype=bool) if question.fitted is None else question.fitted
    train, valid, test = (
        np.flatnonzero(table.where(name) & known_class & ~(fitted & (name == "train")))
        for name in ("train", "valid", "test")
    )
    _, patient = np.unique(np.array(table.patients, dtype=object).astype(str), return_inverse=True)
    patient = patient.astype(np.int64)
    for name, rows in (("train", train), ("valid", valid), ("test", test)):
        if len(np.unique(classes[rows])) < 2:
            fix = "give every split patients of at least two classes"
            got = f"{len(np.unique(classes[rows]))} in the split {name}"
            raise DataError(expected("two classes of the attribute", got=got, where="splits", fix=fix))
    contests = tuple(
        contest
        for contest in _contests(classes, names)
        if _enough(contest.truth, patient, train, valid, test)
    )
    if not contests:
        got = "fewer in every class, or a class that is missing elsewhere"
        what = f"{MIN_CELL} patients of a class and of the others in the test split"
        raise DataError(expected(what, got=got, where="splits", fix="use a larger test split"))
    return AttackRows(classes, names, train, valid, test, patient, contests)


def one_row_per_patient(rows: AttackRows) -> AttackRows:
    """Return the same attack where only the first row of each patient is judged."""

    def first(part: Numbers) -> Numbers:
        return part[np.sort(np.unique(rows.patient[part], return_index=True)[1])]

    return replace(rows, valid=first(rows.valid), test=first(rows.test))


def patient_means(margins: npt.NDArray[np.float64], patient: Numbers) -> npt.NDArray[np.float64]:
    """Return the mean margins over all rows of each row's patient, shape (rows, classes)."""
    sums = np.zeros((int(patient.max()) + 1, margins.shape[1]))
    np.add.at(sums, patient, margins)
    return (sums / np.maximum(np.bincount(patient), 1)[:, None])[patient]


def _contests(classes: Numbers, names: Sequence[str]) -> list[Contest]:
    """Return what may be asked: each class against the rest and each two, or the two that there are."""

    def contest(positive: int, negative: int | None) -> Contest:
        against = _REST if negative is None else names[negative]
        blank = np.full(len(classes), np.nan)
        return Contest(f"{names[positive]} against {against}", positive, negative, blank).of(classes)

    there = [number for number in range(len(names)) if (classes == number).any()]
    pairs = [contest(second, first) for first, second in itertools.combinations(there, 2)]
    return pairs if len(there) == 2 else [contest(number, None) for number in there] + pairs


def _enough(truth: Truth, patient: Numbers, train: Numbers, valid: Numbers, test: Numbers) -> bool:
    def fewest(rows: Numbers) -> int:
        return min(int(np.unique(patient[rows[truth[rows] == value]]).size) for value in (0, 1))

    return (
        fewest(test) >= MIN_CELL and fewest(valid) >= _LEAST_TO_CHOOSE and fewest(train) >= _LEAST_TO_CHOOSE
    )


@dataclass(eq=False)
class DrawCache:
    """The draws of a release, each computed once while there is room.

    Attributes:
        draws: from the number of a draw to the released values of all rows.
        shape: of the original values.
        most_bytes: of the draws that are kept.
    """

    draws: Callable[[int], Values]
    shape: tuple[int, ...]
    most_bytes: int = _CACHED_BYTES
    _kept: dict[int, Values] = field(default_factory=dict)
    _constant: bool | None = None

    @property
    def constant(self) -> bool:
        """Whether every draw gives the same: judged by the first two."""
        if self._constant is None:
            first = self(0)
            self._constant = bool(np.array_equal(first, self._drawn(1)))
        return self._constant

    def __call__(self, number: int) -> Values:
        """Return the released values of one draw.

        Raises:
            DataError: they are not finite, or not of the shape of the original ones.
        """
        number = 0 if self._constant else number
        if number in self._kept:
            return self._kept[number]
        values = self._drawn(number)
        room = sum(item.nbytes for item in self._kept.values())
        while self._kept and room + values.nbytes > self.most_bytes:
            oldest = next((key for key in self._kept if key), None)  # the published draw stays
            if oldest is None:
                break
            room -= self._kept.pop(oldest).nbytes
        self._kept[number] = values
        return values

    def _drawn(self, number: int) -> Values:
        values = np.ascontiguousarray(self.draws(number), dtype=np.float32)
        if values.shape != self.shape or not np.isfinite(values).all():
            what = f"finite released values of shape {self.shape}"
            raise DataError(expected(what, got=f"shape {values.shape}", where="release"))
        return values


def refuse_divided(question: ReleaseQuestion, released: Values) -> None:
    """Refuse a patient or an image in two splits, where an attacker is judged by what it was shown.

    Equal released images are allowed where the method releases codes: one prototype stands for many images.

    Raises:
        DataError: there is one.
    """
    table = question.original
    homes: dict[str, str] = {}
    if any(
        homes.setdefault(who, split) != split for who, split in zip(table.patients, table.split, strict=True)
    ):
        raise DataError(problem("a patient is in two splits", where="splits", fix="split by patient"))
    subjects = [("original", table.values)]
    if question.codes is None:
        subjects.append(("released", released))
    for name, values in subjects:
        shared = _shared(values, table.split)
        if shared and not _collapsed(values):
            fix = "assign all copies of an image to one split"
            got = f"{shared} {name} images that are also in another split"
            raise DataError(expected("every image in one split", got=got, where="splits", fix=fix))


def _shared(values: Values, split: Sequence[str]) -> int:
    home: dict[bytes, str] = {}
    count = 0
    for image, name in zip(np.ascontiguousarray(values), split, strict=True):
        count += home.setdefault(hashlib.sha256(image.tobytes()).digest(), name) != name
    return count


def _collapsed(values: Values) -> bool:
    """Return whether a release has so few different images that they stand for groups of patients."""
    different = len({hashlib.sha256(image.tobytes()).digest() for image in np.ascontiguousarray(values)})
    return different * 4 <= len(values)
