"""Fail when the structure of the source breaks a house rule; print each offence with its place.

The rules: at most 600 lines per module and 80 per function, no nested conditional expression, no
comprehension more than two ``for`` deep, no circle of imports (not even inside a package), and no name of a
module or class that occurs in two packages.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

MODULE_LIMIT, FUNCTION_LIMIT, COMPREHENSION_LIMIT = 600, 80, 2
SHARED_FILES = {
    "__init__.py",
    "config.py",  # every stage has one
    "stage.py",  # every stage has one
}
WRITTEN_BY_TOOLS = {"_settings.py"}  # not read from top to bottom, so its length is free
COMMANDS = "cli"  # its files are named after the verbs, as are stages and their functions

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

Graph = Mapping[str, set[str]]


def main() -> int:
    """Return 0 when every rule is kept, 1 otherwise, with the offences on stdout."""
    root = Path(__file__).resolve().parents[1]
    trees = {
        path.relative_to(root / "src"): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((root / "src").rglob("*.py"))
    }
    found = offences(root / "src", trees)
    print("\n".join(found) if found else _summary(root / "src", trees))
    return 1 if found else 0


def offences(source: Path, trees: Mapping[Path, ast.Module]) -> list[str]:
    """Return one line per offence.

    Args:
        source: the folder that holds the packages.
        trees: path below ``source`` -> the parsed module.
    """
    return [*_sizes(source, trees), *_expressions(trees), *_circles(trees), *_names(trees)]


def function_lengths(tree: ast.Module) -> list[tuple[str, int, int]]:
    """Return (name, first line, lines of signature and code) of every function in a module.

    Docstrings are free.
    """
    nodes = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
    return [
        (node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1 - _prose(node))
        for node in nodes
    ]


def _prose(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function's docstring."""
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1 if ast.get_docstring(node) else 0


def nested_conditionals(tree: ast.Module) -> list[int]:
    """Return the lines of conditional expressions that stand directly in another one.

    A conditional inside a call, a list or a comprehension of the outer one is read on its own and may stay.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            parts = (node.body, node.test, node.orelse)
            found += [part.lineno for part in parts if isinstance(part, ast.IfExp)]
    return sorted(found)


def deep_comprehensions(tree: ast.Module) -> list[int]:
    """Return the lines of comprehensions with more than two ``for`` in all, those of inner ones included."""
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, _COMPREHENSIONS) and _depth(node) > COMPREHENSION_LIMIT
    )


def imports_of(tree: ast.Module, module: str, known: set[str]) -> set[str]:
    """Return the modules of ``known`` that a module imports, also in functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {_imported(node.module, alias.name, known) for alias in node.names}
    return {name for name in found if name in known and name != module}


def circles(graph: Graph) -> list[list[str]]:
    """Return every group of modules that import each other in a circle, by Tarjan's algorithm.

    >>> circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    [['b', 'c']]
    """
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in number:
            visit(name)
    return sorted(found)


def _sizes(source: Path, trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    for path, tree in trees.items():
        lines = _lines(source / path)
        if lines > MODULE_LIMIT and path.name not in WRITTEN_BY_TOOLS:
            yield f"{path}: {lines} lines, limit {MODULE_LIMIT}"
        for name, line, length in function_lengths(tree):
            if length > FUNCTION_LIMIT:
                yield f"{path}:{line}: {name} has {length} lines, limit {FUNCTION_LIMIT}"


def _expressions(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    for path, tree in trees.items():
        for line in nested_conditionals(tree):
            yield f"{path}:{line}: a conditional expression inside another one"
        for line in deep_comprehensions(tree):
            yield f"{path}:{line}: a comprehension with more than {COMPREHENSION_LIMIT} for"


def _circles(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    modules = {_module(path): tree for path, tree in trees.items()}
    graph = {name: imports_of(tree, name, set(modules)) for name, tree in modules.items()}
    for group in circles(graph):
        yield f"circle of imports: {', '.join(group)}"


def _names(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    """Yield names of files and public classes that two packages share."""
    places: defaultdict[str, set[str]] = defaultdict(set)
    for path, tree in trees.items():
        package = ".".join(path.parts[1:-1])
        if path.name not in SHARED_FILES and package != COMMANDS:
            places[f"file {path.name}"].add(package)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[f"class {node.name}"].add(package)
    for name, packages in sorted(places.items()):
        if len(packages) > 1:
            yield f"{name} stands in {', '.join(sorted(packages))}"


def _depth(node: ast.AST) -> int:
    """Return how many ``for`` lie on the deepest way through nested comprehensions."""
    own = len(node.generators) if isinstance(node, _COMPREHENSIONS) else 0
    return own + max((_depth(child) for child in ast.iter_child_nodes(node)), default=0)


def _imported(package: str, name: str, known: set[str]) -> str:
    return f"{package}.{name}" if f"{package}.{name}" in known else package


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def _summary(source: Path, trees: Mapping[Path, ast.Module]) -> str:
    modules = [_lines(source / path) for path in trees if path.name != "__init__.py"]
    functions = [length for tree in trees.values() for _, _, length in function_lengths(tree)]
    medians = f"{statistics.median(modules):.0f} and {statistics.median(functions):.0f} lines"
    return f"{len(modules)} modules, medians: {medians}"


if __name__ == "__main__":
    sys.exit(main())
