"""Drawn cases as tensors: every case as K views side by side, augmented by seed, step, view and case."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meninx.core import randomness
from meninx.learn.augment import Augmenter
from meninx.learn.data import CaseStore, stacked
from meninx.learn.draw import Groups


@dataclass(frozen=True)
class Batch:
    """A physical batch.

    Attributes:
        images: (cases * views, channels, ...); the views of a case are neighbours.
        targets: (cases * views, ...).
        unit: (cases,) int64: position of each case's group among all groups of the step.
        views: copies of each case.
    """

    images: Tensor
    targets: Tensor
    unit: Tensor
    views: int


@dataclass(frozen=True)
class Assembler:
    """Makes the batches of a step.

    Attributes:
        store: the training cases.
        augmenter: changes each view.
        views: copies of each case.
        foreground: probability of a patch with a labelled voxel.
        seed: public seed of the augmentation.
        device: where the batch goes.
    """

    store: CaseStore
    augmenter: Augmenter
    views: int
    foreground: float
    seed: int
    device: torch.device

    def __call__(self, groups: Groups, step: int, *, first: int = 0) -> Batch:
        """Return the cases of ``groups`` as one batch; the same arguments give the same tensors.

        Args:
            groups: cases of each unit.
            step: optimiser step.
            first: position of the first of these groups among all groups of the step.
        """
        samples = []
        for group in groups:
            for case in group:
                for view in range(self.views):
                    generator = randomness.child(self.seed, "augment", step, case, view)
                    samples.append(self.augmenter(self.store.patch(case, generator, foreground=self.foreground), generator))
        batch = stacked(samples)
        unit = torch.tensor([position for position, group in enumerate(groups, first) for _ in group], dtype=torch.int64)
        return Batch(batch.image.to(self.device), batch.target.to(self.device), unit.to(self.device), self.views)
