"""Licences: nothing under the GPL by default, every package on the page."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("build_licences", ROOT / "tools" / "build_licences.py")
assert _spec is not None
assert _spec.loader is not None
build_licences = importlib.util.module_from_spec(_spec)
sys.modules["build_licences"] = build_licences
_spec.loader.exec_module(build_licences)
PAGE = (ROOT / "docs" / "reference" / "licences.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("group", ["", "train", "export"])
def test_everything_that_is_installed_by_default_or_by_an_extra_is_permissive(group):
    found = build_licences.packages(group)
    assert len(found) >= len(build_licences.direct(group))
    assert [item for item in found if not item.permissive] == []


@pytest.mark.parametrize(
    ("extra", "package", "licence", "words"),
    [
        ("dossier", "certifi", "MPL-2.0", "`certifi`, a list of certificates"),
        ("ocr", "tqdm", "MPL-2.0 AND MIT", "`tqdm`, a\nprogress bar"),
    ],
)
def test_an_extra_installs_one_package_that_is_not_and_the_page_says_so(extra, package, licence, words):
    found = [item for item in build_licences.packages(extra) if not item.permissive]
    assert [(item.name, item.licence) for item in found] == [(package, licence)]
    assert words in PAGE


@pytest.mark.parametrize("group", build_licences.GROUPS)
def test_every_direct_dependency_has_a_purpose_and_stands_on_the_page(group):
    for requirement in build_licences.direct(group):
        name = build_licences.canonical(requirement.name)
        assert f"| {name} |" in PAGE
        assert build_licences.PURPOSE[name]


def test_every_package_stands_on_the_page_with_its_licence():
    for group in build_licences.GROUPS:
        for item in build_licences.packages(group):
            assert f"| {item.name} | {item.version} | {item.licence} |" in PAGE


@pytest.mark.parametrize(
    "licence",
    ["GPL-3.0-only", "AGPL-3.0", "LGPL-2.1", "not stated", "MIT AND GPL-2.0-only", "MIT OR GPL-2.0-only"],
)
def test_a_licence_that_is_not_permissive_would_be_seen(licence):
    assert not build_licences.Package("x", "1", licence).permissive


def test_no_extra_installs_the_codec_under_the_gpl():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    assert not any("pylibjpeg-libjpeg" in line for line in lines)
