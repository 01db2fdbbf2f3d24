"""Images that a network changed by a bounded amount, so that its attackers fail to find an attribute.

The attackers that the network was trained against fail on its images. Attackers that are trained on these
images do not: a bounded change of pixels does not remove what large parts of an image say. The method is
offered to be measured, and as what a reader of DP-Viewmaker looks for. It is not differentially private. ::

    >>> from meninx.core.progress import SILENT
    >>> from meninx.obfuscate.config import ObfuscateConfig
    >>> rng = np.random.default_rng(0)
    >>> sex, ill = rng.integers(0, 2, 48), rng.integers(0, 2, 48)
    >>> values = rng.random((48, 1, 16, 16), dtype=np.float32) * 0.5
    >>> values[:, :, :4] += 0.4 * sex[:, None, None, None]
    >>> names = tuple(f"P{number}" for number in range(48))
    >>> table = ImageTable(
    ...     values=values, cases=names, patients=names, split=("train",) * 32 + ("valid",) * 16,
    ...     private={"sex": sex}, classes={"sex": ("F", "M")}, labels={"effusion": ill.astype(float)},
    ... )
    >>> config = ObfuscateConfig.of(method="maxent", budget=0.1, steps=2, attackers=1)
    >>> fitted = create(config, bytes(32)).fit(table, seed=0, progress=SILENT)
    >>> released = fitted.release(table)
    >>> bool(np.abs(released - values).mean((1, 2, 3)).max() <= 0.1 + 1e-6), released.shape
    (True, (48, 1, 16, 16))

References:
    Wu and Wang (2023), DP-Viewmaker (github.com/ChenweWu/dp-viewmaker). Tamkin et al. (2021), Viewmaker
    Networks, ICLR.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meninx.core.errors import DataError, problem
from meninx.core.progress import Progress
from meninx.learn import runtime
from meninx.models.viewmaker_networks import LARGEST_SHARE, Viewmaker
from meninx.obfuscate.config import BUDGET, ObfuscateConfig
from meninx.obfuscate.obfuscator import ImageTable, Values
from meninx.obfuscate.viewmaker_game import trained_viewmaker
from meninx.privacy.keystream import keystream

Array = npt.NDArray[np.float64]
_ROWS = 32
_TOP = 255.0
_HALVINGS = 12


def create(config: ObfuscateConfig, key: bytes) -> ViewmakerRelease:
    """Return the method before it has seen data."""
    return ViewmakerRelease(config, key)


@dataclass(frozen=True)
class ViewmakerRelease:
    """A viewmaker with the settings of ``config.viewmaker``.

    Attributes:
        config: the settings; the method is ``viewmaker``, ``viewmaker-seed`` or ``maxent``.
        key: 32 secret bytes, from which the random numbers of each release are derived.
    """

    config: ObfuscateConfig
    key: bytes = field(repr=False)

    def fit(self, table: ImageTable, *, seed: int, progress: Progress) -> FittedViewmaker:
        """Return the viewmaker trained on the training rows.

        Validation rows only decide when the first attackers and the network of the labels are trained.

        Raises:
            DataError: images of less than 8 pixels a side, or no label that can be learned.
        """
        settings, budget = self.config.viewmaker.in_force(self.config.method), self.config.amount or BUDGET
        network = trained_viewmaker(
            table, self.config.attribute, settings, budget=budget, seed=seed, device=self.config.device,
            progress=progress,
        )  # fmt: skip
        place = runtime.device(self.config.device)
        fitted = FittedViewmaker(network, self.key, place, table.values.shape[1:], {})
        train = table.select(table.where("train"))
        changed = np.abs(fitted.release(train) - train.values).mean(dtype=np.float64)
        facts = {
            "network": settings.network,
            "parameters": sum(value.numel() for value in network.parameters()),
            "loss": settings.loss,
            "label_term": bool(settings.task_weight),
            "attackers_in_the_game": settings.attackers or 0,
            "mean_change_of_training_images": float(changed),
        }
        return replace(fitted, described=facts)


@dataclass(frozen=True, eq=False)
class FittedViewmaker:
    """A trained viewmaker.

    Guarantee: the mean absolute change of each released image is at most the budget, no pixel changes by more
        than four times the budget, and all values lie in [0, 1]. This holds after rounding to 8 bits where
        the original images have 8 bits; with more bits, rounding alone changes a pixel by up to 1/510. It is
        a limit on what an image loses, not on what it tells.

    Attributes:
        network: in evaluation mode.
        key: secret; a release of an image draws its random numbers from the key, the case and the draw.
        device: where the network lies.
        shape: channels, height and width of the images.
        described: facts to publish.
    """

    network: Viewmaker
    key: bytes = field(repr=False)
    device: torch.device
    shape: tuple[int, ...]
    described: Mapping[str, Any]

    def release(self, table: ImageTable, *, draw: int = 0) -> Values:
        """Return the changed images, rounded to 8 bits.

        Raises:
            DataError: images of another shape.
        """
        if table.values.shape[1:] != self.shape:
            raise DataError(problem("the images have another size than the training images", where="images"))
        released = np.empty_like(table.values)
        for first in range(0, len(table), _ROWS):
            rows = slice(first, first + _ROWS)
            images = table.values[rows]
            views = self._views(images, table.cases[rows], draw)
            released[rows] = _rounded(images, views, self.network.budget)
        return released

    def facts(self) -> Mapping[str, Any]:
        """Return the network, its loss, and how much it changes the training images."""
        return self.described

    def private_files(self) -> Mapping[str, bytes]:
        """Return the weights, as ``torch.save`` writes them."""
        content = io.BytesIO()
        torch.save({name: value.cpu() for name, value in self.network.state_dict().items()}, content)
        return {"viewmaker.pt": content.getvalue()}

    @torch.no_grad()
    def _views(self, images: Values, cases: tuple[str, ...], draw: int) -> Values:
        """Return views of at most :data:`_ROWS` images.

        The network always sees so many rows, so that the values of one do not depend on how many others there
        are.
        """
        padded = torch.zeros((_ROWS, *self.shape))
        padded[: len(images)] = torch.from_numpy(images)
        noise = self._noise(cases, draw)
        views: Tensor = self.network(padded.to(self.device), [one.to(self.device) for one in noise])
        return np.asarray(views[: len(images)].cpu().numpy())

    def _noise(self, cases: tuple[str, ...], draw: int) -> list[Tensor]:
        """Return the random numbers of each case, one tensor (:data:`_ROWS`, 1, h, w) per noise channel."""
        shapes = self.network.noise_shapes(*self.shape[1:])
        count = sum(math.prod(shape) for shape in shapes)
        drawn = np.zeros((_ROWS, count), dtype=np.float32)
        for row, case in enumerate(cases):
            words = keystream(self.key, "obfuscate viewmaker", draw, case).read(4 * count)
            drawn[row] = (np.frombuffer(words, dtype="<u4") >> np.uint32(8)) * np.float32(2.0**-24)
        parts = np.split(drawn, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)
        pairs = zip(parts, shapes, strict=True)
        return [torch.from_numpy(part.reshape(_ROWS, 1, *shape)) for part, shape in pairs]


def _rounded(images: Values, views: Values, budget: float) -> Values:
    """Return views rounded to 8 bits whose change is still inside the budget and the box.

    Rounding may make a change larger. Such an image is released with the largest share of its change that
    rounds into the budget, found by halving.
    """
    exact = np.asarray(images, dtype=np.float64)
    change = np.asarray(views - exact, dtype=np.float64)
    found = _levels(exact, change, np.ones(len(exact)), budget)
    rows = np.flatnonzero(_mean_change(exact, found) > budget)
    if len(rows):
        part, moved = exact[rows], change[rows]
        low, high = np.zeros(len(rows)), np.ones(len(rows))
        best = _levels(part, moved, low, budget)
        for _ in range(_HALVINGS):
            share = (low + high) / 2
            tried = _levels(part, moved, share, budget)
            fits = _mean_change(part, tried) <= budget
            best[fits] = tried[fits]
            low, high = np.where(fits, share, low), np.where(fits, high, share)
        found[rows] = best
    return np.asarray(found / _TOP, dtype=np.float32)


def _levels(images: Array, change: Array, share: Array, budget: float) -> Array:
    """Return the grey levels of images with a share of their change, rounded into the box."""
    box = LARGEST_SHARE * budget
    wanted = np.round((images + share[:, None, None, None] * change) * _TOP)
    lowest, highest = np.ceil((images - box) * _TOP - 1e-4), np.floor((images + box) * _TOP + 1e-4)
    nearest = np.round(images * _TOP)  # the box may hold no grey level at all
    inside = np.clip(wanted, np.minimum(lowest, nearest), np.maximum(highest, nearest))
    return np.asarray(np.clip(inside, 0.0, _TOP))


def _mean_change(images: Array, found: Array) -> Array:
    mean: Array = np.abs(found / _TOP - images).mean((1, 2, 3))
    return mean
