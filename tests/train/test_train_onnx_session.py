"""ONNX Runtime reports nothing when a bundle's programs use it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from meninx.train import bundle_source

OPENED = "from meninx.train.onnx_session import open_session as opened"
VERSION = tuple(int(part) for part in metadata.version("onnxruntime").split(".")[:2])
PLAIN = "from onnxruntime import InferenceSession as opened"


def model_of(folder: Path) -> Path:
    """Write a graph that copies its input."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "copy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def written(model: Path, home: Path, first: str) -> list[str]:
    """Return what a process that opens a session left in an empty home folder."""
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
    variables = {**inherited, "HOME": str(home), "ORT_DISABLE_TELEMETRY": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    program = f"import pathlib; {first}; opened(pathlib.Path({str(model)!r}))"
    subprocess.run([sys.executable, "-c", program], env=variables, check=True, timeout=120)
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_a_session_leaves_no_identifier_and_no_events(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    assert written(model, tmp_path / "home", OPENED) == []


@pytest.mark.skipif(VERSION < (1, 29), reason="ONNX Runtime reports since 1.29")
def test_a_session_that_is_opened_otherwise_leaves_both(tmp_path: Path) -> None:
    assert written(model_of(tmp_path), tmp_path / "home", PLAIN) != []


def test_the_programs_of_a_bundle_open_their_sessions_so() -> None:
    for module in (bundle_source.ONNX, bundle_source.ONNX_MAPS):
        assert bundle_source.ONNX_SESSION in bundle_source.needed([module])
        assert "import onnxruntime" not in bundle_source._source(module)
