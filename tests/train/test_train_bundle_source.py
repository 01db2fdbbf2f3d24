"""The source in a bundle: complete, without meninx or torch where it need not be, and the program's own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from meninx.train import bundle_source

LIGHT = {"PIL", "nibabel", "numpy", "pydicom"}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "scripts"
    for segmentation in (False, True):
        bundle_source.write(folder, networks=True, onnx=True, segmentation=segmentation)
    return folder


def others(folder: Path) -> dict[str, set[str]]:
    """File -> packages that it imports at its top and that Python does not bring."""
    found = {}
    for path in folder.rglob("*.py"):
        names: set[str] = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names |= {item.name.split(".")[0] for item in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module).split(".")[0])
        found[path.relative_to(folder).as_posix()] = names - set(sys.stdlib_module_names)
    return found


def test_nothing_imports_meninx_and_torch_stays_with_the_networks(scripts):
    found = others(scripts)
    assert {name for names in found.values() for name in names} == LIGHT | {"torch"}
    with_torch = {name for name, names in found.items() if "torch" in names}
    assert with_torch == {
        "inference.py",
        "learn/state_digest.py",
        *(name for name in found if name.startswith("models/")),
    } - {"models/__init__.py", "models/network_names.py"}


def test_every_module_can_be_imported_where_meninx_cannot(scripts):
    names = [path.relative_to(scripts.parent).with_suffix("") for path in scripts.rglob("*.py")]
    lines = [f"import {'.'.join(name.parts)}" for name in sorted(names)]
    code = "import sys; sys.modules['meninx'] = None; sys.path.insert(0, '.')\n" + "\n".join(lines)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=scripts.parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_only_imports_differ_from_the_program(scripts):
    own = Path(bundle_source.__file__).parents[1] / "imaging" / "lut.py"
    copy = (scripts / "imaging" / "lut.py").read_text()
    head, _, body = copy.partition("\n\n")
    assert "SPDX-License-Identifier: Apache-2.0" in head
    assert body == own.read_text().replace("from meninx.core", "from ..core")


def test_a_network_of_monai_brings_no_network_of_ours(tmp_path):
    bundle_source.write(tmp_path / "scripts", networks=False)
    assert not (tmp_path / "scripts" / "models").exists()
    assert (tmp_path / "scripts" / "inference.py").is_file()


@pytest.mark.parametrize("segmentation", [False, True])
def test_the_copy_stays_small(tmp_path, segmentation):
    bundle_source.write(tmp_path, networks=True, onnx=True, segmentation=segmentation)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.py")) < 240_000
