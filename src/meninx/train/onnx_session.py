"""Sessions of ONNX Runtime that report nothing.

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
        ONNX Runtime sends nothing, whatever the variable ``ORT_DISABLE_TELEMETRY`` said before, unless this
        process had loaded it already. Since version 1.29 it otherwise writes an identifier of the machine
        below the user's cache folder on Linux and macOS, and sends events to its maker. It reads the variable
        once, when it is loaded.

    Args:
        model: the file.
    """
    os.environ[TELEMETRY] = "1"
    import onnxruntime

    return onnxruntime.InferenceSession(str(model))
