"""The cases: which network, which images, which targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OPACUS_MODES = ("hooks", "functorch", "ew", "ghost")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What must hold; None where nothing is asked.

    Attributes:
        time: largest ratio to non-private SGD of the same dtype.
        time_fp32: largest ratio of a bf16 case to non-private fp32, where the machine multiplies bf16
            matrices fast.
        best: least speed-up over the fastest Opacus mode of the run.
        hooks: least speed-up over Opacus' hooks.
        functorch: least speed-up over Opacus' functorch.
        memory: largest ratio of step memory to that of SGD.
    """

    time: float | None = None
    time_fp32: float | None = None
    best: float | None = None
    hooks: float | None = None
    functorch: float | None = None
    memory: float | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network on one size of batch.

    Attributes:
        key: name on the command line.
        title: name in the table.
        network: name in the registry.
        size: rows and columns, or x, y and z.
        batch: images in a step.
        options: of the network.
        channels: image channels.
        outputs: labels, or channels of the map.
        segment: loss of a map (binary cross-entropy and soft Dice) instead of labels (binary cross-entropy).
        views: K views of a record; the batch stays ``batch`` images, of ``batch / views`` records.
        precision: ``fp32`` or ``bf16`` (autocast, all variants alike).
        modes: Opacus modes to run.
        whole: also run ``torch.func``, vmap of grad over the whole model.
        memory: measure memory too when asked for.
        target: what must hold.
    """

    key: str
    title: str
    network: str
    size: tuple[int, ...]
    batch: int
    options: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 3
    outputs: int = 8
    segment: bool = False
    views: int = 1
    precision: str = "fp32"
    modes: tuple[str, ...] = OPACUS_MODES
    whole: bool = True
    memory: bool = False
    target: Target = field(default_factory=Target)


_UNET2D: dict[str, Any] = {
    "network": "unet",
    "size": (128, 128),
    "channels": 1,
    "outputs": 2,
    "segment": True,
}
_UNET3D: dict[str, Any] = {
    "network": "unet",
    "channels": 1,
    "outputs": 3,
    "segment": True,
    "options": {"base": 16, "depth": 3},
    "target": Target(time=1.20, hooks=4.5, functorch=1.8, memory=1.35),
}
_FLAT = Target(time=1.20, best=1.8, memory=1.3)
_RESNET: dict[str, Any] = {"network": "resnet9", "size": (64, 64), "batch": 32}
_WRN: dict[str, Any] = {"network": "wrn-16-4", "size": (32, 32), "batch": 32}
_NO_PEER: dict[str, Any] = {"modes": (), "whole": False}

CASES: tuple[Case, ...] = (
    Case(
        key="resnet9",
        title="ResNet-9, 64², B 32",
        memory=True,
        target=Target(time=1.15, best=1.8, memory=1.3),
        **_RESNET,
    ),
    Case(
        key="resnet9-fine",
        title="ResNet-9 with 3x3 stem, 64², B 32",
        options={"small_stem": True},
        modes=("hooks", "functorch", "ghost"),
        whole=False,
        target=Target(time=1.15, best=1.8),
        **_RESNET,
    ),
    Case(
        key="wrn",
        title="WRN-16-4, 32², B 32",
        memory=True,
        target=Target(time=1.25, best=1.8, memory=1.7),
        **_WRN,
    ),
    Case(key="wrn-k4", title="WRN-16-4, 8 records x 4 views", views=4, **_WRN, **_NO_PEER),
    Case(
        key="wrn-k16",
        title="WRN-16-4, 2 records x 16 views",
        views=16,
        target=Target(time=1.12),
        **_WRN,
        **_NO_PEER,
    ),
    Case(key="unet2d", title="2-D U-Net, 128², B 4", batch=4, memory=True, target=_FLAT, **_UNET2D),
    Case(
        key="unet2d-s",
        title="2-D U-Net, base 16, 128², B 8",
        batch=8,
        options={"base": 16},
        memory=True,
        target=_FLAT,
        **_UNET2D,
    ),
    Case(key="unet3d", title="3-D U-Net, 32³, B 8", size=(32,) * 3, batch=8, memory=True, **_UNET3D),
    Case(key="unet3d-b4", title="3-D U-Net, 32³, B 4", size=(32,) * 3, batch=4, **_UNET3D),
    Case(key="unet3d-48", title="3-D U-Net, 48³, B 4", size=(48,) * 3, batch=4, memory=True, **_UNET3D),
    Case(
        key="resnet9-bf16",
        title="ResNet-9, 64², B 32, bf16",
        precision="bf16",
        modes=("hooks",),
        whole=False,
        target=Target(time=1.5, time_fp32=0.75),
        **_RESNET,
    ),
)
_ON_GPU: dict[str, Any] = {
    "batch": 64,
    "precision": "bf16",
    "whole": False,
    "target": Target(time=1.35, best=2.0),
}
GPU_CASES: tuple[Case, ...] = (
    Case(key="resnet9", title="ResNet-9, 128², B 64, bf16", network="resnet9", size=(128, 128), **_ON_GPU),
    Case(
        key="unet3d",
        title="3-D U-Net, 96³, B 64, bf16",
        network="unet",
        size=(96,) * 3,
        channels=1,
        outputs=3,
        segment=True,
        options={"base": 16, "depth": 3},
        **_ON_GPU,
    ),
)
PLANNING_STEPS = 3.0
PLANNING_PEAK = 1.1


def cases_of(device: str) -> dict[str, Case]:
    """Return the cases of a device by key."""
    return {case.key: case for case in (GPU_CASES if device == "cuda" else CASES)}
