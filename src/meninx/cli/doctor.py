"""``meninx doctor``: what is installed, what can be decoded, and whether anything phones home."""

from __future__ import annotations

import importlib.util
import json as json_module
import os
from typing import Any

from meninx.core import provenance

EXTRAS = {
    "train": ("torch", "monai", "dp_accounting", "scipy", "cryptography", "tensorboard"),
    "federated": ("flwr",),
    "ocr": ("rapidocr",),
    "export": ("onnx", "onnxscript", "highdicom"),
}


def doctor(*, json: bool = False) -> None:
    """Print versions, codecs, extras and the telemetry state.

    Args:
        json: Print one JSON object.
    """
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


def examine() -> dict[str, Any]:
    """Return what the machine can do, as JSON-able values; imports nothing heavy."""
    environment = provenance.environment(["meninx", "doctor"])
    return {
        "python": environment["python"],
        "cpus": environment["cpus"],
        "packages": environment["packages"],
        "extras": {name: _state(modules) for name, modules in EXTRAS.items()},
        "dicom codecs": _codecs(),
        "telemetry": {"Flower": _flower_telemetry(), "network use of meninx itself": "none"},
    }


def _state(modules: tuple[str, ...]) -> str:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"missing {', '.join(missing)}" if missing else "installed"


def _codecs() -> dict[str, str]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

    known = (RLELossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
    return {uid.name.split(",")[0][:28]: "yes" if get_decoder(uid).is_available else "no" for uid in known}


def _flower_telemetry() -> str:
    off = os.environ.get("FLWR_TELEMETRY_ENABLED", "0") == "0"
    return "off" if off else "on in this shell; meninx turns it off before it imports flwr"
