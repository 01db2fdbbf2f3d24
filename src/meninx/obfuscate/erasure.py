"""Concept erasure: feature vectors in which no linear attacker finds the attribute, on the fitted patients.

Least-squares concept erasure (LEACE) is the affine map that changes vectors least among all maps after
which every class of the attribute has the same mean. It does not read the attribute of the vectors that it
releases::

    >>> rng = np.random.default_rng(0)
    >>> sex = rng.integers(0, 2, 500)
    >>> vectors = rng.normal(size=(500, 8)) + np.outer(sex, np.arange(8) / 4)
    >>> eraser = fit_least_squares(vectors, sex, np.full(500, 1 / 500))
    >>> erased = eraser(vectors)
    >>> bool(np.abs(erased[sex == 1].mean(axis=0) - erased[sex == 0].mean(axis=0)).max() < 1e-8), eraser.rank
    (True, 1)

Two settings go further. ``quadratic`` makes covariances equal too; it has to know the class of each vector.
The method ``kernel-erasure`` appends random Fourier features of a Gaussian kernel and erases both together.
It releases these features, not a reconstruction: a linear reconstruction would be the vector with one
direction shifted, and would keep all that is not linear.

References:
    Belrose et al., LEACE: Perfect linear concept erasure in closed form, NeurIPS 2023. Ravfogel et al.,
    Kernelized concept erasure, EMNLP 2022. Rahimi and Recht, NeurIPS 2007 (Fourier features).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.core.obfuscation_records import CertificateRecord
from meninx.core.progress import Progress
from meninx.core.randomness import child
from meninx.obfuscate.codes import CodedRelease, FittedCodes
from meninx.obfuscate.config import ObfuscateConfig
from meninx.obfuscate.obfuscator import UNKNOWN, ImageTable, Values

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
KERNEL = "kernel-erasure"
_LEAST_PATIENTS = 10
_SMALLEST = 1e-9  # canonical correlation with the attribute, below which a direction tells nothing
_NEGLIGIBLE = 1e-12  # share of the largest variance
_PRECISION = 1e-7  # of a number in float32
_OTHER_SCALE = 1e3  # times the usual spread of a feature
_STEPS, _STILL = 200, 1e-12
_LEAST_FOURIER, _MOST_FOURIER = 16, 512
_MOST_FOR_WIDTH = 1000


def create(config: ObfuscateConfig, key: bytes) -> Erasure:
    """Return the method before it has seen data."""
    return Erasure(config, key)


@dataclass(frozen=True)
class Erasure:
    """LEACE, its quadratic variant or its kernel variant, with the settings of ``config.erasure``.

    Attributes:
        config: the settings.
        key: 32 secret bytes; matters only for codes of erased features.
    """

    config: ObfuscateConfig
    key: bytes = field(repr=False)

    def fit(self, table: ImageTable, *, seed: int, progress: Progress) -> FittedErasure | CodedErasure:
        """Return the erasure fitted on the training patients with a known class, each with the same weight.

        Raises:
            DataError: images instead of vectors, too few patients of a class, or for ``quadratic`` fewer rows
                of a class than features.
        """
        settings, attribute = self.config.erasure, self.config.attribute
        if table.values.ndim != 2:
            raise DataError(problem("the method is for feature vectors", where="features"))
        train = table.select(table.where("train") & (table.private[attribute] != UNKNOWN))
        kinds = train.private[attribute]
        weights = _weights_of(train, attribute)
        scaling = _Scaling.of(train.values.astype(np.float64), weights)
        fourier = None
        if self.config.method == KERNEL:
            fourier = _Fourier.of(
                scaling(train.values), settings.kernel_features, settings.kernel_width, seed
            )
        vectors = _represented(train.values, scaling, fourier)
        if settings.quadratic:
            quadratic = fit_quadratic(vectors, kinds, weights)
            fitted = FittedErasure(
                attribute, scaling, fourier, None, quadratic, _facts(vectors, None, fourier)
            )
        else:
            linear = fit_least_squares(vectors, kinds, weights)
            fitted = FittedErasure(
                attribute, scaling, fourier, linear, None, _facts(vectors, linear, fourier)
            )
        if not settings.quantise:
            return fitted
        erased = replace(table, values=fitted.release(table))
        codes = CodedRelease(self.config, self.key).fit(erased, seed=seed, progress=progress)
        return CodedErasure(fitted, codes)


@dataclass(frozen=True, eq=False)
class FittedErasure:
    """An erasure whose map is fixed.

    Guarantee: on the patients of the fit, a vector drawn from a random patient, every class has the same mean
        of the released vectors, so a linear attacker is not better than a constant. With ``quadratic`` the
        covariances are equal too, which extends it to attackers that are quadratic functions; with a kernel
        it extends to the released Fourier features of that kernel. It says nothing of other attackers and is
        approximate for other patients.

    Attributes:
        attribute: the private attribute.
        scaling: centre and scale of the vectors.
        fourier: Fourier features of the kernel variant, or None.
        linear: the map of LEACE, or None.
        quadratic: the maps of each class, or None.
        described: facts to publish.
    """

    attribute: str
    scaling: _Scaling
    fourier: _Fourier | None
    linear: LeastSquaresEraser | None
    quadratic: QuadraticEraser | None
    described: Mapping[str, Any]

    def represented(self, table: ImageTable) -> Values:
        """Return the vectors before erasure, with Fourier features in the kernel variant, shape (n, m)."""
        if self.fourier is None:
            return table.values
        return self._unscaled(_represented(table.values, self.scaling, self.fourier))

    def release(self, table: ImageTable, *, draw: int = 0) -> Values:
        """Return the erased vectors, shape (n, m); ``draw`` changes nothing.

        Raises:
            PrivacyRefusal: with ``quadratic``, the class of a vector is unknown.
            DataError: vectors of another length.
        """
        if table.values.shape[1:] != self.scaling.centre.shape:
            raise DataError(
                problem("the vectors have another length than those of the fit", where="features")
            )
        vectors = _represented(table.values, self.scaling, self.fourier)
        if self.linear is not None:
            return self._unscaled(self.linear(vectors))
        assert self.quadratic is not None
        kinds = table.private[self.attribute]
        unknown = int((kinds == UNKNOWN).sum())
        if unknown:
            what = f"{unknown} vectors have no known class of the attribute, which quadratic erasure reads"
            raise PrivacyRefusal(
                problem(what, where="attribute", fix="leave them out, or leave quadratic out")
            )
        return self._unscaled(self.quadratic(vectors, kinds))

    def facts(self) -> Mapping[str, Any]:
        """Return the number of features and of erased directions, and how much variance they had."""
        return self.described

    def private_files(self) -> Mapping[str, bytes]:
        """Return the fitted map, from which the means of the classes follow."""
        arrays: dict[str, Any] = {"centre": self.scaling.centre, "scale": self.scaling.scale}
        if self.linear is not None:
            arrays |= {"mean": self.linear.mean, "left": self.linear.left, "right": self.linear.right}
        if self.quadratic is not None:
            arrays |= {"means": self.quadratic.means, "maps": self.quadratic.maps}
        if self.fourier is not None:
            arrays |= {"frequencies": self.fourier.frequencies, "phases": self.fourier.phases}
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        return {"eraser.npz": stream.getvalue()}

    def _unscaled(self, vectors: Array) -> Values:
        """Return vectors in their own units; Fourier features have none."""
        width = len(self.scaling.centre)
        own = vectors[:, :width] * self.scaling.scale + self.scaling.centre
        return np.concatenate([own, vectors[:, width:]], axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class CodedErasure:
    """Codes of erased vectors: what is released is the prototype of a code.

    Attributes:
        erasure: the erasure.
        coded: codes that were fitted on erased vectors.
    """

    erasure: FittedErasure
    coded: FittedCodes

    def represented(self, table: ImageTable) -> Values:
        """Return the vectors before erasure and coding."""
        return self.erasure.represented(table)

    def release(self, table: ImageTable, *, draw: int = 0) -> Values:
        """Return the prototype of each row's code; ``draw`` changes nothing."""
        return self.coded.release(self._erased(table))

    def codes(self, table: ImageTable) -> Numbers:
        """Return the code of each row, shape (n,)."""
        return self.coded.codes(self._erased(table))

    def certificates(
        self, table: ImageTable, attribute: str, *, target: float
    ) -> tuple[CertificateRecord, ...]:
        """Return a bound on every attacker, or a refusal: see ``FittedCodes.certificates``."""
        return self.coded.certificates(self._erased(table), attribute, target=target)

    def facts(self) -> Mapping[str, Any]:
        """Return the facts of the erasure and of the codes."""
        return {**self.erasure.facts(), **self.coded.facts()}

    def private_files(self) -> Mapping[str, bytes]:
        """Return the files of both."""
        return {**self.erasure.private_files(), **self.coded.private_files()}

    def _erased(self, table: ImageTable) -> ImageTable:
        return replace(table, values=self.erasure.release(table))


