"""Wheel and source archive: built from the checkout, looked into, installed and run.

And the extras together (slow).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "meninx"
PATTERNS = (
    *("py.typed", "recipes/*.toml", "deid/tables/*.csv", "deid/templates/*", "report/templates/*"),
    *("federated/words.txt", "federated/templates/*", "dossier/templates/*", "dossier/*.json"),
    "dossier/*.toml",
)
DATA = {path.relative_to(ROOT / "src").as_posix() for pattern in PATTERNS for path in SOURCE.glob(pattern)}
FOREIGN = re.compile(
    r"(^|/)(tests?|benchmarks|notebooks|tools|private|shared|\.github|\.ci|\.venv|\.git)(/|$)|\.(key|ipynb|pyc)$"
)
OFFLINE = re.compile(
    "Failed to establish|Temporary failure|NameResolution|ConnectTimeout|ProxyError|Network is unreachable"
)
CEILINGS = {"protobuf": 7, "packaging": 26}  # what flwr 1.42 refuses
LATER = ("flwr>=1.41,<1.43", "rapidocr", "tenseal", "pynetdicom")  # what the next stages are going to need


def test_the_version_comes_from_the_metadata() -> None:
    assert "version" not in _project()
    assert "version" in _project()["dynamic"]
    done = subprocess.run(
        [sys.executable, "-m", "meninx", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == metadata.version("meninx")


def test_every_extra_that_dev_names_exists() -> None:
    extras = _project()["optional-dependencies"]
    named = re.search(r"meninx\[([\w,]+)\]", " ".join(extras["dev"]))
    assert named is not None
    assert set(named[1].split(",")) <= set(extras)


def test_the_constraints_stay_below_what_flower_refuses() -> None:
    pinned = dict(
        re.findall(
            r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    for name, ceiling in CEILINGS.items():
        assert int(pinned[name].partition(".")[0]) < ceiling
    assert pinned["torch"] == "2.13.0"
    assert "torchvision" not in pinned


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive of a clone that has a tag, made without a network."""
    folder = tmp_path_factory.mktemp("built")
    clone = folder / "clone"
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false")
    shutil.copytree(ROOT, clone, ignore=_left_out, symlinks=True)
    (clone / "private").mkdir()
    (clone / "private" / "site.key").write_text("secret")
    for words in (("init", "-q"), ("add", "-A", "-f"), ("commit", "-qm", "x"), ("tag", "v7.8.9")):
        subprocess.run([*git, *words], cwd=clone, check=True, capture_output=True)
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")], clone)
    return folder


@pytest.mark.slow
def test_a_tag_names_wheel_and_archive(built: Path) -> None:
    assert {path.name for path in (built / "dist").iterdir()} == {
        "meninx-7.8.9-py3-none-any.whl",
        "meninx-7.8.9.tar.gz",
    }


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(built / "dist" / "meninx-7.8.9-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        head = wheel.read("meninx-7.8.9.dist-info/METADATA").decode()
    modules = {path.relative_to(ROOT / "src").as_posix() for path in SOURCE.rglob("*.py")}
    assert DATA
    assert modules | DATA == {name for name in names if name.startswith("meninx/")}
    assert {name.partition("/")[0] for name in names} == {"meninx", "meninx-7.8.9.dist-info"}
    assert [name for name in names if FOREIGN.search(name)] == []
    assert "meninx-7.8.9.dist-info/licenses/LICENSE" in names
    assert "Classifier: Programming Language :: Python :: 3.13" in head


@pytest.mark.slow
def test_the_source_archive_builds_again_without_git(built: Path, tmp_path: Path) -> None:
    with tarfile.open(built / "dist" / "meninx-7.8.9.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    assert {f"src/{name}" for name in DATA} <= names
    assert [name for name in names if FOREIGN.search(name)] == []
    _run([sys.executable, "-m", "build", "--no-isolation", "--wheel"], tmp_path / "meninx-7.8.9")
    assert (tmp_path / "meninx-7.8.9" / "dist" / "meninx-7.8.9-py3-none-any.whl").is_file()


@pytest.mark.slow
def test_a_tree_without_git_and_tags_builds(built: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(built / "clone", tree, ignore=shutil.ignore_patterns(".git", "*.egg-info", "build"))
    _run([sys.executable, "-m", "build", "--no-isolation", "--wheel"], tree)
    assert re.fullmatch(
        r"meninx-0\.\d+\.\d+(\.dev\d+)?-py3-none-any\.whl", next((tree / "dist").iterdir()).name
    )


@pytest.mark.slow
def test_the_wheel_runs_where_it_is_installed(built: Path, tmp_path: Path) -> None:
    """Installed without dependencies; those of this environment are found behind it."""
    place = tmp_path / "installed"
    wheel = built / "dist" / "meninx-7.8.9-py3-none-any.whl"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(place),
        str(wheel),
    ]
    _run(pip, tmp_path)
    env = {**_environment(), "PYTHONPATH": str(place)}
    for words, wanted in ((("--version",), "7.8.9"), (("recipes",), "cxr-dp")):
        done = subprocess.run(
            [sys.executable, "-m", "meninx", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert wanted in done.stdout
    code = "import meninx; print(meninx.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(place)
    assert (place / "bin" / "meninx").is_file()


@pytest.mark.slow
def test_all_extras_and_those_of_later_stages_resolve_together(tmp_path: Path) -> None:
    """`pip install --dry-run` of the extras for Flower, OCR, homomorphic encryption and DICOM networks."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = environment / ("Scripts" if os.name == "nt" else "bin") / "pip"
    command = [
        str(pip),
        "install",
        "--dry-run",
        "--quiet",
        "-c",
        str(ROOT / "constraints.txt"),
        f"{ROOT}[dev]",
        *LATER,
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=900
    )
    if OFFLINE.search(done.stderr):
        pytest.skip("no package registry answers")
    assert done.returncode == 0, done.stderr[-2000:]


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _left_out(folder: str, names: list[str]) -> set[str]:
    heavy = {
        ".git",
        ".venv",
        "site",
        "dist",
        "build",
        "shared",
        "data",
        "runs",
        "demo-out",
        "utility-study",
        "__pycache__",
    }
    caches = {
        name
        for name in names
        if name.endswith("_cache") or name.endswith(".egg-info") or name == ".hypothesis"
    }
    return caches | (heavy & set(names) if Path(folder) == ROOT else {"__pycache__"} & set(names))


def _environment() -> dict[str, str]:
    hidden = ("PYTHONPATH", "SETUPTOOLS_SCM", "COVERAGE", "PIP_REQUIRE")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
