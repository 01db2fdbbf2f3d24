"""Lazy exports: names load on first use, unknown ones are refused, a package's three lists agree."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from meninx.core.lazy import lazy_exports

PACKAGES = ["meninx.privacy"]


def test_a_name_is_loaded_once_and_others_are_attribute_errors(tmp_path, monkeypatch):
    (tmp_path / "shapes_of_lazy").mkdir()
    (tmp_path / "shapes_of_lazy" / "__init__.py").write_text(
        "from meninx.core.lazy import lazy_exports\n"
        "__getattr__, __dir__ = lazy_exports(__name__, {'Circle': 'shapes_of_lazy.circle'})\n"
    )
    (tmp_path / "shapes_of_lazy" / "circle.py").write_text("class Circle: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("shapes_of_lazy")
    assert "Circle" in dir(package)
    assert "shapes_of_lazy.circle" not in sys.modules
    assert package.Circle is package.Circle is sys.modules["shapes_of_lazy.circle"].Circle
    with pytest.raises(AttributeError, match="'shapes_of_lazy' has no attribute 'Square'"):
        _ = package.Square


def test_a_misspelled_table_shows_at_first_use():
    load, _ = lazy_exports("meninx.core.lazy", {"nothing": "meninx.core.lazy"})
    with pytest.raises(AttributeError, match="nothing"):
        load("nothing")


@pytest.mark.torch
@pytest.mark.parametrize("name", PACKAGES)
def test_all_type_checking_imports_and_table_agree(name):
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    typed = [
        alias.name
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(typed) == sorted(package.__all__)
    assert all(getattr(package, public).__name__ == public for public in package.__all__)
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_the_package_loads_nothing_heavy(name):
    heavy = "{'torch', 'numpy', 'dp_accounting', 'scipy', 'monai', 'cryptography'}"
    code = f"import sys, {name}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