@dataclass(frozen=True, eq=False)
class LeastSquaresEraser:
    """The map ``x - left right (x - mean)`` of LEACE.

    Attributes:
        mean: shape (d,).
        left: shape (d, rank).
        right: shape (rank, d).
    """

    mean: Array
    left: Array
    right: Array

    @property
    def rank(self) -> int:
        """Number of erased directions, at most the number of classes less one."""
        return len(self.right)

    def __call__(self, vectors: Array) -> Array:
        """Return erased vectors, shape (n, d)."""
        return np.asarray(vectors - (vectors - self.mean) @ self.right.T @ self.left.T)


@dataclass(frozen=True, eq=False)
class QuadraticEraser:
    """The affine maps that give every class the same mean and covariance.

    Attributes:
        mean: common mean, shape (d,).
        means: of the classes, shape (classes, d).
        maps: symmetric, shape (classes, d, d).
    """

    mean: Array
    means: Array
    maps: Array

    def __call__(self, vectors: Array, kinds: Numbers) -> Array:
        """Return erased vectors, shape (n, d), by the class of each, shape (n,)."""
        erased = np.empty_like(vectors)
        for kind in np.unique(kinds):
            rows = kinds == kind
            erased[rows] = (vectors[rows] - self.means[kind]) @ self.maps[kind] + self.mean
        return erased


