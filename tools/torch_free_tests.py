"""Run the tests of the part that needs no torch: what Windows and macOS run in continuous integration.

    python tools/torch_free_tests.py [arguments of pytest]

It needs only ``pip install '.[test]'``. Test modules that import a package of another extra are left out, and
so are tests marked ``torch``. On Windows, tests that use what only POSIX has (permission bits, pipes,
signals) are skipped.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("core", "deid", "dicom", "dicomfile", "prepare", "imaging", "synthetic", "metrics", "cli")
HEAVY = {
    *("torch", "monai", "einops", "dp_accounting", "scipy", "tensorboard"),
    *("onnx", "onnxscript", "onnxruntime", "highdicom", "opacus", "sklearn"),
}
HEAVY_ROOMS = ("meninx.learn", "meninx.train", "meninx.privacy", "meninx.models")
POSIX = re.compile(
    r"st_mode|chmod|umask|mkfifo|SIG(?:KILL|STOP|HUP|TERM)|send_signal|geteuid|symlink|hardlink|/dev/|/proc/"
    r"|os\.kill|os\.fork|preexec_fn|resource\.|pty\."
)


def main(arguments: list[str]) -> int:
    """Return the exit code of pytest over the torch-free tests."""
    folders = [str(ROOT / "tests" / name) for name in FOLDERS if (ROOT / "tests" / name).is_dir()]
    plugin = Path(__file__)
    sys.path.insert(0, str(plugin.parent))  # the processes of pytest-xdist load the plugin by its name
    return int(pytest.main(["-p", plugin.stem, "-m", "not slow and not torch", *folders, *arguments]))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignore a test module that imports a package of another extra while it is imported."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_test and needs_more(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of POSIX on Windows."""
    if sys.platform == "win32":
        for item in items:
            if isinstance(item, pytest.Function) and POSIX.search(inspect.getsource(item.function)):
                item.add_marker(pytest.mark.skip(reason="POSIX only"))


def needs_more(source: str) -> bool:
    """Return whether a test module imports at its top what the torch-free installation does not have."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{item.name}" for item in node.names)}
    return any(
        name.partition(".")[0] in HEAVY or any(f"{name}.".startswith(f"{room}.") for room in HEAVY_ROOMS)
        for name in names
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
