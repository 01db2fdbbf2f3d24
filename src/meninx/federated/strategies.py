"""Strategies: how the sum of a round becomes the next common model, as pure functions over frozen state.

A strategy is ``init`` and ``apply``. The site's part, where it has one, is a hook of its trainer:

>>> import numpy as np
>>> strategy = FedAvg()
>>> state = strategy.init(np.zeros(2, np.float32))
>>> total = RoundSum(mean=np.array([0.5, -1.0], np.float32), units=2)
>>> strategy.apply(state, total).weights.tolist()
[0.5, -1.0]

To add one: a frozen dataclass with these members and a line in :func:`of_config`, or an entry point of
another package (:mod:`meninx.core.plugins`), called with the numbers of rounds and of local steps.

What a server optimiser remembers between rounds goes into ``ServerState.memory``. The coordinator saves it
with the model, and each site that knows the sums computes it, too, so ``apply`` may depend on the state and
the sum alone. A new run begins with the memory of ``init``, also from the model of an earlier run.

References:
    McMahan et al. (2017), Communication-Efficient Learning of Deep Networks from Decentralized Data (FedAvg).
    Li et al. (2020), Federated Optimization in Heterogeneous Networks (FedProx).
    Chang et al. (2018), Distributed deep learning networks among institutions for medical imaging (cyclic
    weight transfer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from meninx.core import check, plugins
from meninx.core.errors import ConfigError, problem
from meninx.federated.config import ALGORITHMS, TermsConfig
from meninx.federated.contribution import RoundSum
from meninx.federated.vector import Vector
from meninx.learn.hooks import Hook, ProximalPull


@dataclass(frozen=True)
class ServerState:
    """The common model, and what the strategy remembers.

    Attributes:
        weights: float32, in the order of the study's layout.
        memory: further vectors by name.
    """

    weights: Vector
    memory: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """Who trains in a round, and how far.

    Attributes:
        sites: those that are asked.
        until: part of each site's training that is done at the end, in ``horizon``-ths.
        horizon: parts of the whole training.
        since: part that is due before this turn; a turn trains from here to ``until`` at most.
    """

    sites: tuple[str, ...]
    until: int
    horizon: int
    since: int


class Strategy(Protocol):
    """An algorithm of federated learning."""

    @property
    def adds_up(self) -> bool:
        """Whether a round needs the sum of several sites alone, so that secure aggregation fits."""

    def init(self, weights: Vector) -> ServerState:
        """Return the state before the first round."""

    def apply(self, state: ServerState, total: RoundSum) -> ServerState:
        """Return the state after a round."""

    def turns(self, sites: Sequence[str]) -> int:
        """Return the number of rounds of the study."""

    def turn(self, number: int, sites: Sequence[str]) -> Turn:
        """Return who trains in the round at a position, counted from 0."""

    def hooks(self) -> tuple[Hook, ...]:
        """Return the listeners of a site's trainer."""


@dataclass(frozen=True)
class FedAvg:
    """The mean of the sites' updates, weighted by their units.

    Attributes:
        rounds: rounds of the study.
        steps: optimiser steps of each site per round; 0 where they follow from epochs.
    """

    rounds: int = 1
    steps: int = 0
    adds_up: ClassVar[bool] = True

    def init(self, weights: Vector) -> ServerState:
        """Return the state before the first round."""
        return ServerState(weights)

    def apply(self, state: ServerState, total: RoundSum) -> ServerState:
        """Return the model plus the mean update."""
        return ServerState(state.weights + total.mean)

    def turns(self, sites: Sequence[str]) -> int:
        """Return the number of rounds."""
        return self.rounds

    def turn(self, number: int, sites: Sequence[str]) -> Turn:
        """Return all sites, and one more round of training."""
        steps = self.steps or 1
        return Turn(tuple(sites), (number + 1) * steps, self.rounds * steps, number * steps)

    def hooks(self) -> tuple[Hook, ...]:
        """Return none."""
        return ()


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedAvg whose sites are pulled to the common model. With ``mu = 0`` it is FedAvg, bit for bit.

    Attributes:
        mu: weight of the pull, >= 0.
    """

    mu: float = 0.01

    def hooks(self) -> tuple[Hook, ...]:
        """Return the pull."""
        return (ProximalPull(self.mu),) if self.mu else ()


@dataclass(frozen=True)
class Cyclic(FedAvg):
    """Cyclic weight transfer: the model goes from site to site; each trains it and hands it on.

    Each site, and the coordinator, sees the model that the site before trained: nothing is added up, so no
    secure aggregation protects an update. Only differential privacy bounds what it tells.

    Attributes:
        batches: the model moves on after each batch. Two models one batch apart give that batch's gradient,
            from which images can be rebuilt: a baseline that shows the leak, not for patients.
    """

    batches: bool = False
    adds_up: ClassVar[bool] = False

    @property
    def _laps(self) -> int:
        return self.rounds * self.steps if self.batches else self.rounds

    def turns(self, sites: Sequence[str]) -> int:
        """Return the turns of all sites."""
        return self._laps * len(sites)

    def turn(self, number: int, sites: Sequence[str]) -> Turn:
        """Return the one site whose turn it is."""
        lap, place = divmod(number, len(sites))
        steps = 1 if self.batches else self.steps or 1
        return Turn((sites[place],), (lap + 1) * steps, self._laps * steps, lap * steps)


def of_config(terms: TermsConfig) -> Strategy:
    """Return the strategy of a study.

    Raises:
        ConfigError: cyclic transfer per batch without a number of steps; the algorithm is of another package,
            and cannot be imported, does not add updates up, or has the name of one of meninx's own.
    """
    name = terms.algorithm
    if name not in ALGORITHMS:
        return _of_other_package(name, terms)
    plugins.refuse_own(plugins.STRATEGIES, name)
    rounds, steps = terms.rounds, terms.local_steps
    if name == "cyclic":
        batches = terms.turns == "batch"
        if batches and not terms.local_steps:
            fix = "give --local-steps: a lap has one batch of every site"
            raise ConfigError(problem("turns per batch need a number of steps", where="turns", fix=fix))
        return Cyclic(rounds, steps, batches=batches)
    if name == "fedprox":
        return FedProx(rounds, steps, mu=terms.proximal)
    return FedAvg(rounds, steps)


def _of_other_package(name: str, terms: TermsConfig) -> Strategy:
    """Return the strategy that an installed package offers under a name."""
    check.one_of(plugins.names(plugins.STRATEGIES), algorithm=name)
    strategy: Strategy = plugins.load(plugins.STRATEGIES, name)(terms.rounds, terms.local_steps)
    if not strategy.adds_up:
        what = f"{name} hands models on instead of adding updates up, which only cyclic transfer may do"
        raise ConfigError(problem(what, where="algorithm"))
    return strategy
