"""Fail when a module or function outgrows the limits that stop accidents; print the medians."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

MODULE_LIMIT, FUNCTION_LIMIT = 600, 80


def function_lengths(tree: ast.Module) -> list[tuple[str, int, int]]:
    """Return (name, first line, length in lines) of every function in a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1) for node in nodes]


def main() -> int:
    """Return 0 when every limit is kept, 1 otherwise, with the offenders on stdout."""
    root = Path(__file__).resolve().parents[1]
    offenders: list[str] = []
    modules: list[int] = []
    functions: list[int] = []
    for path in sorted((root / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name != "__init__.py":
            modules.append(text.count("\n"))
        if text.count("\n") > MODULE_LIMIT:
            offenders.append(f"{path.relative_to(root)}: {text.count(chr(10))} lines, limit {MODULE_LIMIT}")
        for name, line, length in function_lengths(ast.parse(text)):
            functions.append(length)
            if length > FUNCTION_LIMIT:
                offenders.append(
                    f"{path.relative_to(root)}:{line}: {name} has {length} lines, limit {FUNCTION_LIMIT}"
                )
    medians = (statistics.median(modules), statistics.median(functions))
    print(
        "\n".join(offenders)
        if offenders
        else f"{len(modules)} modules, medians: {medians[0]:.0f} and {medians[1]:.0f} lines"
    )
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main())
