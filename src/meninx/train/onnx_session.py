"""Sessions of ONNX Runtime without telemetry.

A bundle ships this source as ``scripts/onnx_session.py``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

TELEMETRY = "ORT_DISABLE_TELEMETRY"


def open_session(model: Path) -> Any:
    """Return a session of an ONNX file.

    Guarantee:
        ONNX Runtime sends nothing, unless the process had loaded it before, since it reads the variable once.
        Since 1.29 it otherwise writes an identifier of the machine below the user's cache folder on Linux and
        macOS, and sends events to its maker.

    Args:
        model: the file.
    """
    os.environ[TELEMETRY] = "1"
    import onnxruntime

    return onnxruntime.InferenceSession(str(model))
