"""The targets of the Makefile, run by make itself with programs that only write down how they were called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="no make")
RECORDER = (
    '#!/bin/sh\necho "$(basename "$0") $*" >> calls.txt\ncommand -v sed > /dev/null || echo "no PATH" '
    ">> calls.txt\n"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and an environment of recorders, newer than what it is made from."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in (
        "pytest",
        "ruff",
        "codespell",
        "python",
        "mypy",
        "coverage",
        "mkdocs",
        "vulture",
        "lint-imports",
    ):
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def make(folder: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Return the finished process and the calls that the recorders wrote down."""
    assert MAKE is not None
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run([MAKE, *words], cwd=folder, capture_output=True, text=True, env=env)
    calls = folder / "calls.txt"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_test_fast_runs_the_tests_that_path_names_and_keeps_the_shells_path(checkout: Path) -> None:
    done, calls = make(checkout, "test-fast", "PATH=tests/deid tests/core")
    assert done.returncode == 0, done.stderr
    assert calls == ["pytest -x -m not slow tests/deid tests/core"]


def test_test_fast_without_path_runs_every_quick_test(checkout: Path) -> None:
    assert make(checkout, "test-fast")[1] == ["pytest -x -m not slow tests"]


def test_test_checks_style_types_contracts_and_pages_and_then_runs_the_quick_tests(checkout: Path) -> None:
    done, calls = make(checkout, "test")
    assert done.returncode == 0, done.stderr
    programs = {line.split()[0] for line in calls}
    assert programs >= {"ruff", "codespell", "python", "mypy", "lint-imports", "mkdocs"}
    assert calls[-1].startswith("pytest -n 2 ")
    assert calls[-1].endswith(" -m not slow")


@pytest.mark.parametrize("program", ["ruff", "mypy", "lint-imports", "mkdocs"])
def test_a_check_that_fails_ends_test_before_the_tests(checkout: Path, program: str) -> None:
    (checkout / ".venv" / "bin" / program).write_text(RECORDER + "exit 1\n")
    done, calls = make(checkout, "test")
    assert done.returncode != 0
    assert not [line for line in calls if line.startswith("pytest")]


def test_coverage_of_a_part_prints_its_table(checkout: Path) -> None:
    done, calls = make(checkout, "coverage", "PATH=tests/privacy")
    assert done.returncode == 0, done.stderr
    assert calls[0] == "coverage erase"
    assert calls[1].endswith("tests/privacy")
    assert calls[-1].startswith("coverage report")
    assert "no PATH" not in calls


def test_coverage_prints_its_table_and_fails_when_a_test_fails(checkout: Path) -> None:
    coverage = checkout / ".venv" / "bin" / "coverage"
    coverage.write_text(RECORDER + 'test "$1" != run\n')
    done, calls = make(checkout, "coverage")
    assert done.returncode != 0
    assert calls[-1].startswith("coverage report")


def test_lint_names_fix_when_the_style_is_wrong(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "ruff").write_text("#!/bin/sh\nexit 1\n")
    done, _ = make(checkout, "lint")
    assert done.returncode != 0
    assert "make fix" in done.stdout


def test_fix_corrects_then_checks(checkout: Path) -> None:
    assert make(checkout, "fix")[1] == [
        "ruff check --fix --quiet .",
        "ruff format --quiet .",
        "ruff check --quiet .",
    ]


def test_every_target_is_phony_and_help_lists_it() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(
        re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, flags=re.MULTILINE)[1].replace("\\\n", " ").split()
    )
    targets = set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.*?## ", text, flags=re.MULTILINE))
    assert phony == targets == described


def test_the_pages_that_name_a_target_name_one_that_exists() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md",
    ]
    for page in pages:
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
        assert named <= targets, page.name
