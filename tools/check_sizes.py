"""Fail when a module or function exceeds its size limit or when modules import each other in a circle."""

from __future__ import annotations

import ast
import graphlib
import statistics
import sys
from pathlib import Path

MODULE_LIMIT, FUNCTION_LIMIT = 600, 80


def function_lengths(tree: ast.Module) -> list[tuple[str, int, int]]:
    """Return (name, first line, length in lines) of every function in a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1) for node in nodes]


def imports(root: Path) -> dict[str, set[str]]:
    """Return module -> modules below ``root`` that it imports, also inside functions and for type checking."""
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in root.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for path, name in names.items()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        graph[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[module] |= {alias.name for alias in node.names if alias.name in modules}
            elif isinstance(node, ast.ImportFrom) and node.module in modules:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[module] |= (full & modules.keys()) or {node.module}
    return graph


def import_circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle of imports, first and last the same; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


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
    circle = import_circle(imports(root / "src"))
    if circle:
        offenders.append(f"modules import each other in a circle: {' -> '.join(circle)}")
    medians = (statistics.median(modules), statistics.median(functions))
    print(
        "\n".join(offenders)
        if offenders
        else f"{len(modules)} modules, medians: {medians[0]:.0f} and {medians[1]:.0f} lines"
    )
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main())
