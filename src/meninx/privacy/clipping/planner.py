"""The kernel planner: which kernel computes the gradient norms of a layer, by a rule or by measurement.

Measurements use random numbers of the layer's shapes and never data, so a choice reveals nothing about
patients. All kernels give the same gradients up to rounding; the choice changes time and memory only.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from meninx.core import check

Mode = Literal["rule", "measure", "store", "ghost", "norm"]
MODES = ("rule", "measure", "store", "ghost", "norm")
_TOO_SLOW = 2.5  # kernels slower than this multiple of the best for one unit are not tried with more
_AT_ONCE = 2  # with at most this many units, a trial with one unit first would save no time
_TRIAL_SECONDS = 2e-3  # a shorter trial is repeated, up to three times
MOST_STORED = 1 << 30  # bytes of gradients kept per layer; larger ones are computed, measured and dropped


Trial = tuple[Callable[[], object], float]
"""(a function that runs a kernel, the weight of its seconds in the comparison)."""


class KernelCandidates(ABC):
    """The shapes of one layer's weight gradients, and the kernels that could compute them."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Everything that a measured choice depends on, except machine and library."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the tensors."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """The kernel chosen without measurement."""

    @property
    @abstractmethod
    def storing_kernels(self) -> tuple[str, ...]:
        """The kernels that keep gradients, the usual best first."""

    @property
    @abstractmethod
    def can_ghost(self) -> bool:
        """Whether a ghost norm is worth trying."""

    @abstractmethod
    def trials(self, kernel: str, units: int) -> list[Trial]:
        """Return runs of ``kernel`` for some units of random numbers, including the weighted sum."""

    @property
    @abstractmethod
    def trial_units(self) -> int:
        """Number of units in a trial."""


@dataclass(frozen=True)
class Choice:
    """The planner's choice for the shapes of one layer.

    Attributes:
        kernel: name of the kernel.
        seconds: kernel tried -> CPU seconds for a few units (wall seconds on a GPU); empty by rule.
    """

    kernel: str
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Planner:
    """Chooses kernels and remembers its choices.

    Attributes:
        mode: ``"rule"``: by shapes, the same on every machine; ``"measure"``: one trial per shape;
            ``"store"``, ``"ghost"``, ``"norm"``: that strategy wherever possible, for comparisons.
        choices: key -> choice; may come from an earlier run on the same machine.
        seen: key -> choice, for the layers of this planner's passes.
    """

    mode: Mode = "rule"
    choices: dict[str, Choice] = field(default_factory=dict)
    seen: dict[str, Choice] = field(default_factory=dict)
    _known: dict[Hashable, tuple[str, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check.one_of(MODES, mode=self.mode)

    def choose(self, key: Hashable, make: Callable[[], KernelCandidates], *, stored: int, once: bool) -> str:
        """Return the kernel for some units of a layer.

        Args:
            key: identifies the layer and its shapes in this process.
            make: returns the candidates; called once per key.
            stored: numbers in all gradients together; decides whether they can be kept.
            once: whether the layer was called once in this pass; gradients of several calls must be kept,
                because they are added before the norm is taken.
        """
        if key not in self._known:
            candidates = make()
            self._known[key] = (self._chosen(candidates), candidates.storing_kernels[0])
        chosen, keeper = self._known[key]
        kernel = chosen if once else keeper
        too_large = kernel not in ("ghost", "norm") and 4 * stored > MOST_STORED
        return "norm" if too_large and once else kernel

    def _chosen(self, candidates: KernelCandidates) -> str:
        if self.mode == "store":
            return candidates.storing_kernels[0]
        if self.mode in ("ghost", "norm"):
            return self.mode
        key = candidates.key
        if key not in self.seen:
            self.seen[key] = self._looked_up(candidates, key)
        return self.seen[key].kernel

    def _looked_up(self, candidates: KernelCandidates, key: str) -> Choice:
        if self.mode == "rule":
            return Choice(candidates.rule)
        known = self.choices.get(key)
        if known is None or known.kernel not in (*candidates.storing_kernels, "ghost"):
            self.choices[key] = _tried(candidates)
        return self.choices[key]


def _tried(candidates: KernelCandidates) -> Choice:
    """Return the fastest kernel on a few units of random numbers."""
    names = (
        [*candidates.storing_kernels, "ghost"] if candidates.can_ghost else list(candidates.storing_kernels)
    )
    if len(names) == 1:
        return Choice(names[0])
    # A trial draws random numbers and must not advance the generator of the training.
    with torch.random.fork_rng([candidates.device] if candidates.device.type == "cuda" else []):
        return _fastest(candidates, names)


def _fastest(candidates: KernelCandidates, names: list[str]) -> Choice:
    """Return the fastest of the kernels ``names``."""
    units = candidates.trial_units
    if units <= _AT_ONCE:
        seconds = {name: _seconds(candidates, name, units) for name in names}
    else:
        first = {name: _seconds(candidates, name, 1) for name in names}
        promising = [name for name in names if first[name] < _TOO_SLOW * min(first.values())]
        seconds = (
            {name: _seconds(candidates, name, units) for name in promising} if len(promising) > 1 else first
        )
    return Choice(min(seconds, key=lambda name: seconds[name]), seconds)


def _seconds(candidates: KernelCandidates, kernel: str, units: int) -> float:
    """Return the seconds of a kernel: CPU time where possible, which other processes affect least."""
    clock = time.perf_counter if candidates.device.type == "cuda" else time.process_time
    total = 0.0
    for run, share in candidates.trials(kernel, units):
        times: list[float] = []
        while not times or (len(times) < 3 and sum(times) < _TRIAL_SECONDS):
            _wait(candidates.device)
            begun = clock()
            run()
            _wait(candidates.device)
            times.append(clock() - begun)
        total += share * min(times)
    return total


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
