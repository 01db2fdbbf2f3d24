"""Every ``sh`` and ``python`` block of the README, the tutorial and the how-tos runs as described.

Blocks run in order, in process, in a folder of their own. In ``sh`` blocks each line is a command of
``meninx``; a comment ``# exits N`` states another exit code than 0. A block whose fence names a file (`````
```toml name.toml `````) writes it. ``bash`` blocks run in a shell of a machine without meninx. ``text`` and
``console`` blocks are output, or belong to another program, and are left alone.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import re
import shlex
import shutil
import stat
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
from leak_search import Way, forms_of_keys, found, names_of_cases, predicted
from released_models import table, without_meninx

from meninx import synthetic
from meninx.cli.app import VERBS, build_app, run
from meninx.cli.flags import read_options, without_tables
from meninx.imaging import nifti

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *(ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "THREAT_MODEL.md")),
]
PAGES += sorted(DOCS.rglob("*.md"))
README_LINES = 150
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SYNONYMS = re.compile(
    r"(?<!dicom-)\b(?:de-?)?anonymi[sz]\w*|\bpseudonymi[sz]\w*|\bnoise scale|\bsampling rate"
    r"|\bclip(?:ping)? norm\b|\bneighbouring (?:data|relation)",
    re.IGNORECASE,
)
EXITS = re.compile(r"#\s*exits (\d+)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it stands for (or none), its text, and where it is."""

    language: str
    file: str
    text: str
    where: str

    def play(self, folder: Path) -> None:
        if self.file:
            (folder / self.file).write_text(self.text, encoding="utf-8")
        elif self.language == "sh":
            for line in commands(self.text):
                wanted = EXITS.search(line)
                words = shlex.split(line, comments=True)
                assert words[0] == "meninx", f"{self.where}: {line}"
                assert run(words[1:]) == int(wanted[1] if wanted else 0), f"{self.where}: {line}"
        elif self.language == "bash":
            without_meninx(folder, "bash", "-ec", self.text)
        elif self.language == "python":
            with warnings.catch_warnings():
                if "import opacus" in self.text or "from opacus" in self.text:
                    warnings.simplefilter("ignore")  # another library's own
                exec(compile(self.text, self.where, "exec"), {"__name__": "docs"})


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, _, file = match[1].partition(" ")
        number = text.count("\n", 0, match.start()) + 1
        found.append(Block(language, file, match[2], f"{path.relative_to(ROOT)}:{number}"))
    return found


