"""Translation of state dicts between the parameter names of torchvision, timm, MONAI and meninx.

Libraries name the tensors of the same architecture differently. A *dialect* maps the names of one
library to names that all dialects share (``block.3.conv2.weight``), so that any two dialects of a family can
be joined. :func:`translated` tries all pairs and takes the one that matches the most weights by name and
shape.

Example:
    >>> import torch
    >>> from meninx.models import key_maps, registry
    >>> net = registry.build("resnet18", spatial_dims=2, in_channels=1, out_channels=2, width=8)
    >>> theirs = {"conv1.weight": torch.ones(8, 3, 7, 7), "bn1.running_mean": torch.zeros(8)}
    >>> found = key_maps.translated(theirs, net.state_dict())
    >>> found.naming, sorted(found.tensors), found.averaged
    ('torchvision or timm ResNet to meninx ResNet', ['stem.0.weight'], ('stem.0.weight',))
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

Dialect = Callable[[Iterable[str]], dict[str, str]]
"""Maps the names of a state dict to shared names; names that the dialect does not contain are left out."""
WRAPPERS = ("module.", "model.", "backbone.", "encoder.", "network.", "net.")
"""Prefixes that a file may put before all names."""
_COLOURS = 3
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Name endings of the buffers of batch normalisation; group normalisation has no such buffers."""


@dataclass(frozen=True)
class Translation:
    """Tensors of a file, renamed and reshaped for a network.

    Attributes:
        tensors: name in the network -> tensor of the network's shape.
        naming: description of the two dialects; empty if the file uses the network's own names.
        averaged: stems whose filters for three colours were averaged for another number of channels.
        zeroed: biases that the file's layers do not have and that are set to 0 in the network.
        other_shape: names in the network whose tensor has another shape in the file.
        unused: names in the file without a counterpart in the network, not counting batch statistics.
        statistics: number of layers in the file whose running statistics have no counterpart in the network.
    """

    tensors: Mapping[str, Tensor]
    naming: str = ""
    averaged: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()
    other_shape: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    statistics: int = 0


