"""The source in a bundle's folder ``scripts/``: copies of modules of meninx that work without meninx.

The imports at the top of each module decide what is copied, so a bundle always contains the code that the
program itself runs. Imports of meninx become relative imports; nothing else is changed::

    scripts/inference.py     meninx.train.bundle_run        for MONAI
    scripts/with_onnx.py     meninx.train.bundle_onnx       for ONNX Runtime, when there is an ONNX file
    scripts/segment_with_onnx.py  meninx.train.bundle_onnx_maps  the same, of a segmentation
    scripts/images.py        meninx.imaging.network_input   for programs without torch
    scripts/models/          the networks of meninx, when the bundle holds one of them
    scripts/core/, imaging/  what these modules import
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from meninx.core import files, provenance

IMAGES = "meninx.imaging.network_input"
INFERENCE = "meninx.train.bundle_run"
MAPS = "meninx.train.bundle_maps"
TABLE = "meninx.train.bundle_table"
ONNX = "meninx.train.bundle_onnx"
ONNX_MAPS = "meninx.train.bundle_onnx_maps"
ONNX_SESSION = "meninx.train.onnx_session"
NETWORKS = "meninx.models.registry"
_PLACES: Mapping[str, str] = {
    IMAGES: "images",
    INFERENCE: "inference",
    MAPS: "maps",
    TABLE: "table",
    ONNX: "with_onnx",
    ONNX_MAPS: "segment_with_onnx",
    ONNX_SESSION: "onnx_session",
}
"""Modules that have another place in ``scripts/`` than in the package."""
_IMPORT = re.compile(r"^(\s*)from meninx\.([\w.]+) import ", re.MULTILINE)
_HEADER = """\
# Copyright The meninx authors. SPDX-License-Identifier: Apache-2.0
# Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
# Copy of {module} of meninx {version}, with relative imports. Generated; do not edit.

"""


def write(folder: Path, *, networks: bool, onnx: bool = False, segmentation: bool = False) -> None:
    """Write the package ``scripts`` into a folder.

    Args:
        folder: becomes the package.
        networks: also copy the built-in networks.
        onnx: also copy the program that uses the ONNX file.
        segmentation: the network makes label maps.

    Raises:
        StorageError: a file cannot be written.
    """
    roots = [INFERENCE, IMAGES, *([NETWORKS] if networks else []), *([MAPS] if segmentation else [])]
    if onnx:
        roots.append(ONNX_MAPS if segmentation else ONNX)
    version = provenance.version()
    packages = {folder}
    for module in needed(roots):
        target = folder / f"{_place(module)}.py"
        text = _HEADER.format(module=module, version=version) + _relative(_source(module), module)
        files.write_text(target, text)
        packages.add(target.parent)
    for package in sorted(packages):
        files.write_text(package / "__init__.py", _HEADER.format(module="a package", version=version))


def needed(modules: Iterable[str]) -> list[str]:
    """Return the modules and all modules of meninx that they import at module level, sorted.

    Imports inside functions and under ``TYPE_CHECKING`` are not followed, because a bundle does not use them.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imported(module)
    return sorted(found)


@functools.cache
def _imported(module: str) -> tuple[str, ...]:
    """Return the modules of meninx that a module imports at its top."""
    found: list[str] = []
    for node in ast.parse(_source(module)).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("meninx."):
            for item in node.names:
                whole = f"{node.module}.{item.name}"
                found.append(whole if _is_module(whole) else str(node.module))
    return tuple(found)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def _place(module: str) -> str:
    """Return the path of a module below ``scripts/``, without its suffix."""
    return _PLACES.get(module) or module.removeprefix("meninx.").replace(".", "/")


def _relative(source: str, module: str) -> str:
    """Return the source with relative imports instead of those of meninx."""
    depth = _place(module).count("/") + 1

    def changed(match: re.Match[str]) -> str:
        whole = f"meninx.{match[2]}"
        place = _place(whole).replace("/", ".")
        return f"{match[1]}from {'.' * depth}{place} import "

    return _IMPORT.sub(changed, source)
