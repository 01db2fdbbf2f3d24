"""Attacks on steps of members, with their controls: from images to candidates, in memory.

Each trial is one step. The same decoder also gets noise alone and a step of held-out patients. Every attack
is tried without noise first: one that then reconstructs nothing is broken, and its failure under noise says
nothing.

::

    found = reconstruct("imprint-pca", levels, trials=trials, knowledge=knowledge, victim=step, outputs=2)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meninx.audit.reconstruction.attack_registry import attack_kind
from meninx.audit.reconstruction.attacks import HONEST, MALICIOUS, AttackKind, Inversion, Victim
from meninx.audit.reconstruction.candidates import CandidateRecord, CandidateSet, NoiseLevel
from meninx.audit.reconstruction.knowledge import EVERYBODY, Knowledge
from meninx.audit.reconstruction.pools import Patients
from meninx.audit.reconstruction.victim import STEP, Gradients, VictimStep, View
from meninx.core.errors import DataError, expected
from meninx.core.randomness import child_seed

WORKS = 0.5
"""Share of images that an attack has to reconstruct without noise better than its null."""
LEAST_SIGNAL = 0.05
"""Share of the clipping threshold of an image that a front block has to take."""
_NULL_QUANTILE = 0.95
_SEEDS = 1 << 31


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """What is attacked.

    Attributes:
        members: one case of each patient of the training.
        heldout: one case of each patient that took part in nothing and is not among the attacker's images.
        count: attacked steps of a whole batch.
        seed: of the draws.
    """

    members: Patients
    heldout: Patients
    count: int
    seed: int = 0

    def drawn(self, number: int, each: int, others: int) -> tuple[Patients, Patients, Patients]:
        """Return the attacked members of a trial, further members, and as many held-out cases as attacked.

        No case is twice in a trial's members. Trials share cases only where there are too few.

        Args:
            number: of the trial.
            each: attacked cases.
            others: further members, whose sums are subtracted.

        Raises:
            DataError: there are fewer members or held-out cases than a trial needs.
        """
        members = _part(len(self.members), number, each + others, self.seed, "members")
        heldout = _part(len(self.heldout), number, each, self.seed, "held out")
        return (
            self.members.take(members[:each]),
            self.members.take(members[each:]),
            self.heldout.take(heldout),
        )


def _part(available: int, number: int, size: int, seed: int, purpose: str) -> Tensor:
    """Return the indices of one of the disjoint parts of a random order; a used-up order is drawn anew."""
    if available < size:
        fix = "use a smaller batch or fewer sites"
        raise DataError(expected(f"at least {size} cases", got=available, where=purpose, fix=fix))
    each = available // size
    generator = torch.Generator().manual_seed(child_seed(seed, purpose, number // each) % _SEEDS)
    order, first = torch.randperm(available, generator=generator), number % each * size
    return order[first : first + size]


@dataclass(frozen=True, eq=False)
class _Sums:
    """Clean sums of all trials, and whose they are."""

    originals: Tensor
    heldout: Tensor
    targets: Tensor
    cases: tuple[tuple[str, ...], ...]
    members: list[Gradients]
    others: list[Gradients]


@dataclass(frozen=True)
class Control:
    """The positive control of an attack.

    Attributes:
        found: share of originals that the attack finds without noise. An original is found when a candidate
            of its step is nearer than the candidates of a step of other patients are to 95 % of all
            originals.
        signal: norm of the gradients that are read, for each image, over the clipping threshold.
        works: the attack is not broken.
    """

    found: float
    signal: float
    works: bool


def reconstruct(
    attack: str,
    levels: Sequence[NoiseLevel],
    *,
    trials: Trials,
    knowledge: Knowledge,
    victim: VictimStep,
    outputs: int,
    participations: int = 1,
    view: View = STEP,
) -> Iterator[CandidateSet]:
    """Yield the candidates of an attack at each noise level, with originals and null sets.

    Args:
        attack: name of the attack.
        levels: of noise.
        trials: members and held-out cases.
        knowledge: of the attacker.
        victim: how a step is made.
        outputs: of the run's network.
        participations: steps of the same patients that are averaged.
        view: what is seen of a round of several sites.

    Raises:
        UsageError: the attack cannot be run on this network.
        DataError: too few members or held-out cases.
    """
    kind = attack_kind(attack)
    batch = 1 if kind.single else knowledge.batch
    images, others = batch * view.added, batch * view.subtracted
    inversion = kind.prepare(knowledge, Victim(loss=victim.loss, outputs=outputs, images=images + others))
    count = trials.count * (knowledge.batch if kind.single and view == STEP and not kind.slow else 1)
    if kind.slow:
        count = max(count, min(_SLOW_TRIALS, trials.count * knowledge.batch))
    sums = _clean(inversion, trials, victim, count, images, others)
    run = _Attack(attack, kind, inversion, sums, trials.seed, participations, view, victim, knowledge)
    control = run.control()
    for level in levels:
        yield run.at(level, control)


_SLOW_TRIALS = 8


def _clean(
    inversion: Inversion, trials: Trials, victim: VictimStep, count: int, each: int, others: int
) -> _Sums:
    """Return the clean clipped sums of all trials, and of as many of held-out patients."""
    originals, heldout, targets, names = [], [], [], []
    sums: tuple[list[Gradients], list[Gradients]] = ([], [])
    for number in range(count):
        attacked, rest, control = trials.drawn(number, each, others)
        minus = _sum(inversion, victim, rest) if others else None
        for place, cases in zip(sums, (attacked, control), strict=True):
            total = _sum(inversion, victim, cases)
            if minus is not None:
                total = {name: value - minus[name] for name, value in total.items()}
            place.append(total)
        originals.append(attacked.images)
        heldout.append(control.images)
        targets.append(attacked.targets)
        names.append(attacked.cases)
    return _Sums(
        originals=torch.stack(originals),
        heldout=torch.stack(heldout),
        targets=torch.stack(targets),
        cases=tuple(names),
        members=sums[0],
        others=sums[1],
    )


def _sum(inversion: Inversion, victim: VictimStep, cases: Patients) -> dict[str, Tensor]:
    return victim.clipped_sum(inversion.network, inversion.watched, cases.images, cases.targets)


@dataclass(frozen=True, eq=False)
class _Attack:
    """A prepared attack with the clean sums that it gets noise on."""

    name: str
    kind: AttackKind
    inversion: Inversion
    sums: _Sums
    seed: int
    participations: int
    view: View
    victim: VictimStep
    knowledge: Knowledge
    known: dict[tuple[str, float], Tensor] = field(default_factory=dict)

    def at(self, level: NoiseLevel, control: Control) -> CandidateSet:
        """Return the candidates at one noise level."""
        begun, sigma = time.perf_counter(), level.noise_multiplier
        found = self._decoded(self.sums.members, sigma, "members")
        nothing = [
            {name: torch.zeros_like(value) for name, value in one.items()} for one in self.sums.members
        ]
        noise = self._decoded(nothing, sigma or 1.0, "noise alone")
        other = self._decoded(self.sums.others, sigma, "held out")
        record = CandidateRecord(
            attack=self.name,
            encoder=self.kind.encoder,
            view=self.view.name,
            sites=self.view.sites,
            view_noise=self.view.noise,
            level=level,
            max_grad_norm=self.victim.plan.max_grad_norm,
            clipping=self.victim.plan.clipping,
            batch=1 if self.kind.single else self.knowledge.batch,
            participations=self.participations,
            network=self.inversion.words,
            server=self.kind.server,
            knowledge=self.sentences(),
            seed=self.seed,
            shape=self.knowledge.shape,
            trials=len(found),
            originals=self.sums.originals.shape[1],
            candidates=found.shape[1],
            works=control.works,
            self_test=control.found,
            signal=control.signal,
            cases=self.sums.cases,
            seconds=time.perf_counter() - begun,
            package=self.kind.package,
        )
        return CandidateSet(
            about=record,
            originals=self.sums.originals,
            heldout=self.sums.heldout,
            candidates=found,
            noise_null=noise,
            heldout_null=other,
        )

    def sentences(self) -> tuple[str, ...]:
        """Return what the attacker knows and chooses, and what is worst case."""
        found = list(EVERYBODY)
        if self.kind.server == MALICIOUS:
            found.append("it chooses the first layers, and the client trains what it is sent")
        if self.kind.single:
            found.append("the step has a single image")
        if self.kind.slow:
            found.append("it knows the label of the image")
        if self.participations > 1:
            count = self.participations
            found.append(f"{count} steps of the same patients are averaged, which is the worst case")
        if self.view.sites > 1:
            found.append("each site takes one step a round and adds noise of its own")
        if self.view.difference and not self.view.redrawn:
            found.append("the other sites draw the same patients in both rounds, which is the worst case")
        return tuple(found)

    def control(self) -> Control:
        """Return whether the attack works without noise.

        Without noise a decoder reads even rounding errors. So a front block that does not take its share of
        the clipping threshold is broken, too.
        """
        found = self._decoded(self.sums.members, 0.0, "members")
        null = self._decoded(self.sums.others, 0.0, "held out")
        near, far = (_nearest(self.sums.originals, images) for images in (found, null))
        share = float((near > torch.quantile(far.double(), _NULL_QUANTILE)).float().mean())
        lengths = [_norm(one) for one in self.sums.members]
        signal = sum(lengths) / len(lengths) / math.sqrt(self.sums.originals.shape[1])
        strong = self.kind.server == HONEST or signal >= LEAST_SIGNAL
        return Control(share, signal, share >= WORKS and strong)

    def _decoded(self, sums: Sequence[Gradients], sigma: float, purpose: str) -> Tensor:
        if (purpose, sigma) in self.known:
            return self.known[purpose, sigma]
        draw = f"{self.name}/{self.view.name}/{purpose}/{sigma!r}"
        seen = [
            self.victim.seen(
                one, sigma, seed=self.seed, purpose=f"{draw}/{number}",
                participations=self.participations, view=self.view,
            )
            for number, one in enumerate(sums)
        ]  # fmt: skip
        noise = sigma * self.view.noise / math.sqrt(self.participations)
        found = self.inversion.decode(seen, self.sums.targets, noise)
        if sigma == 0:  # the self-test and the level without noise ask for the same
            self.known[purpose, sigma] = found
        return found


def _norm(gradients: Gradients) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in gradients.values()))


def _nearest(originals: Tensor, candidates: Tensor) -> Tensor:
    """Return the largest normalised correlation of each original with a candidate of its trial."""
    left, right = (_unit(images) for images in (originals, candidates))
    return torch.einsum("tid,tjd->tij", left, right).amax(2).flatten()


def _unit(images: Tensor) -> Tensor:
    flat = images.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    found: Tensor = flat / flat.norm(dim=2, keepdim=True).clamp(min=1e-9)
    return found