def translated(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation:
    """Return the tensors of a file that have a counterpart in a network, under the network's names.

    A stem for three colours is averaged for a network with another number of channels ``n``: every
    filter becomes the sum over the colours divided by ``n``. A grey image then gives the same output as its
    copy in three equal colours did.

    Args:
        given: state dict of a file, in the names of any library.
        wanted: state dict of the network.
    """
    given = _unwrapped(given)
    read = {name: dialect(given) for name, dialect in DIALECTS.items()}
    places = {name: {shared: own for own, shared in d(wanted).items()} for name, d in DIALECTS.items()}
    best, naming, most = dict[str, str](), "", -1
    # Counting weights instead of names decides for the architecture: several dialects share a few names such
    # as "fc.".
    for theirs, ours in itertools.product(DIALECTS, DIALECTS):
        pairs = {
            name: places[ours][shared] for name, shared in read[theirs].items() if shared in places[ours]
        }
        # Shapes are compared as well, because the file may come from another network of the same family.
        size = sum(given[name].numel() for name, place in pairs.items() if _fits(given[name], wanted, place))
        if size > most:
            best, most, naming = pairs, size, "" if theirs == ours else f"{theirs} to {ours}"
    return _taken(given, wanted, best, naming)


def plain(names: Iterable[str]) -> dict[str, str]:
    """Return the identity map: the dialect of the network's own names."""
    return {name: name for name in names}


def _unwrapped(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without wrapper prefixes that all names share."""
    tensors = {name.removeprefix("module."): value for name, value in given.items()}
    # Wrappers nest in any order (DataParallel around a lightning module around a backbone), so strip until
    # none is left.
    while prefix := next(
        (item for item in WRAPPERS if tensors and all(name.startswith(item) for name in tensors)), ""
    ):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _stem(wanted: Mapping[str, Tensor]) -> str:
    """Return the name of the weight of the first convolution, or an empty text."""
    return next((name for name, value in wanted.items() if value.ndim >= 4), "")


def _fits(tensor: Tensor, wanted: Mapping[str, Tensor], place: str) -> bool:
    """Return whether a tensor has the wanted shape, or is a stem for three colours that can be averaged."""
    mine, theirs = wanted[place].shape, tensor.shape
    if mine == theirs:
        return True
    alike = len(mine) == len(theirs) and mine[:1] + mine[2:] == theirs[:1] + theirs[2:]
    return alike and theirs[1] == _COLOURS and place == _stem(wanted)


def _taken(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], pairs: Mapping[str, str], naming: str
) -> Translation:
    tensors: dict[str, Tensor] = {}
    averaged, other_shape = [], []
    for source, place in pairs.items():
        if not _fits(given[source], wanted, place):
            other_shape.append(place)
            continue
        tensors[place], shape = given[source], wanted[place].shape
        if given[source].shape != shape:
            grey = given[source].sum(1, keepdim=True) / shape[1]
            tensors[place] = grey.expand(shape).contiguous()
            averaged.append(place)
    taken = set(pairs.values())
    zeroed = [
        name
        for name, value in wanted.items()
        if name.endswith(".bias") and name not in taken and _without_bias(name, value, tensors)
    ]
    tensors |= {name: wanted[name].new_zeros(wanted[name].shape) for name in zeroed}
    left = [name for name in given if name not in pairs]
    unused = [name for name in left if name.rpartition(".")[2] not in STATISTICS]
    dropped = sum(name.endswith("running_mean") for name in left)
    return Translation(
        tensors,
        naming,
        tuple(averaged),
        tuple(zeroed),
        tuple(other_shape),
        tuple(unused),
        dropped,
    )


def _without_bias(name: str, value: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a bias belongs to a convolution that the file has without a bias."""
    weight = tensors.get(f"{name.removesuffix('bias')}weight")
    return weight is not None and weight.ndim >= 4 and value.ndim == 1


# the dialects


def _replaced(
    names: Iterable[str], rules: Mapping[str, str], index: Callable[[re.Match[str]], str]
) -> dict[str, str]:
    """Return shared names by a table of patterns, in which ``{}`` stands for the number of the block."""
    compiled = [(re.compile(pattern), shared) for pattern, shared in rules.items()]
    found: dict[str, str] = {}
    for name in names:
        for pattern, shared in compiled:
            match = pattern.match(name)
            if match:
                block = index(match) if "{}" in shared else ""
                found[name] = match.expand(shared.replace("{}", block)) + name[match.end() :]
                break
    return found


def _numbers(names: Iterable[str], place: str) -> dict[tuple[int, int], int]:
    """Return a map from (stage, position) to the number of the block in the whole network."""
    pattern = re.compile(place)
    blocks = sorted({(int(match[1]), int(match[2])) for name in names if (match := pattern.match(name))})
    return {block: number for number, block in enumerate(blocks)}


def _staged(place: str, rules: Mapping[str, str]) -> Dialect:
    """Return a dialect whose blocks are named by stage and position (``place``)."""

    def dialect(names: Iterable[str]) -> dict[str, str]:
        names = list(names)
        numbers = _numbers(names, place)

        def index(match: re.Match[str]) -> str:
            return str(numbers[int(match[1]), int(match[2])])

        return _replaced(names, rules, index)

    return dialect


def _numbered(rules: Mapping[str, str]) -> Dialect:
    """Return a dialect whose blocks have consecutive numbers, the first group of each rule."""
    return lambda names: _replaced(names, rules, lambda match: match[1])


_NUMBER = r"\d{1,4}"  # names come from untrusted files, so the length of a block number is limited
_RESNET_BLOCK = r"layer(\d{1,4})\.(\d{1,4})\."
_torchvision_resnet = _staged(
    _RESNET_BLOCK,
    {
        r"conv1\.": r"stem.conv.",
        r"bn1\.": r"stem.norm.",
        rf"{_RESNET_BLOCK}conv(\d)\.": r"block.{}.conv\3.",
        rf"{_RESNET_BLOCK}bn(\d)\.": r"block.{}.norm\3.",
        rf"{_RESNET_BLOCK}downsample\.0\.": r"block.{}.shortcut.conv.",
        rf"{_RESNET_BLOCK}downsample\.1\.": r"block.{}.shortcut.norm.",
        r"fc\.": r"head.",
    },
)
_meninx_resnet = _numbered(
    {
        r"stem\.0\.": r"stem.conv.",
        r"stem\.1\.": r"stem.norm.",
        r"stages\.(\d{1,4})\.(conv|norm)(\d)\.": r"block.{}.\2\3.",
        r"stages\.(\d{1,4})\.shortcut\.0\.": r"block.{}.shortcut.conv.",
        r"stages\.(\d{1,4})\.shortcut\.1\.": r"block.{}.shortcut.norm.",
        r"head\.": r"head.",
    }
)
_DENSE = r"features\.denseblock(\d{1,4})\.denselayer(\d{1,4})\."
_torchvision_densenet = _staged(
    _DENSE,
    {
        rf"{_DENSE}(norm|conv)\.?(\d)\.": r"dense.{}.\3\4.",  # files from 2017 have a dot before the number
        r"features\.": r"features.",
        r"classifier\.": r"head.",
    },
)
_monai_densenet = _staged(
    _DENSE,
    {
        rf"{_DENSE}layers\.(norm|conv)(\d)\.": r"dense.{}.\3\4.",
        r"features\.": r"features.",
        r"class_layers\.out\.": r"head.",
    },
)
_EFFICIENT_PARTS = {
    r"_expand_conv\.": r"expand.conv.",
    r"_bn0\.": r"expand.norm.",
    r"_depthwise_conv\.": r"depthwise.conv.",
    r"_bn1\.": r"depthwise.norm.",
    r"_se_(reduce|expand)\.": r"se.\2.",
    r"_project_conv\.": r"project.conv.",
    r"_bn2\.": r"project.norm.",
}
_monai_efficientnet = _numbered(  # also for efficientnet-pytorch, which has no stage before the number
    {
        r"_conv_stem\.": r"stem.conv.",
        r"_bn0\.": r"stem.norm.",
        **{
            rf"_blocks\.(?:{_NUMBER}\.)?({_NUMBER})\.{part}": rf"block.{{}}.{shared}"
            for part, shared in _EFFICIENT_PARTS.items()
        },
        r"_conv_head\.": r"top.conv.",
        r"_bn1\.": r"top.norm.",
        r"_fc\.": r"head.",
    }
)
_meninx_efficientnet = _numbered(
    {
        r"(stem|top)\.(conv|norm)\.": r"\1.\2.",
        r"blocks\.(\d{1,4})\.(expand|depthwise|project)\.(conv|norm)\.": r"block.{}.\2.\3.",
        r"head\.": r"head.",
    }
)


def _timm_efficientnet(names: Iterable[str]) -> dict[str, str]:
    """Return the shared names; blocks without expansion use other names for their parts."""
    names = list(names)
    place = r"blocks\.(\d{1,4})\.(\d{1,4})\."
    wide = {match[0] for name in names if (match := re.match(rf"{place}(?=conv_pwl\.)", name))}
    parts = {
        "conv_pw": "expand.conv",
        "bn1": "expand.norm",
        "conv_dw": "depthwise.conv",
        "bn2": "depthwise.norm",
    }
    parts |= {"conv_pwl": "project.conv", "bn3": "project.norm"}
    short = {
        "conv_dw": "depthwise.conv",
        "bn1": "depthwise.norm",
        "conv_pw": "project.conv",
        "bn2": "project.norm",
    }
    gate = {"se.conv_reduce": "se.reduce", "se.conv_expand": "se.expand"}
    ends = {"conv_stem.": "stem.conv.", "bn1.": "stem.norm.", "conv_head.": "top.conv.", "bn2.": "top.norm."}
    return _by_block(names, place, wide, (parts | gate, short | gate), ends | {"classifier.": "head."})


def _torchvision_efficientnet(names: Iterable[str]) -> dict[str, str]:
    """Return the shared names; parts have numbers, and blocks without expansion have one part less."""
    names = list(names)
    place = r"features\.(\d{1,4})\.(\d{1,4})\.block\."
    wide = {match[0] for name in names if (match := re.match(rf"{place}(?=3\.)", name))}
    order = ("expand", "depthwise", "se", "project")

    def parts(present: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for number, part in enumerate(present):
            labels = {"fc1": "reduce", "fc2": "expand"} if part == "se" else {"0": "conv", "1": "norm"}
            found |= {f"{number}.{key}": f"{part}.{label}" for key, label in labels.items()}
        return found

    last = max(
        (int(match[1]) for name in names if (match := re.match(r"features\.(\d{1,4})\.", name))), default=0
    )
    ends = {"features.0.0.": "stem.conv.", "features.0.1.": "stem.norm.", "classifier.1.": "head."}
    ends |= {f"features.{last}.0.": "top.conv.", f"features.{last}.1.": "top.norm."}
    return _by_block(names, place, wide, (parts(order), parts(order[1:])), ends)


def _by_block(
    names: list[str],
    place: str,
    wide: set[str],
    parts: tuple[dict[str, str], dict[str, str]],
    ends: Mapping[str, str],
) -> dict[str, str]:
    """Return shared names where the meaning of a part depends on whether its block expands the channels."""
    numbers, found = _numbers(names, place), dict[str, str]()
    for name in names:
        match = re.match(place, name)
        if match is None:
            end = next((item for item in ends if name.startswith(item)), "")
            found |= {name: ends[end] + name.removeprefix(end)} if end else {}
            continue
        part, _, kind = name[match.end() :].rpartition(".")
        shared = parts[0 if match[0] in wide else 1].get(part)
        found |= {name: f"block.{numbers[int(match[1]), int(match[2])]}.{shared}.{kind}"} if shared else {}
    return found


DIALECTS: Mapping[str, Dialect] = {
    "the same names": plain,
    "torchvision or timm ResNet": _torchvision_resnet,
    "meninx ResNet": _meninx_resnet,
    "torchvision or timm DenseNet": _torchvision_densenet,
    "MONAI DenseNet": _monai_densenet,
    "MONAI or efficientnet-pytorch": _monai_efficientnet,
    "timm EfficientNet": _timm_efficientnet,
    "torchvision EfficientNet": _torchvision_efficientnet,
    "meninx EfficientNet-Lite": _meninx_efficientnet,
}
"""Description of each dialect, and its function. MONAI's ResNet uses torchvision's names."""