def fit_least_squares(
    vectors: Array, kinds: Numbers, weights: Array, *, shrunk: bool = True
) -> LeastSquaresEraser:
    """Return the least-squares eraser of classes.

    Args:
        vectors: shape (n, d), float64.
        kinds: class of each, from 0, shape (n,).
        weights: of each, with sum 1, shape (n,).
        shrunk: estimate the covariance with shrinkage towards a multiple of the identity, which erases the
            same and changes vectors of other patients less where there are few of them.
    """
    mean = weights @ vectors
    centred = vectors - mean
    hot = np.asarray(kinds[:, None] == np.arange(int(kinds.max()) + 1), dtype=np.float64)
    crossed = (centred * weights[:, None]).T @ (hot - weights @ hot)
    covariance = (centred * weights[:, None]).T @ centred
    if shrunk:
        covariance = _shrunk(covariance, 1 / float(weights @ weights))
    spectrum, axes = np.linalg.eigh(covariance)
    kept = spectrum > max(float(spectrum[-1]), 0.0) * _NEGLIGIBLE
    roots, axes = np.sqrt(spectrum[kept]), axes[:, kept]
    turned, strengths, _ = np.linalg.svd((axes / roots).T @ crossed, full_matrices=False)
    turned = turned[:, strengths > _SMALLEST]
    return LeastSquaresEraser(mean=mean, left=(axes * roots) @ turned, right=turned.T @ (axes / roots).T)


