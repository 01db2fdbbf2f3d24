"""The layout of weights: which weights of a network are common to all sites, as one float32 vector, and back.

Common are the trained parameters and the floating buffers, such as the running statistics of batch
normalisation. Integer buffers (``num_batches_tracked``) are counters of a site and stay there, with their
type. Layers that a study names stay at each site, too: ``norms`` stands for all norm layers (FedBN).

>>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
>>> layout = WeightLayout.of(net)
>>> layout.size, layout.local
(28, ('1.num_batches_tracked',))
>>> WeightLayout.of(net, local=("norms",)).size
20

Shared parameters count once. 16-bit weights become float32 exactly and are rounded to nearest on the way
back.

References:
    Li et al. (2021), FedBN: Federated Learning on Non-IID Features via Local Batch Normalization.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.federated.vector import Vector
from meninx.learn.finetune import NORMS

NORM_LAYERS = "norms"
"""What a study writes to keep all norm layers local."""


@dataclass(frozen=True)
class Segment:
    """One tensor of the vector.

    Attributes:
        name: in the network's state.
        shape: of the tensor.
        dtype: its type in the network.
        aliases: further names of the same tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Numbers in it."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class WeightLayout:
    """The order of a network's common weights in a vector.

    Attributes:
        segments: the tensors, in the order of the network's state.
        local: names of the state that stay at each site.
    """

    segments: tuple[Segment, ...]
    local: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, network: nn.Module, *, local: tuple[str, ...] = (), frozen: frozenset[str] = frozenset()
    ) -> WeightLayout:
        """Return the layout of a network.

        Args:
            network: the network.
            local: prefixes of names that stay at each site; ``norms`` for all norm layers.
            frozen: parameters that no step trains, which are equal at all sites anyway.

        Raises:
            ConfigError: a prefix fits no weight, or nothing is left.
            DataError: a weight is complex.
        """
        kept = _prefixed(network, local) | frozen
        parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        segments: dict[tuple[int, tuple[int, ...]], Segment] = {}
        stay = []
        for name, value in network.state_dict(keep_vars=True).items():
            if value.is_complex():
                raise DataError(problem("complex weights cannot be added up here", where=name))
            if name in kept or not value.is_floating_point():
                stay.append(name)
                continue
            # Two names of one parameter have one memory; buffers are never shared.
            place = (id(value), tuple(value.shape)) if name in parameters else (-len(segments) - 1, ())
            known = segments.get(place)
            if known is not None:
                segments[place] = Segment(known.name, known.shape, known.dtype, (*known.aliases, name))
            else:
                segments[place] = Segment(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        if not segments:
            raise ConfigError(problem("no weight is left to train together", where="local_layers"))
        return cls(tuple(segments.values()), tuple(stay))

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(segment.size for segment in self.segments)

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes, types and what is local: equal at all sites of a study."""
        table = [[segment.name, segment.shape, segment.dtype, segment.aliases] for segment in self.segments]
        return hashlib.sha256(json.dumps([table, self.local]).encode()).hexdigest()

    def flatten(self, state: Mapping[str, Tensor]) -> Vector:
        """Return the common weights of a network's state as a vector.

        Raises:
            DataError: the state is of another network.
        """
        self._check(state)
        parts = [
            state[segment.name].detach().cpu().to(torch.float32).reshape(-1).numpy()
            for segment in self.segments
        ]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def unflatten(self, vector: Vector, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a whole state: common weights from a vector, the others from the site's own state.

        Args:
            vector: float32, shape ``(size,)``.
            own: the site's state; stays as it is.

        Raises:
            DataError: the vector has another length or a value that is not finite, or the state is of another
                network.
        """
        self._check(own)
        if vector.shape != (self.size,):
            raise DataError(expected(f"{self.size:,} weights", got=f"{vector.size:,}", where="model"))
        if not np.isfinite(vector).all():
            raise DataError(problem("the common weights are not finite", where="model"))
        whole = {name: value.detach().cpu().clone() for name, value in own.items()}
        start = 0
        for segment in self.segments:
            part = torch.from_numpy(vector[start : start + segment.size].astype(np.float32)).reshape(
                segment.shape
            )
            for name in (segment.name, *segment.aliases):
                whole[name] = part.to(whole[name].dtype)
            start += segment.size
        return whole

    def _check(self, state: Mapping[str, Tensor]) -> None:
        names = {name for segment in self.segments for name in (segment.name, *segment.aliases)} | set(
            self.local
        )
        shapes = all(
            segment.name in state and tuple(state[segment.name].shape) == segment.shape
            for segment in self.segments
        )
        if names != set(state) or not shapes:
            fix = "all sites need the same architecture and version of meninx"
            raise DataError(
                problem("the weights are not those of the study's network", where="model", fix=fix)
            )


def _prefixed(network: nn.Module, local: tuple[str, ...]) -> frozenset[str]:
    """Return the names of the state that stay at each site.

    Raises:
        ConfigError: a prefix fits nothing.
    """
    names = list(network.state_dict())
    norms = tuple(
        f"{path}." for path, module in network.named_modules() if path and isinstance(module, NORMS)
    )
    found: set[str] = set()
    for prefix in local:
        starts = norms if prefix == NORM_LAYERS else (prefix,)
        fitting = {name for name in names if name.startswith(starts)}
        if not fitting:
            what = "the network has no norm layer" if prefix == NORM_LAYERS else "no weight begins with it"
            raise ConfigError(problem(what, where=f"local_layers: {prefix}"))
        found |= fitting
    return frozenset(found)
