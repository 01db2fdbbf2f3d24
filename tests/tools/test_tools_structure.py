"""The checks of the house: structure, unused code, and the table of types in ARCHITECTURE.md."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(name):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


structure = tool("check_structure")


@pytest.fixture
def house(tmp_path):
    """Return a function that checks a source tree of given files."""

    def check(**files):
        trees = {}
        for name, text in files.items():
            path = Path("meninx", *name.split("__")).with_suffix(".py")
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
            trees[path] = ast.parse(text)
        return list(structure.offences(tmp_path, trees))

    return check


def test_a_clean_tree_has_no_offence(house):
    assert house(core__files="import os\n", deid__stage="from meninx.core import files\n") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("from meninx.room import b", "from meninx.room import a"),
        ("import meninx.room.b", "def f():\n    from meninx.room.a import x"),
        ("if TYPE_CHECKING:\n    from meninx.room.b import B", "from meninx.room.a import x"),
    ],
)
def test_a_circle_of_siblings_is_named(house, one, other):
    assert house(room__a=one, room__b=other) == ["circle of imports: meninx.room.a, meninx.room.b"]


def test_a_longer_circle_is_found_and_what_only_leads_to_it_is_not_part_of_it():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}, "e": {"e2"}, "e2": set()}
    assert structure.circles(graph) == [["b", "c", "d"]]


def test_names_of_two_packages(house):
    found = house(one__same="class A: pass\n", two__same="class B: pass\n", two__more="class A: pass\n")
    assert found == ["class A stands in one, two", "file same.py stands in one, two"]


def test_every_stage_has_its_config_and_commands_are_named_after_stages(house):
    assert house(a__config="", b__config="", cli__sweep="", train__sweep="") == []
    assert house(a__x="class _Private: pass\n", b__y="class _Private: pass\n") == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = 1 if a else 2 if b else 3", 1),
        ("x = (1 if a else 2) if b else 3", 1),
        ("x = 1 if (a if b else c) else 3", 1),
        ("x = 1 if a else 2\n", 0),
        ("x = [1 if a else 2 for a in (b if c else d)]", 0),
        ("x = f(1 if a else 2) if b else 3", 0),
    ],
)
def test_nested_conditionals(text, lines):
    assert len(structure.nested_conditionals(ast.parse(text))) == lines


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[x for a in b for c in a for x in c]", True),
        ("[[[x for x in y] for y in z] for z in w]", True),
        ("{x: [a for a in b] for x in c}", False),
        ("[x for a in b for x in a]", False),
    ],
)
def test_deep_comprehensions(text, found):
    assert bool(structure.deep_comprehensions(ast.parse(text))) is found


def test_long_modules_and_functions(house):
    function = "def f():\n" + "    x = 1\n" * 80
    assert house(a__long="x = 1\n" * 601) == ["meninx/a/long.py: 601 lines, limit 600"]
    assert house(a__f=function) == ["meninx/a/f.py:1: f has 81 lines, limit 80"]


def test_an_allowed_name_needs_a_reason(tmp_path):
    unused = tool("check_unused")
    (tmp_path / "list").write_text("# heading\nname cyclopts calls it\n\n")
    assert unused.read_allowed(tmp_path / "list") == {"name"}
    (tmp_path / "list").write_text("name\n")
    with pytest.raises(ValueError, match="no reason"):
        unused.read_allowed(tmp_path / "list")


def named_types():
    """Return (type, modules) of every row of the table of types in ARCHITECTURE.md that names modules.

    A module without a folder lies beside the one before it.
    """
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[A-Z][^|]*?) \| ((?:`[a-z_/]+\.py`(?:, )?)+) \|", text, re.MULTILINE)
    found = []
    for names, cell in rows:
        modules, folder = [], ""
        for module in re.findall(r"`([a-z_/]+\.py)`", cell):
            folder = module.rpartition("/")[0] if "/" in module else folder
            modules.append(f"{folder}/{module.rpartition('/')[2]}")
        found += [(name, tuple(modules)) for name in re.findall(r"`(\w+)`", names)]
    return found


def test_the_table_of_types_is_read():
    assert len(named_types()) >= 60


@pytest.mark.parametrize(("name", "modules"), named_types())
def test_a_type_of_the_architecture_is_where_it_says_and_used_elsewhere(name, modules):
    source = ROOT / "src" / "meninx"
    homes = [
        source / module
        for module in modules
        if name in _defined(ast.parse((source / module).read_text(encoding="utf-8")))
    ]
    assert len(homes) == 1
    word = re.compile(rf"\b{name}\b")
    others = [path for path in source.rglob("*.py") if path != homes[0]]
    assert any(word.search(path.read_text(encoding="utf-8")) for path in others)


def _defined(tree):
    """Return the classes, and the type aliases, of a module."""
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    aliases = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    return classes | aliases


def test_the_layers_of_the_architecture_are_those_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(one for one in contracts["contracts"] if one["name"] == "layers")["layers"]
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(r"^## Layers\n[^|]*?\n\n((?:    [^\n]*\n)+)", text, re.MULTILINE)
    assert block is not None
    rows = [re.match(r" +((?:\w+(?:/|\.py) +)+)", line)[1] for line in block[1].splitlines()]
    assert [set(re.findall(r"\w+(?=/|\.py)", row)) for row in rows] == [
        set(re.split(r" *\| *", row)) for row in contract
    ]


def test_rooms_of_deid_are_those_of_its_folder():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## Inside deid")[2].partition("\n## ")[0]
    rooms = {path.parent.name for path in (ROOT / "src" / "meninx" / "deid").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", section, re.MULTILINE)) == rooms
