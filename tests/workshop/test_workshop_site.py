"""Our parts of the documentation site: links across the repository, marks of docstrings, no remote files.

`make docs-check` builds the site strictly; here its hooks are tried on small texts.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "source", "page", "wanted"),
    [
        ("[a](../THREAT_MODEL.md#x)", "docs/index.md", "index.md", "[a](project/threat-model.md#x)"),
        ("[a](docs/tutorial.md)", "CONTRIBUTING.md", "project/contributing.md", "[a](../tutorial.md)"),
        ("![a](../img/a.png)", "docs/how-to/train.md", "how-to/train.md", "![a](../img/a.png)"),
        ("[a](../../src/x.py)", "docs/how-to/train.md", "how-to/train.md", "a (`src/x.py`)"),
        ("[`Makefile`](Makefile)", "CONTRIBUTING.md", "project/contributing.md", "`Makefile`"),
        ("[a](https://semver.org)", "docs/index.md", "index.md", "[a](https://semver.org)"),
        ("[a](#head)", "docs/index.md", "index.md", "[a](#head)"),
    ],
)
def test_links_lead_to_pages_of_the_site(text: str, source: str, page: str, wanted: str) -> None:
    assert tool("site_hooks").relinked(text, source=source, page=page) == wanted


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<link href="https://fonts.example" rel="preconnect">',
        "@import url(https://fonts.example/css)",
        "src: url(http://fonts.example/a.woff2)",
        '<img alt="x" src="https://badge.example/a.svg">',
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_found(text: str) -> None:
    assert tool("site_hooks").foreign(text)
    assert not tool("site_hooks").foreign(
        '<a href="https://semver.org">x</a><script src="assets/a.js"></script>'
    )


def test_marks_of_docstrings_become_markdown() -> None:
    markdown = tool("docstring_roles").markdown
    assert markdown("see :class:`~meninx.core.run.Run`::") == "see `meninx.core.run.Run`:"
    assert markdown("Example:\n    >>> 1\n    1") == "Examples:\n    >>> 1\n    1"
    table = markdown("head\n\n====  =====\nname  means\n====  =====\na     b  c\ndd    e\n====  =====\n\nend")
    assert table == "head\n\n| name | means |\n|---|---|\n| a | b  c |\n| dd | e |\n\nend"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_shows_public_names(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "api" / "privacy.html").read_text(encoding="utf-8")
    assert ":func:" not in page
    assert "::<" not in page