def fit_quadratic(vectors: Array, kinds: Numbers, weights: Array) -> QuadraticEraser:
    """Return the eraser that moves every class to the Wasserstein barycentre of their Gaussians.

    Args:
        vectors: shape (n, d), float64.
        kinds: class of each, from 0, shape (n,).
        weights: of each, with sum 1, shape (n,).

    Raises:
        DataError: a covariance is singular: fewer rows of a class than features, or features that depend on
            each other.
    """
    every = range(int(kinds.max()) + 1)
    shares = np.array([weights[kinds == kind].sum() for kind in every])
    own = [weights[kinds == kind] / shares[kind] for kind in every]
    means = np.stack([own[kind] @ vectors[kinds == kind] for kind in every])
    covariances = []
    for kind in every:
        centred = vectors[kinds == kind] - means[kind]
        covariances.append((centred * own[kind][:, None]).T @ centred)
        spectrum = np.linalg.eigvalsh(covariances[kind])
        if spectrum[0] <= _SMALLEST * spectrum[-1]:
            what = f"more than {vectors.shape[1]} training rows of every class, and independent features"
            fix = "leave quadratic out, add patients, or share fewer features"
            got = "features with a singular covariance"
            raise DataError(expected(what, got=got, where="quadratic", fix=fix))
    common = _barycentre(covariances, shares)
    maps = []
    for covariance in covariances:
        root, inverse = _power(covariance, 0.5), _power(covariance, -0.5)
        maps.append(inverse @ _power(root @ common @ root, 0.5) @ inverse)
    return QuadraticEraser(mean=shares @ means, means=means, maps=np.stack(maps))


def _barycentre(covariances: list[Array], shares: Array) -> Array:
    """Return the covariance of the Wasserstein barycentre of Gaussians, by fixed-point iteration."""
    found = sum((share * own for share, own in zip(shares, covariances, strict=True)), np.zeros(()))
    for _ in range(_STEPS):
        root, inverse = _power(found, 0.5), _power(found, -0.5)
        mixed = sum(
            (share * _power(root @ own @ root, 0.5) for share, own in zip(shares, covariances, strict=True)),
            np.zeros(()),
        )
        step = inverse @ mixed @ mixed @ inverse
        if np.abs(step - found).max() <= _STILL * np.abs(found).max():
            return np.asarray(step)
        found = step
    return np.asarray(found)


def _power(matrix: Array, exponent: float) -> Array:
    """Return a power of a symmetric positive definite matrix."""
    spectrum, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((axes * np.maximum(spectrum, 1e-300) ** exponent) @ axes.T)


def _shrunk(covariance: Array, count: float) -> Array:
    """Return the optimal linear shrinkage of a covariance towards a multiple of the identity.

    Bodnar, Gupta and Parolya, Journal of Multivariate Analysis 132 (2014) 215-228, for ``count`` rows.
    """
    size = len(covariance)
    trace, level = float(np.trace(covariance)), float(np.trace(covariance)) / size
    target = level * level * size  # squared norm of level times identity
    top, bottom = trace * trace * target / count, float((covariance**2).sum()) * target - (trace * level) ** 2
    share = float(np.clip(1 - (top + 1e-300) / (bottom + 1e-300), 0.0, 1.0)) if bottom > 0 else 0.0
    return np.asarray(share * covariance + (1 - share) * level * np.eye(size))


