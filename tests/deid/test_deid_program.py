"""The program is compared by every package and library that decides the clean bytes."""

from __future__ import annotations

import ast
import shutil
import sys
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

import meninx
from meninx.deid import program

NEVER_IN_A_WORKER = {"serving"}  # the page of the review
BY_ANOTHER_NAME = {"PIL": "pillow", "openjpeg": "pylibjpeg-openjpeg", "jpeg_ls": "pyjpegls"}
DECIDES_NOTHING = {
    "cryptography", "distributed", "filelock", "jinja2", "msgspec", "starlette", "tomli_w",  # papers, locks
    "highdicom", "nibabel", "scipy",  # modules that deid does not use
}  # fmt: skip


@cache
def imports(package: str) -> list[ast.Import | ast.ImportFrom]:
    paths = (Path(meninx.__file__).parent / package).rglob("*.py")
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in paths)
    return [
        node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
    ]


def imported(package: str) -> set[str]:
    """Return the packages of meninx that one imports."""
    found = {
        (node.module or "").split(".")[1]
        for node in imports(package)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("meninx.")
    }
    return found - {package} - NEVER_IN_A_WORKER


def test_every_package_that_decides_the_bytes_is_compared():
    known, waiting = set(), ["deid"]
    while waiting:
        package = waiting.pop()
        known.add(package)
        waiting += sorted(imported(package) - known)
    assert known == set(program.PARTS)


def test_every_library_that_decides_the_bytes_is_compared():
    found = set()
    for package in program.PARTS:
        for node in imports(package):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    others = found - set(sys.stdlib_module_names) - DECIDES_NOTHING - {"meninx"}
    assert {BY_ANOTHER_NAME.get(name, name) for name in others} <= set(program.LIBRARIES)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that gives the digest of a copy of the program's files."""
    for part in program.PARTS:
        shutil.copytree(Path(meninx.__file__).parent / part, tmp_path / part)

    def digest(*, searches_pixels: bool = True) -> str:
        with monkeypatch.context() as patch:
            place, real = str(tmp_path / "imaging" / "ocr.py"), program.ocr
            there = SimpleNamespace(
                __file__=place, fingerprint=real.fingerprint, is_available=real.is_available
            )
            patch.setattr(program, "ocr", there)
            program.versions.cache_clear()
            try:
                return program.digest(searches_pixels=searches_pixels)
            finally:
                program.versions.cache_clear()

    digest.folder = tmp_path
    return digest


@pytest.mark.parametrize(
    "name", ["deid/wording/phrases.py", "deid/tables/profile.csv", "core/files.py", "new"]
)
def test_one_byte_of_the_program_is_another_program(installed, name):
    before = installed()
    assert before == installed()
    place = installed.folder / ("dicomfile/another.py" if name == "new" else name)
    place.write_bytes((place.read_bytes() if place.exists() else b"") + b"\n")
    assert installed() != before


@pytest.mark.parametrize("name", [*program.LIBRARIES, "meninx", "python", "onnxruntime", "ocr"])
def test_another_version_of_a_library_is_another_program(monkeypatch, name):
    there = program.versions()
    before = {searches: program.digest(searches_pixels=searches) for searches in (True, False)}
    assert name in there
    monkeypatch.setattr(program, "versions", lambda: {**there, name: "another"})
    assert program.digest(searches_pixels=True) != before[True]
    only_searches = name in ("onnxruntime", "ocr")
    assert (program.digest(searches_pixels=False) == before[False]) is only_searches


def test_it_is_read_in_less_than_a_second_and_only_once():
    program.versions.cache_clear()
    begun = time.perf_counter()
    program.digest(searches_pixels=True)
    assert time.perf_counter() - begun < 1
    assert program.versions() is program.versions()
