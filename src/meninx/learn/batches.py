"""Drawn cases as tensors: each case as K adjacent views, each with its own random streams.

A stream is named by seed, step, patient, case and view. It depends neither on the row of the case in the
dataset nor on the other cases. Otherwise removing one patient would change the contributions of all others,
and the sum would change by much more than one clipped gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meninx.core import randomness
from meninx.learn.augment import Augmenter, Sample
from meninx.learn.data import CaseStore, stacked
from meninx.learn.sampler import Units


@dataclass(frozen=True)
class Batch:
    """A physical batch.

    Attributes:
        inputs: (cases * views, channels, ...); the views of a case are neighbours.
        targets: (cases * views, ...).
        unit: (cases,) int64: position of each case's unit among all units of the step.
        views: copies of each case.
        row_keys: (cases * views,) int64 on the CPU: key of each row for random numbers in the network.
    """

    inputs: Tensor
    targets: Tensor
    unit: Tensor
    views: int
    row_keys: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of inputs and targets."""
        return self.inputs.nbytes + self.targets.nbytes


@dataclass(frozen=True)
class Assembler:
    """Makes the batches of a step.

    Attributes:
        store: the training cases.
        augmenter: changes each view.
        views: copies of each case.
        foreground: probability of a patch with a labelled voxel.
        seed: public seed of the augmentation.
        device: device of the batches.
        memory_format: memory layout of 2-D images.
    """

    store: CaseStore
    augmenter: Augmenter
    views: int
    foreground: float
    seed: int
    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format

    def __call__(self, units: Units, step: int, *, first: int = 0) -> Batch:
        """Return the cases of ``units`` as one batch on the device; equal arguments give equal tensors.

        Guarantee: the rows of a case depend on seed, step, the case's own ids and its own data, and on no
            other case.

        Args:
            units: cases of each unit.
            step: optimiser step.
            first: position of the first of these units among all units of the step.
        """
        return self.moved(self.assembled(units, step, first=first))

    def assembled(self, units: Units, step: int, *, first: int = 0) -> Batch:
        """Return the batch in main memory; may be called from any thread.

        For a GPU it lies in pinned memory, from which it is copied while the CPU continues.
        """
        samples, keys = [], []
        for cases in units:
            for case in cases:
                row = self.store.manifest.cases[case]
                for view in range(self.views):
                    name = (step, row.patient_id, row.case_id, view)
                    keys.append(randomness.child_seed(self.seed, "dropout", *name))
                    samples.append(self._sample(case, name))
        batch = stacked(samples)
        unit = torch.tensor(
            [position for position, cases in enumerate(units, first) for _ in cases], dtype=torch.int64
        )
        row_keys = torch.tensor(keys, dtype=torch.int64)
        image, target = batch.image, batch.target
        if self.device.type == "cuda":
            image, target, unit = image.pin_memory(), target.pin_memory(), unit.pin_memory()
        return Batch(image, target, unit, self.views, row_keys)

    def moved(self, batch: Batch) -> Batch:
        """Return the batch on the device.

        A copy from pinned memory may still be in progress; later operations on the device wait for it.
        """
        inputs, targets, unit = (
            value.to(self.device, non_blocking=True) for value in (batch.inputs, batch.targets, batch.unit)
        )
        if self.memory_format is torch.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return Batch(inputs, targets, unit, batch.views, batch.row_keys)

    def _sample(self, case: int, name: tuple[int | str, ...]) -> Sample:
        """Return one view of a case."""
        if not self.augmenter.names and not self.store.config.patch_size:
            return self.store.sample(case)  # nothing is drawn
        generator = randomness.child(self.seed, "augment", *name)
        sample = self.store.patch(case, generator, foreground=self.foreground)
        return self.augmenter(sample, generator)