@dataclass(frozen=True, eq=False)
class _Scaling:
    """Centre and scale of vectors.

    Attributes:
        centre: shape (d,).
        scale: of each feature, shape (d,). It is one number for all features whose spread is similar, so that
            their covariance keeps its shape. A feature whose spread is more than a thousand times larger or
            smaller is scaled by its own: otherwise a small feature would lie below the precision of the fit
            and keep what it tells.
    """

    centre: Array
    scale: Array

    @classmethod
    def of(cls, vectors: Array, weights: Array) -> _Scaling:
        centre = weights @ vectors
        spread = np.sqrt(weights @ (vectors - centre) ** 2)
        # Below the precision of float32, in which vectors are read, a difference is rounding.
        varies = spread > _PRECISION * np.abs(centre)
        if not varies.any():
            raise DataError(problem("the features do not differ between patients", where="features"))
        common = float(np.median(spread[varies]))
        near = varies & (spread < common * _OTHER_SCALE) & (spread > common / _OTHER_SCALE)
        scale = np.full(len(spread), float(np.sqrt((spread[near] ** 2).mean())))
        return cls(centre, np.where(varies & ~near, spread, scale))

    def __call__(self, vectors: npt.ArrayLike) -> Array:
        return np.asarray((np.asarray(vectors, dtype=np.float64) - self.centre) / self.scale)


@dataclass(frozen=True, eq=False)
class _Fourier:
    """Random Fourier features of a Gaussian kernel; they hold no vector of a patient, unlike Nyström's.

    Attributes:
        frequencies: shape (d, m).
        phases: shape (m,).
        width: the kernel is ``exp(-distance**2 / width)``, of scaled vectors.
    """

    frequencies: Array
    phases: Array
    width: float

    @classmethod
    def of(cls, vectors: Array, count: int, width: float | None, seed: int) -> _Fourier:
        rng = child(seed, "fourier features")
        if width is None:
            some = vectors[rng.permutation(len(vectors))[:_MOST_FOR_WIDTH]]
            squares = ((some[0::2][: len(some) // 2] - some[1::2]) ** 2).sum(axis=1)
            width = max(float(np.median(squares)), _NEGLIGIBLE)
        number = count or int(np.clip(len(vectors) // 2, _LEAST_FOURIER, _MOST_FOURIER))
        frequencies = rng.normal(size=(vectors.shape[1], number)) * np.sqrt(2 / width)
        return cls(frequencies, rng.uniform(0, 2 * np.pi, number), width)

    def __call__(self, vectors: Array) -> Array:
        return np.asarray(np.sqrt(2) * np.cos(vectors @ self.frequencies + self.phases))


def _represented(values: npt.ArrayLike, scaling: _Scaling, fourier: _Fourier | None) -> Array:
    """Return scaled vectors, with Fourier features in the kernel variant."""
    vectors = scaling(values)
    return vectors if fourier is None else np.concatenate([vectors, fourier(vectors)], axis=1)


def _weights_of(train: ImageTable, attribute: str) -> Array:
    """Return the weight of each row: all patients weigh the same, with sum 1.

    Raises:
        DataError: too few patients of a class.
    """
    patient = np.unique(np.array(train.patients, dtype=object).astype(str), return_inverse=True)[1]
    kinds = train.private[attribute]
    for number, name in enumerate(train.classes[attribute]):
        count = len(np.unique(patient[kinds == number]))
        if count < _LEAST_PATIENTS:
            what = f"at least {_LEAST_PATIENTS} training patients of every class of the attribute"
            got = f"{count} of class {number + 1} ({name})"
            raise DataError(expected(what, got=got, where="attribute", fix="add patients or join classes"))
    weights = 1 / np.bincount(patient)[patient]
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _facts(vectors: Array, linear: LeastSquaresEraser | None, fourier: _Fourier | None) -> dict[str, Any]:
    found: dict[str, Any] = {"features": vectors.shape[1], "fitted_on_rows": len(vectors)}
    if fourier is not None:
        found |= {"fourier_features": len(fourier.phases), "kernel_width": fourier.width}
    if linear is None:
        return found | {"erased": "means and covariances of the classes"}
    before, after = vectors.var(axis=0).sum(), linear(vectors).var(axis=0).sum()
    return found | {"erased_directions": linear.rank, "variance_removed": float(1 - after / before)}
