"""What an attacker sees of a client: noisy clipped gradient sums, made by the program's own private step.

The clipped sum is that of :meth:`meninx.privacy.plan.Plan.clipped_sum` and the noise that of
:class:`meninx.privacy.noise.GaussianNoise`, so what is attacked is what is run. Nothing is kept of a step but
the gradients of the parameters that the attacker reads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meninx.core.errors import UsageError, expected
from meninx.privacy.clipping.clipped_sum import PerSampleLoss
from meninx.privacy.noise import GaussianNoise
from meninx.privacy.plan import Plan

Gradients = Mapping[str, Tensor]
"""Parameter name -> gradient, in units of the clipping threshold."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What the attacker sees of a round.

    Every site adds noise of its own, so a sum over n sites has noise of sqrt(n) times that of one. Colluding
    sites know their own releases and subtract them.

    Attributes:
        sites: that take part in the round; 1 for a single client.
        colluders: sites that help the attacker.
        difference: a second round is seen in which one honest site is missing; the attacker reads the
            difference.
        redrawn: in the second round the other sites draw other patients. Otherwise they draw the same, which
            is the worst case for the missing site.
    """

    sites: int = 1
    colluders: int = 0
    difference: bool = False
    redrawn: bool = False

    def __post_init__(self) -> None:
        if self.sites < 1 or not 0 <= self.colluders < self.sites:
            rule = "at least one site more than colluders"
            got = f"{self.sites} sites, {self.colluders} colluders"
            raise UsageError(expected(rule, got=got, where="view"))

    @property
    def name(self) -> str:
        """In words."""
        if self.sites == 1:
            return "step"
        known = f", {self.colluders} colluding" if self.colluders else ""
        if not self.difference:
            return f"sum of {self.sites} sites{known}"
        drawn = "others redrawn" if self.redrawn else "others the same"
        return f"difference of two rounds of {self.sites} sites{known}, {drawn}"

    @property
    def honest(self) -> int:
        """Sites whose releases the attacker does not know."""
        return self.sites - self.colluders

    @property
    def noise(self) -> float:
        """Standard deviation of the noise over that of one site."""
        return math.sqrt(2 * self.honest - 1 if self.difference else self.honest)

    @property
    def added(self) -> int:
        """Batches whose clipped sums are added in what is seen; the attacked patients are in them."""
        return 1 if self.difference and not self.redrawn else self.honest

    @property
    def subtracted(self) -> int:
        """Batches of other patients whose clipped sums are subtracted."""
        return self.honest - 1 if self.difference and self.redrawn else 0


STEP = View()
"""One client's release, as a server without secure aggregation sees it."""


@dataclass(frozen=True, kw_only=True)
class VictimStep:
    """One step of a client's private training, on a network that the server sent.

    Guarantee:
        None: this is an attack. Noise comes from a public seed, so that a study can be repeated; the
        files that hold what was seen are private.

    Attributes:
        plan: clipping and expected batch of the run. Its noise is replaced by that of each level.
        loss: of each row.
        functional: paths of modules of the run's network that are run row by row.
        chunk: most rows in memory at once.
        device: where the steps are computed.
    """

    plan: Plan
    loss: PerSampleLoss
    functional: tuple[str, ...] = ()
    chunk: int = 16
    device: str = "cpu"

    def clipped_sum(
        self, network: nn.Module, watched: tuple[str, ...], inputs: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Return the watched gradients of the clipped sum over patients with one image each.

        Args:
            network: that the server sent.
            watched: names of parameters.
            inputs: images, (rows, *shape).
            targets: of the rows.
        """
        plan = dataclasses.replace(self.plan, views=1)
        threshold = plan.threshold() if plan.clipping == "adaptive" else None
        network = network.to(self.device)
        total = plan.clipped_sum(
            network,
            self.loss,
            inputs.to(self.device),
            targets.to(self.device),
            unit_index=torch.arange(len(inputs)),
            n_units=len(inputs),
            chunk=self.chunk,
            functional=self.functional,
            threshold=threshold,
        )
        scale = 1 / plan.max_grad_norm
        return {name: total.gradients[name].cpu() * scale for name in watched}

    def seen(
        self,
        clean: Gradients,
        noise_multiplier: float,
        *,
        seed: int,
        purpose: str,
        participations: int = 1,
        view: View = STEP,
    ) -> dict[str, Tensor]:
        """Return what the attacker sees of a clipped sum, in units of the clipping threshold.

        Averaging E releases of the same patients divides the noise by sqrt(E), which is drawn once.

        Args:
            clean: watched gradients of the clipped sum.
            noise_multiplier: of one step.
            seed: of the noise.
            purpose: separates the noise of one step from that of any other.
            participations: steps that are averaged, each with noise of its own.
            view: how many sites add noise.
        """
        if participations < 1:
            raise UsageError(expected("at least 1 participation", got=participations, where="participations"))
        std = noise_multiplier * view.noise / math.sqrt(participations)
        key = hashlib.sha256(f"reconstruction\0{seed}\0{purpose}".encode()).digest()
        return GaussianNoise(key=key, std=std).add(clean, 0)
