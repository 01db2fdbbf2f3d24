"""Workers of a cluster are compared by every package of meninx that cleaning uses."""

from __future__ import annotations

import ast
from pathlib import Path

import meninx
from meninx.deid import cluster

NEVER_IN_A_WORKER = {"serving"}  # the page of the review


def imported(package: str) -> set[str]:
    """Return the packages of meninx that one imports."""
    found = set()
    for path in (Path(meninx.__file__).parent / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("meninx."):
                found.add((node.module or "").split(".")[1])
    return found - {package} - NEVER_IN_A_WORKER


def test_every_package_that_decides_the_bytes_is_compared():
    known, waiting = set(), ["deid"]
    while waiting:
        package = waiting.pop()
        known.add(package)
        waiting += sorted(imported(package) - known)
    assert known == set(cluster.PARTS)
