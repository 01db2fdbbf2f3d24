"""Features of mean 0 and deviation 1 over public images, written into the weights of a pretrained network.

A linear head on standardised features learns in a few private steps. The statistics are computed from public
images, so they cost no privacy budget. They change two vectors, weight and bias of the last norm layer before
the head, so the architecture stays the same and a release needs no additional files.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core.artifacts import FeatureStatistics
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected, in_words, problem
from meninx.core.manifest import Manifest, dataset_digest
from meninx.learn.config import ModelConfig
from meninx.learn.data import split_store
from meninx.learn.finetune import NORMS
from meninx.models import registry

MOST_IMAGES = 500
LEAST_DEVIATION = 1e-3  # so that a feature that is constant over the public images is not amplified
_CHECKED_IMAGES = 8
_TOLERANCE = 1e-2  # in deviations
_FIX = (
    "take a network whose features end in a norm layer, e.g. a ResNet with scale_norm = true, or leave it out"
)


@torch.no_grad()
def public_statistics(network: nn.Module, public: Manifest, *, size: Sequence[int] = ()) -> FeatureStatistics:
    """Return mean and deviation of the head's inputs over public training images.

    At most the first :data:`MOST_IMAGES` images are used, in the order of the manifest. The network is left
    in evaluation mode and otherwise unchanged.

    Args:
        network: a pretrained classifier on the CPU.
        public: a prepared dataset; its training split is read.
        size: spatial size to which other images are resized; empty keeps theirs.

    Raises:
        ConfigError: the features cannot be standardised by the weights of the network.
        DataError: the dataset has fewer than two training images, or one that the network does not accept or
            that cannot be read.
    """
    store = split_store(public, "train", ModelConfig())
    if len(store) < 2:
        raise DataError(
            expected("at least two training images", got=len(store), where=f"standardize: {public.info.name}")
        )

    def seen(model: nn.Module, count: int) -> Tensor:
        # Image by image, because several volumes may not fit into memory together.
        return torch.cat([_features(model, _resized(store.image(index), size)) for index in range(count)])

    count = min(MOST_IMAGES, len(store))
    features = seen(network, count)
    if not torch.isfinite(features).all():
        raise DataError(expected("finite features", got="NaN or infinity", where="standardize"))
    mean, deviation = features.mean(0), features.std(0).clamp_min(LEAST_DEVIATION)
    found = FeatureStatistics(
        dataset=public.info.name,
        digest=dataset_digest(public.root).digest,
        images=count,
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
    )
    # The weights are correct only if the norm layer's output reaches the head linearly, which is tested.
    trial = copy.deepcopy(network)
    standardize(trial, found)
    after = seen(trial, min(_CHECKED_IMAGES, count))
    if not torch.allclose(
        after, (features[: len(after)] - mean) / deviation, atol=_TOLERANCE, rtol=_TOLERANCE
    ):
        got = "a last norm layer whose output reaches the head through something else than an average"
        raise ConfigError(
            expected("features that end in a norm layer", got=got, where="standardize", fix=_FIX)
        )
    return found


@torch.no_grad()
def standardize(network: nn.Module, statistics: FeatureStatistics, *, keep_head: bool = False) -> None:
    """Write statistics of features into the last norm layer before the head, in place.

    Args:
        network: the network that the statistics were computed with.
        statistics: of its features.
        keep_head: change the head so that the outputs of the network stay the same.

    Raises:
        ConfigError: the head is not a linear layer, or no norm layer has as many channels as the head has
            inputs.
    """
    head = _head(network)
    weight, bias = _last_affine(network, head.in_features)
    mean = torch.tensor(statistics.mean, dtype=torch.float32)
    deviation = torch.tensor(statistics.deviation, dtype=torch.float32)
    weight.div_(deviation)
    bias.sub_(mean).div_(deviation)
    if keep_head:
        if head.bias is None:
            raise ConfigError(problem("the head has no bias", where="standardize", fix=_FIX))
        head.bias.add_(head.weight @ mean)
        head.weight.mul_(deviation)


def refuse_shared_people(public_root: Path, data: Manifest, recorded: FeatureStatistics | None) -> None:
    """Refuse to standardise the features of a private run with images of people whom the run protects.

    Args:
        public_root: the dataset of the statistics.
        data: all cases of the private run; its training split is compared.
        recorded: statistics of an earlier start. Their dataset may be gone, so only its digest is compared.

    Raises:
        PrivacyRefusal: the dataset is the private one, or shares training patients or their images with it.
    """
    own = dataset_digest(data.root).digest
    if recorded is not None:
        shared = recorded.digest == own
    else:
        public, train = Manifest.read(public_root), data.split("train")
        images = set(train.image_digests().values()) & set(public.image_digests().values())
        same = dataset_digest(public.root).digest == own
        shared = same or bool(images) or not set(train.patients).isdisjoint(public.patients)
    if shared:
        fix = "give a public dataset of other people: statistics of the training patients are not protected"
        got = "one that shares patients or images with the private training split"
        raise PrivacyRefusal(
            expected("a dataset without training patients", got=got, where="standardize", fix=fix)
        )


def _head(network: nn.Module) -> nn.Linear:
    """Return the last layer of a classifier."""
    head = network.get_submodule(registry.head_prefix(network).rstrip("."))
    if not isinstance(head, nn.Linear):
        got = type(head).__name__
        raise ConfigError(expected("a network with a linear head", got=got, where="standardize", fix=_FIX))
    return head


def _last_affine(network: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias, one number per feature each, of the last norm layer before the head."""
    prefix = registry.head_prefix(network)
    norms = [
        module
        for path, module in network.named_modules()
        if isinstance(module, NORMS) and not f"{path}.".startswith(prefix)
    ]
    last = norms[-1] if norms else None
    weight, bias = getattr(last, "weight", None), getattr(last, "bias", None)
    if not (isinstance(weight, Tensor) and isinstance(bias, Tensor)) or {weight.shape, bias.shape} != {
        (channels,)
    }:
        got = "none" if last is None else f"{type(last).__name__} of another width or without weights"
        rule = f"a last norm layer with a weight and a bias for each of the {channels} features"
        raise ConfigError(expected(rule, got=got, where="standardize", fix=_FIX))
    return weight, bias


def _features(network: nn.Module, image: Tensor) -> Tensor:
    """Return the head's input for one image, (1, features)."""
    seen: list[Tensor] = []
    handle = _head(network).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.eval()
    try:
        network(image[None])
    except (RuntimeError, ValueError, IndexError) as error:
        fix = "prepare the public dataset with the channels and the size of the dataset to train on"
        got = f"shape {in_words(tuple(image.shape))}"
        raise DataError(
            expected("public images that the network takes", got=got, where="standardize", fix=fix)
        ) from error
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0].ndim != 2:
        raise ConfigError(
            problem("the head does not take one row of features per image", where="standardize", fix=_FIX)
        )
    return seen[0]


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """Return an image (channels, ...) of a spatial size, by linear interpolation."""
    if not size or tuple(image.shape[1:]) == tuple(size):
        return image
    mode = "bilinear" if image.ndim == 3 else "trilinear"
    return functional.interpolate(image[None], tuple(size), mode=mode, align_corners=False)[0]
