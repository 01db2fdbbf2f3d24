"""The check for circles of imports finds planted ones, and privacy has none."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_sizes", ROOT / "tools" / "check_sizes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "line",
    ["from pkg.a import one", "from pkg import a", "import pkg.a", "def later():\n    from pkg import a"],
)
def test_a_circle_is_found_however_it_is_written(check, tmp_path, line):
    package = tmp_path / "pkg"
    package.mkdir()
    for name, text in {"__init__": "", "a": "from pkg.b import two\n", "b": f"{line}\n"}.items():
        (package / f"{name}.py").write_text(text)
    circle = check.import_circle(check.imports(tmp_path))
    assert set(circle) == {"pkg.a", "pkg.b"}
    assert circle[0] == circle[-1]
    (package / "b.py").write_text("two = 2\n")
    assert check.import_circle(check.imports(tmp_path)) == []


def test_privacy_has_no_circle(check):
    graph = check.imports(ROOT / "src")
    privacy = {name: used for name, used in graph.items() if name.startswith("meninx.privacy")}
    assert check.import_circle(privacy) == []
