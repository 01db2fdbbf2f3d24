"""The images of a reconstruction audit: members, held-out patients, and those that the attacker has.

Each patient gives one image, so that every number counts patients. Members are drawn from the training split.
The patients of the test split are divided: the attacker has the images of one half, and the other half took
part in nothing and serves as null and negative control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meninx.core.errors import DataError, expected, problem
from meninx.core.intensity import Intensity
from meninx.core.manifest import Case, Manifest
from meninx.core.randomness import child
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore, padded

LEAST_MEMBERS, LEAST_OTHERS = 2, 4
"""Fewest patients that an audit can work with."""
MOST_PATIENTS = 2000
_MOST_VALUES = 2**28
"""Of the images of one pool: 1 GiB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Patients:
    """One image of each of some patients, in an order that says nothing.

    Attributes:
        images: float32 in [0, 1], from the lower to the upper end of the dataset's intensity window,
            (patients, channels, height, width) or (patients, channels, depth, height, width).
        targets: labels or label maps, as in training.
        cases: name of each image in the manifest; empty where there is none.
    """

    images: Tensor
    targets: Tensor
    cases: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: Tensor) -> Patients:
        """Return some of the patients, by their positions."""
        names = tuple(self.cases[index] for index in chosen.tolist()) if self.cases else ()
        return Patients(images=self.images[chosen], targets=self.targets[chosen], cases=names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pools:
    """The patients of an audit; no patient is in two of them.

    Attributes:
        members: of the training split.
        public: whose images the attacker has.
        heldout: who took part in nothing.
        lowest: network input at image value 0.
        span: network input at image value 1, minus ``lowest``.
        source: where the public images come from, in words.
    """

    members: Patients
    public: Patients
    heldout: Patients
    lowest: float
    span: float
    source: str


def load_pools(
    data: Manifest,
    config: LearnConfig,
    *,
    public: Manifest | None = None,
    seed: int = 0,
    most: int = MOST_PATIENTS,
) -> Pools:
    """Return the pools of a run's dataset.

    Args:
        data: the dataset of the run.
        config: of the run; images have the size that its network is trained on, the middle of larger ones.
        public: dataset of the attacker's own images, of the same size; half of the test patients without it.
        seed: public seed of the draws.
        most: patients of a pool.

    Raises:
        DataError: too few patients, or public images of another size.
    """
    members = _firsts(data.split("train"), seed, "members")
    others = _firsts(data.split("test"), seed, "others")
    if len(others) < 2 * LEAST_OTHERS:
        others += _firsts(data.split("valid"), seed, "others")
    known = {case.patient_id for case in members}
    others = [case for case in others if case.patient_id not in known]
    if len(members) < LEAST_MEMBERS:
        rule = f"at least {LEAST_MEMBERS} patients in the training split"
        raise DataError(expected(rule, got=len(members), where="splits"))
    if len(others) < LEAST_OTHERS:
        rule = f"at least {LEAST_OTHERS} patients in the test split"
        fix = "the attacker's images and the null come from patients that took no part"
        raise DataError(expected(rule, got=len(others), where="splits", fix=fix))
    half = 0 if public is not None else len(others) // 2
    heldout = _loaded(data, others[half:][:most], config)
    if public is None:
        images = _loaded(data, others[:half][:most], config)
        source = f"{len(images)} patients of the same dataset that took no part in training"
    else:
        images = _loaded(public, _firsts(public, seed, "public")[:most], config)
        source = f"{len(images)} patients of another dataset"
        if images.images.shape[1:] != heldout.images.shape[1:]:
            rule = "public images of the size of the run's"
            raise DataError(
                expected(rule, got=_by(images.images), where="public", fix="prepare them at the same size")
            )
    lowest, span = _range(data.info.intensity)
    return Pools(
        members=_loaded(data, members[:most], config),
        public=images,
        heldout=heldout,
        lowest=lowest,
        span=span,
        source=source,
    )


def _firsts(cases: Manifest, seed: int, purpose: str) -> list[Case]:
    """Return the first case of each patient, patients in a random order."""
    first: dict[str, Case] = {}
    for case in cases.cases:
        first.setdefault(case.patient_id, case)
    patients = sorted(first)
    order = child(seed, "reconstruction", purpose).permutation(len(patients))
    return [first[patients[index]] for index in order]


def _loaded(data: Manifest, cases: Sequence[Case], config: LearnConfig) -> Patients:
    if not cases:
        raise DataError(problem("no patients to work with", where=data.info.name))
    store = CaseStore(Manifest(data.root, data.info, tuple(cases)), config.model)
    lowest, span = _range(data.info.intensity)
    images, targets = [], []
    for index in range(len(cases)):
        image, target = store.image(index), store.target(index)
        size = config.model.patch_size or tuple(image.shape[1:])
        images.append(((_middle(image, size, lowest) - lowest) / span).clamp_(0.0, 1.0))
        maps = target.ndim >= len(size) and target.ndim == image.ndim - 1
        targets.append(_middle(target, size, 0) if maps else target)
        if images[0].numel() * len(images) > _MOST_VALUES:
            images, targets = images[:-1], targets[:-1]
            break
    names = tuple(case.case_id for case in cases[: len(images)])
    return Patients(images=torch.stack(images), targets=torch.stack(targets), cases=names)


def _middle(value: Tensor, size: Sequence[int], fill: float) -> Tensor:
    """Return the middle of the last axes, padded where the value is smaller."""
    value = padded(value, size, fill)
    for axis, wanted in enumerate(size, start=value.ndim - len(size)):
        value = value.narrow(axis, (value.shape[axis] - wanted) // 2, wanted)
    return value


def _range(intensity: Intensity) -> tuple[float, float]:
    low, high = intensity.window
    return (low - intensity.shift) / intensity.scale, (high - low) / intensity.scale


def _by(images: Tensor) -> str:
    return " x ".join(map(str, images.shape[1:]))
