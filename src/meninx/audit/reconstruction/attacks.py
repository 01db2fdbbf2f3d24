"""The reconstruction attacks of meninx by name: what each needs, who carries it out, how it is prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from meninx.audit.reconstruction.encoders import EncoderName
from meninx.audit.reconstruction.front_block import Gate
from meninx.audit.reconstruction.honest_server import GradientMatching, LinearReadout
from meninx.audit.reconstruction.imprint import Imprint
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.victim import Gradients
from meninx.privacy.clipping.clipped_sum import PerSampleLoss

MALICIOUS, HONEST = "malicious", "honest but curious"


class Inversion(Protocol):
    """An attack that is ready: the network that clients train, and the decoder of its gradients."""

    @property
    def network(self) -> nn.Module:
        """What the server sends; takes images in [0, 1]."""

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the parameters whose gradients are read."""

    @property
    def words(self) -> str:
        """The network in words."""

    def decode(self, steps: Sequence[Gradients], targets: Tensor, noise: float) -> Tensor:
        """Return the candidates of each step, (steps, candidates, *shape)."""


@dataclass(frozen=True, kw_only=True)
class Victim:
    """What an attack is prepared for.

    Attributes:
        loss: of the run.
        outputs: of the run's network.
        images: whose gradients are added in what is seen.
    """

    loss: PerSampleLoss
    outputs: int
    images: int


Preparation = Callable[[Knowledge, Victim], Inversion]


@dataclass(frozen=True, kw_only=True)
class AttackKind:
    """One attack.

    Attributes:
        words: what it does, in a sentence.
        server: ``malicious`` or ``honest but curious``.
        encoder: linear map in front of the attacked rows; empty where there is none.
        single: steps have one image.
        slow: seconds rather than milliseconds for each image and noise level.
        segmentation: the attack can be run on segmentation.
        prepare: makes it ready.
        package: name and version of the package whose code it is; empty for one of meninx's own.
    """

    words: str
    server: str
    encoder: str = ""
    single: bool = False
    slow: bool = False
    segmentation: bool = True
    prepare: Preparation
    package: str = ""


def _imprint(encoder: EncoderName, gate: Gate, knowledge: Knowledge, victim: Victim) -> Inversion:
    return Imprint(knowledge, encoder, gate, batch=victim.images)


def _published(knowledge: Knowledge, victim: Victim) -> Inversion:
    return Imprint(knowledge, "raw", "steps", connection="input", gain=None, batch=victim.images)


def _readout(knowledge: Knowledge, victim: Victim) -> Inversion:
    return LinearReadout(knowledge, victim.outputs)


def _matching(knowledge: Knowledge, victim: Victim) -> Inversion:
    return GradientMatching(knowledge, victim.loss)


_BINS = "each row of a front block reacts to a narrow range of a measurement, so it holds one image"
ATTACKS: Mapping[str, AttackKind] = {
    "imprint-whitened": AttackKind(
        words=f"{_BINS}; its code is whitened by public images",
        server=MALICIOUS, encoder="whitened", prepare=partial(_imprint, "whitened", "bins"),
    ),
    "imprint-pca": AttackKind(
        words=f"{_BINS}; its code is that of principal components of public images",
        server=MALICIOUS, encoder="pca", prepare=partial(_imprint, "pca", "bins"),
    ),
    "imprint-centred": AttackKind(
        words=f"{_BINS}, without the mean of public images",
        server=MALICIOUS, encoder="centred", prepare=partial(_imprint, "centred", "bins"),
    ),
    "imprint-raw": AttackKind(
        words=_BINS, server=MALICIOUS, encoder="raw", prepare=partial(_imprint, "raw", "bins"),
    ),
    "cumulative": AttackKind(
        words="rows of a front block react above rising edges; the difference of two rows holds one image",
        server=MALICIOUS, encoder="raw", prepare=partial(_imprint, "raw", "steps"),
    ),
    "trap": AttackKind(
        words="rows of a front block have random weights and react to about one image of a step",
        server=MALICIOUS, encoder="raw", prepare=partial(_imprint, "raw", "traps"),
    ),
    "cumulative-input": AttackKind(
        words="the same as published: the rows' sum is added to the image, and the network takes its share",
        server=MALICIOUS, encoder="raw", prepare=_published,
    ),
    "readout": AttackKind(
        words="the gradient of a first linear layer is a multiple of its input",
        server=HONEST, single=True, segmentation=False, prepare=_readout,
    ),
    "matching": AttackKind(
        words="an image is sought whose gradient points where the seen one does; its label is known",
        server=HONEST, single=True, slow=True, prepare=_matching,
    ),
}  # fmt: skip
"""From the strongest under noise to the weakest; the last two need no malicious server."""
