"""Sources of units that take part in a private step besides the patients, e.g. the canaries of an audit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from meninx.learn.sampler import Sampler, UnitBatch
from meninx.learn.step import Loader
from meninx.privacy.clipping.clipped_sum import ClippedSum
from meninx.privacy.clipping.point_gradients import PointGradients


@dataclass(frozen=True)
class UnitSource:
    """Units that take part in a private step besides the patients, for instance the canaries of an audit.

    They are clipped like any unit and occupy separate slots after those of the cases, so the sensitivity of
    the sum, the denominator and the accounting do not change. Since they are not data of any person, their
    part of the sum may be inspected: it is in ``Report.slots``.

    Attributes:
        name: of the source, a key of ``Report.slots``.
        sampler: chooses its units; should draw from a secret key, at the plan's rate.
        loader: makes tensors of them.
        digest: identifies the units and their draws; bound to the ledger, because under the same noise no
            other gradients may be released.
    """

    name: str
    sampler: Sampler
    loader: Loader
    digest: str


class PointLoader(Protocol):
    """Makes gradients of the units of a step without a forward pass, and receives the released gradients."""

    @property
    def views(self) -> int:
        """1: a gradient has no augmented copies."""

    @property
    def watched(self) -> Mapping[str, Tensor]:
        """Parameter name -> (places,) int64 positions in it that :meth:`observe` receives."""

    def begin(self, model: nn.Module) -> None:
        """Choose coordinates of the network's trained parameters; called before the first step of a round."""

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[PointGradients]:
        """Yield the gradients of the units in order, whole units at a time; ``most`` is a hint."""

    def observe(self, residuals: Mapping[str, Tensor], threshold: float) -> None:
        """Receive the released sum minus the sum over all other units, at the watched coordinates.

        Args:
            residuals: parameter name -> (places,) float64 on the CPU, in units of the clipped sum; parameters
                that the step does not train are left out.
            threshold: clipping threshold of the step.
        """


@dataclass(frozen=True)
class PointSource:
    """Units whose gradients are given directly. They are clipped and noised like any unit.

    At the end of the step, after every operation that could lose noise, the loader receives the released sum
    at its coordinates minus the sum over the patients: the source's own part plus the noise. Together with
    the released gradient this reveals the patients' sum at these coordinates, so only the loader receives it,
    and it should keep statistics only.

    Attributes:
        name: of the source, a key of ``Report.slots``.
        sampler: chooses its units; should draw from a secret key, at the plan's rate.
        loader: makes their gradients and observes.
        digest: names what the source holds and draws; bound to the ledger.
    """

    name: str
    sampler: Sampler
    loader: PointLoader
    digest: str


Source = UnitSource | PointSource


@torch.no_grad()
def observe(
    model: nn.Module,
    sources: Sequence[Source],
    total: ClippedSum,
    slots: Mapping[str, ClippedSum],
    denominator: float,
) -> None:
    """Give every point source the released gradients minus the sum over all other units.

    Args:
        model: its parameters hold the released gradients.
        sources: of further units.
        total: the clipped sum over all units of the step.
        slots: the part of each source in it.
        denominator: number by which the released sum was divided.
    """
    gradients = {name: value.grad for name, value in model.named_parameters()}
    for source in sources:
        if not isinstance(source, PointSource):
            continue
        own, seen = slots[source.name].gradients, {}
        for name, places in source.loader.watched.items():
            released = gradients[name]
            if released is None:
                continue
            at = places.to(released.device)
            others = total.gradients[name].view(-1)[at].double() - own[name].view(-1)[at].double()
            seen[name] = (released.reshape(-1)[at].double() * denominator - others).cpu()
        source.loader.observe(seen, total.sensitivity)


def bound(binding: str, sources: Sequence[Source]) -> str:
    """Return the binding combined with the digests of further sources; unchanged without any."""
    if not sources:
        return binding
    text = "\0".join([binding, *(f"{source.name}\0{source.digest}" for source in sources)])
    return hashlib.sha256(text.encode()).hexdigest()