def commands(text: str) -> Iterator[str]:
    """Yield the command lines of a block, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Way:
    """What a reader of the tutorial ends with, and what the program printed."""
    folder, said, keys = tmp_path_factory.mktemp("tutorial"), {}, []
    write = synthetic.write_archives
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(synthetic, "write_archives", lambda *given: keys.append(write(*given)))
        for number, block in enumerate(blocks(DOCS / "tutorial.md")):
            stream = io.StringIO()
            patch.setattr("sys.stdout", stream)
            patch.setattr("sys.stderr", stream)
            block.play(folder)
            said[f"block {number}"] = stream.getvalue()
    (key,) = keys
    return Way(folder, key, said)


@pytest.fixture(scope="module")
def tutorial(way: Way) -> Path:
    """The folder that a reader of the tutorial ends with; the how-tos go on from there."""
    return way.root


@pytest.fixture
def workshop(tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    shutil.copytree(tutorial, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def test_the_tutorial_runs_to_a_report(tutorial: Path) -> None:
    page = (tutorial / "report.html").read_text(encoding="utf-8")
    assert "Identifiers removed?" in page
    audit = tutorial / "runs" / "private" / "latest" / "audit" / "audit.html"
    assert "10 patients are needed in the test split" in audit.read_text(encoding="utf-8")
    assert (tutorial / "for-release" / "signature.json").is_file()
    assert (tutorial / "runs" / "private" / "latest" / "release" / "bundle" / "models" / "model.pt").is_file()


def test_nothing_planted_is_in_anything_of_the_tutorial_that_is_not_private(way: Way) -> None:
    places = {place for place, _ in way.public()}
    assert places >= {"report.html", "data/manifest.csv", "clean/north/deid.json", "clean/north/audit.jsonl"}
    for needed in ("MODEL_CARD.md|README.md", "config.toml", "privacy.json", "evaluation.json", "model.pt"):
        assert len([place for place in places if re.search(rf"runs/.*({needed})$", place)]) >= 2, needed
    assert any("privacy: epsilon = 8" in text for text in way.said.values())
    assert not found(way.public(), way.key.needles())


def test_what_the_tutorial_releases_names_no_case_and_holds_no_prediction_of_one(way: Way) -> None:
    names, values = names_of_cases(way.root.glob("data/manifest.csv")), predicted(way.root / "runs")
    assert min(len(names), len(values)) > 50
    assert found(way.public(), names), "the tables of cases name them, or this test sees nothing"
    assert not found(way.released(), names | values)


def test_no_key_of_the_tutorial_is_public_and_its_private_rooms_are_closed(way: Way) -> None:
    assert not found(way.public(), forms_of_keys(way))
    assert len(way.rooms()) == 5  # of two archives, the dataset and two runs
    assert {stat.S_IMODE(path.stat().st_mode) for path in way.rooms()} == {0o700}


def test_a_leak_of_the_tutorial_would_be_seen(way: Way, tmp_path: Path) -> None:
    name = next(text for text in sorted(way.key.strings()) if text.isascii() and len(text) > 6)
    for place in ("report.html", "data/prepare.json", "clean/south/deid.json"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((way.root / place).read_bytes() + name.upper().encode())
    planted = Way(tmp_path, way.key)
    assert found(planted.public(), {name.encode()}) == {
        "report.html",
        "data/prepare.json",
        "clean/south/deid.json",
    }


SLOW_PAGES = (
    "how-to/add-a-model-or-recipe.md",
    "how-to/first-archive.md",
    "how-to/de-identify.md",
    "how-to/fairness.md",
    "how-to/from-opacus.md",
    "how-to/prepare.md",
    "how-to/read-the-bounds.md",
    "how-to/audit-identity-and-attributes.md",
    "how-to/obfuscate.md",
    "how-to/share-features.md",
    "how-to/sign-a-dossier.md",
    "how-to/audit-reconstruction.md",
    "how-to/simulate-a-study.md",
    "how-to/three-hospitals.md",
    "how-to/train.md",
    "how-to/audit-a-run.md",
)
RUNNING = [
    path.relative_to(DOCS).as_posix()
    for room in ("how-to", "explanation")
    for path in sorted((DOCS / room).glob("*.md"))
    if path.name != "use-a-released-model.md"  # has a test of its own
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_PAGES else name for name in RUNNING]
)
def test_a_page_runs(name: str, workshop: Path) -> None:
    for block in blocks(DOCS / name):
        block.play(workshop)


@pytest.mark.parametrize("name", [*SLOW_PAGES, "how-to/use-a-released-model.md"])
def test_the_commands_of_a_page_that_runs_with_the_slow_tests_are_understood(name: str) -> None:
    """Every verb, flag and value of a command is known, and Python is Python."""
    understood = 0
    for block in blocks(DOCS / name):
        if block.language == "python":
            compile(block.text, block.where, "exec")
            understood += 1
        for line in commands(block.text) if block.language == "sh" and not block.file else ():
            app, words = build_app(), without_tables(shlex.split(line, comments=True)[1:])
            app.config = (read_options,)
            app.parse_args(words, exit_on_error=False, print_error=False)
            understood += 1
    assert understood


@pytest.mark.slow  # test_released_model.py compares the three ways in the quick suite
def test_three_ways_give_the_same_probabilities(workshop: Path) -> None:
    for block in blocks(DOCS / "how-to" / "use-a-released-model.md"):
        block.play(workshop)
    place = workshop / "elsewhere"
    names = {path.name: path for path in (place / "images").iterdir()}
    by_monai, by_onnx = table(place / "by-monai" / "predictions.csv"), table(place / "by-onnx.csv")
    by_meninx = table(place / "by-meninx" / "predictions.csv")
    assert by_monai.keys() == by_onnx.keys() == names.keys()
    for name, path in names.items():
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        for other in (by_monai[name], by_onnx[name]):
            assert abs(other - by_meninx[uid]).max() <= 1e-5
    expected = volumes(place / "maps-by-meninx" / "probability_maps")
    assert {name: array.shape for name, array in expected.items()} == {
        f"p_{case}.nii.gz": (2, 20, 18, 10) for case in range(2)
    }
    for way in ("monai", "onnx"):
        found = volumes(place / f"maps-by-{way}" / "probability_maps")
        assert found.keys() == expected.keys()
        assert max(abs(found[name] - expected[name]).max() for name in found) <= 1e-5


def volumes(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: nifti.read(path).array for path in folder.iterdir()}


def test_the_readme_runs(workshop: Path) -> None:
    for block in blocks(ROOT / "README.md"):
        block.play(workshop)
    assert (workshop / "page.html").is_file()


def test_the_readme_is_short_and_lists_the_verbs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    assert re.findall(r"^\| `meninx (\w+)` \|", text, flags=re.MULTILINE) == [
        *VERBS,
        "audit",
        "obfuscate",
        "federate",
        "dicom",
        "escrow",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]
    dead = [target for target in targets if not _leads(page, target)]
    assert not dead


def _leads(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    return path.exists() and (not anchor or anchor in _anchors(path))


def _anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_page_of_the_docs_is_linked_from_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"index.md"}
    assert pages <= set(LINK.findall(index))


def test_the_reference_pages_are_what_the_program_says() -> None:
    assert _tool("build_docs").stale() == []


def test_every_test_that_the_acceptance_list_names_exists() -> None:
    text = (DOCS / "acceptance.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:tests|tools|src|docs)/[^`\s:]+)(?:::\w+)?`", text))
    assert names
    assert [name for name in sorted(names) if not list(ROOT.glob(name))] == []


def test_the_acceptance_list_names_real_test_functions() -> None:
    text = (DOCS / "acceptance.md").read_text(encoding="utf-8")
    for file, function in re.findall(r"`(tests/[^`\s:]+\.py)::(\w+)`", text):
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{function}"


def test_the_picture_of_the_report_is_small() -> None:
    pictures = list((DOCS / "img").glob("*.png"))
    assert pictures
    assert all(path.stat().st_size < 300_000 for path in pictures)


def test_the_words_of_the_house_have_no_synonyms() -> None:
    texts = [*PAGES, *(path for end in ("py", "j2", "toml") for path in (ROOT / "src").rglob(f"*.{end}"))]
    found = {
        str(path.relative_to(ROOT)): SYNONYMS.findall(path.read_text(encoding="utf-8")) for path in texts
    }
    assert {name: words for name, words in found.items() if words} == {}


def test_no_module_imports_itself_by_a_detour() -> None:
    imports = {_module(path): _imports(path) for path in (ROOT / "src" / "meninx").rglob("*.py")}
    left = {name: names & set(imports) - {name} for name, names in imports.items()}
    while free := {name for name, names in left.items() if not names}:
        left = {name: names - free for name, names in left.items() if name not in free}
    assert left == {}


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    return name.removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """Return what a module imports while it is imported itself, by dotted name."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{item.name}" for item in node.names}
            names |= inside if all(_is_module(name) for name in inside) else {node.module, *inside}
    return names


def _is_module(name: str) -> bool:
    path = ROOT / "src" / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def _tool(name: str) -> ModuleType:
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))  # tools import each other as scripts do
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
