"""What a model gives away about each patient: outputs, embeddings, and the gradient of the patient's loss.

One row per patient, as attacks take them (:mod:`meninx.metrics.attribute_attacks`). A patient's row is the
mean over the patient's images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from meninx.core.errors import DataError, problem
from meninx.core.manifest import DatasetInfo, Manifest, TaskKind
from meninx.core.progress import SILENT, Progress, task
from meninx.core.randomness import child, child_seed
from meninx.learn import inference, runtime
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore
from meninx.learn.task import ImageTask, image_task
from meninx.models import registry

Array = npt.NDArray[np.float64]
LOGITS, EMBEDDING, GRADIENT, NOISY = "logits", "embedding", "gradient", "noisy gradient"
_LARGEST = 4096  # numbers of a gradient; a larger one is projected


@dataclass(frozen=True)
class ModelSignals:
    """What a model gives away about patients.

    Attributes:
        patients: in the order of the rows.
        rows: signal -> numbers of each patient, shape (patients, numbers).
        bias: signal -> gradient of the last bias on the patient's first image, shape (patients, outputs);
            empty for segmentation and for networks without a bias in the last layer.
    """

    patients: tuple[str, ...]
    rows: dict[str, Array]
    bias: dict[str, Array]


@dataclass(frozen=True)
class Released:
    """How a private run releases gradients: clipped to a norm, with Gaussian noise.

    Attributes:
        max_grad_norm: the norm.
        noise_multiplier: noise standard deviation over ``max_grad_norm``.
    """

    max_grad_norm: float
    noise_multiplier: float


def model_signals(
    network: nn.Module,
    cases: Manifest,
    config: LearnConfig,
    *,
    gradients: Released | None = None,
    with_gradients: bool = True,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ModelSignals:
    """Return what a network gives away about the patients of some cases.

    Args:
        network: moved to the config's device, left in evaluation mode.
        cases: whose labels are those of the loss.
        config: of the training.
        gradients: how a private run releases them; None without privacy.
        with_gradients: False for outputs and embeddings alone.
        seed: of patches, noise and projections. The noise protects nobody: it shows what noise would hide.
        progress: shows the patients.

    Raises:
        DataError: the network gives NaN.
    """
    device = runtime.device(config.runtime.device)
    network.to(device).eval()
    store, task_ = CaseStore(cases, config.model), image_task(cases.info, config.task)
    of: dict[str, list[int]] = {}
    for index, case in enumerate(cases.cases):
        of.setdefault(case.patient_id, []).append(index)
    found: dict[str, list[Array]] = {}
    bias: dict[str, list[Array]] = {}
    with task(progress, "patients", len(of)):
        for patient, indices in of.items():
            seen = [_outputs(network, store, index, task_, config, device) for index in indices]
            for name in (LOGITS, EMBEDDING):
                found.setdefault(name, []).append(np.mean([one[name] for one in seen], axis=0))
            if with_gradients:
                loss = _Loss(network, store, task_, config, device, seed)
                for name, row, first in _gradients(loss, patient, indices, gradients):
                    found.setdefault(name, []).append(row)
                    bias.setdefault(name, []).append(first)
            progress.advance()
    rows = {name: np.stack(values) for name, values in found.items()}
    if any(not np.isfinite(values).all() for values in rows.values()):
        fix = "train it again with a lower learning rate"
        raise DataError(problem("the model gives NaN", where=cases.info.name, fix=fix))
    known = {name: np.stack(values) for name, values in bias.items() if values[0].size}
    return ModelSignals(tuple(of), rows, known if cases.info.task is not TaskKind.SEGMENTATION else {})


def untrained(info: DatasetInfo, config: LearnConfig) -> nn.Module:
    """Return the network of some settings with random weights."""
    with torch.random.fork_rng([]):
        runtime.seed_torch(config.runtime.seed, "never trained")
        return registry.build(
            config.model.name,
            spatial_dims=info.spatial_dims,
            in_channels=info.channels,
            out_channels=image_task(info, config.task).out_channels,
            **config.model.options,
        ).eval()


# outputs


def _outputs(
    network: nn.Module,
    store: CaseStore,
    index: int,
    task_: ImageTask,
    config: LearnConfig,
    device: torch.device,
) -> dict[str, Array]:
    """Return logits and embedding of one case; those of a label map are pooled."""
    seen: list[Tensor] = []
    head = network.get_submodule(registry.head_prefix(network).rstrip("."))
    handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(_pooled(inputs[0])))
    try:
        with torch.no_grad():
            logits = inference.forward(network, store.image(index)[None].to(device), config)
    finally:
        handle.remove()
    features = torch.cat(seen).mean(dim=0)
    if task_.kind is TaskKind.SEGMENTATION:
        shares = task_.probabilities(logits).flatten(2)
        values = torch.cat([shares.mean(dim=2), shares.std(dim=2), logits.flatten(2).mean(dim=2)], dim=1)[0]
    else:
        values = logits[0]
    return {LOGITS: _numbers(values), EMBEDDING: _numbers(features)}


def _pooled(features: Tensor) -> Tensor:
    """Return the input of the last layer, one row per image; mean and deviation of one with places."""
    if features.ndim == 2:
        return features
    flat = features.flatten(2)
    return torch.cat([flat.mean(dim=2), flat.std(dim=2)], dim=1)


# gradients


@dataclass(frozen=True)
class _Loss:
    """The loss of single cases of a network."""

    network: nn.Module
    store: CaseStore
    task_: ImageTask
    config: LearnConfig
    device: torch.device
    seed: int

    def gradient(self, indices: list[int]) -> dict[str, Tensor]:
        """Return the gradient of the mean loss over some cases, by the name of the parameter."""
        named = {name: value for name, value in self.network.named_parameters() if value.requires_grad}
        total = torch.zeros((), device=self.device)
        for index in indices:
            rng = child(self.seed, "patch", self.store.manifest.cases[index].case_id)
            sample = self.store.patch(index, rng, foreground=1.0)
            output = self.network(sample.image[None].to(self.device))
            total = total + self.task_.loss(output.float(), sample.target[None].to(self.device))[0]
        found = torch.autograd.grad(total / len(indices), list(named.values()), allow_unused=True)
        return {name: value for name, value in zip(named, found, strict=True) if value is not None}


def _gradients(
    loss: _Loss, patient: str, indices: list[int], released: Released | None
) -> Iterator[tuple[str, Array, Array]]:
    """Yield signal, what the gradient of the last layer on a patient tells, and its bias on one image."""
    head = registry.head_prefix(loss.network)
    whole, first = loss.gradient(indices), loss.gradient(indices[:1])
    weight, bias = _last(whole, head)
    yield GRADIENT, _read_out(weight, bias, loss.seed), _last(first, head)[1]
    if released is not None:
        rng = np.random.default_rng(child_seed(loss.seed, "noise of a gradient", patient))
        weight, bias = (_released(part, _norm(whole), released, rng) for part in (weight, bias))
        hidden = _released(_last(first, head)[1], _norm(first), released, rng)
        yield NOISY, _read_out(weight, bias, loss.seed), hidden


def _last(gradient: dict[str, Tensor], head: str) -> tuple[Array, Array]:
    """Return the gradient of the last layer: of its weight (outputs, inputs), and of its bias (outputs,).

    Without a bias the second is empty.
    """
    bias = gradient.get(f"{head}bias")
    rest = [value for name, value in gradient.items() if name.startswith(head) and name != f"{head}bias"]
    outputs = len(rest[0]) if bias is None else len(bias)
    weight = np.concatenate([_numbers(value.reshape(outputs, -1)) for value in rest], axis=1)
    return weight, np.zeros(0) if bias is None else _numbers(bias)


def _read_out(weight: Array, bias: Array, seed: int) -> Array:
    """Return the bias gradient, and the input of the last layer that follows from both.

    For one image every row of the weight gradient is the input times a number of the bias gradient.
    """
    if not bias.size:
        return _projected(weight.reshape(-1), seed)
    return np.concatenate([bias, _projected(bias @ weight / max(float(bias @ bias), 1e-12), seed)])


def _norm(gradient: dict[str, Tensor]) -> float:
    return float(torch.stack([value.double().square().sum() for value in gradient.values()]).sum().sqrt())


def _released(part: Array, norm: float, released: Released, rng: np.random.Generator) -> Array:
    """Return a part of a gradient as a private step releases that of one patient alone."""
    clipped = part * min(1.0, released.max_grad_norm / max(norm, 1e-12))
    noise = rng.normal(size=part.shape) * released.noise_multiplier * released.max_grad_norm
    return np.asarray(clipped + noise, dtype=np.float64)


def _projected(vector: Array, seed: int) -> Array:
    """Return a vector, a long one as random sums of its numbers."""
    if len(vector) <= _LARGEST:
        return vector
    rng = child(seed, "projection of a gradient")
    place, sign = rng.integers(0, _LARGEST, len(vector)), rng.choice([-1.0, 1.0], len(vector))
    return np.asarray(np.bincount(place, weights=vector * sign, minlength=_LARGEST), dtype=np.float64)


def _numbers(values: Tensor) -> Array:
    result: Any = values.detach().double().cpu().numpy()
    return np.asarray(result, dtype=np.float64)
