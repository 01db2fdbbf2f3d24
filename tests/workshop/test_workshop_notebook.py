"""The notebook: it runs from top to bottom, and what the repository holds of it is text and code alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def strip_notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("strip_notebooks", ROOT / "tools" / "strip_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_holds_no_output_and_no_path(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert strip_notebooks().stripped(notebook) == notebook
    assert not [word for word in ("/home/", "/root/", "/tmp/", "C:\\", "/Users/") if word in text]
    assert len(text) < 20_000


def test_stripping_removes_what_running_added(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    cell = {
        "cell_type": "code",
        "source": ["1"],
        "metadata": {"x": 1},
        "outputs": [{"text": "1"}],
        "execution_count": 3,
    }
    path.write_text(json.dumps({"cells": [cell], "metadata": {"y": 2}, "nbformat": 4, "nbformat_minor": 5}))
    assert strip_notebooks().strip(path)
    after = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    assert (after["outputs"], after["execution_count"], after["metadata"]) == ([], None, {})
    assert not strip_notebooks().strip(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter client, about its own loops
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from nbclient import NotebookClient

    # The kernel of this environment, whatever kernels the user has installed under the same name.
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = KernelSpec(argv=start, display_name="Python 3", language="python")
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: spec)
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "epsilon" in shown
    assert "AUROC" in shown
    assert list(tmp_path.glob("meninx-*/report.html"))
