"""Public names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package whose public names live in other modules.

    The package imports nothing heavy itself, so ``import package`` and ``--help`` stay fast. The same names
    belong in ``__all__`` and, for type checkers and completion, in imports under ``TYPE_CHECKING``.

    Example::

        # in package/__init__.py
        if TYPE_CHECKING:
            from package.shapes import Circle

        __all__ = ["Circle"]
        __getattr__, __dir__ = lazy_exports(__name__, {"Circle": "package.shapes"})

    Args:
        package: ``__name__`` of the package.
        modules: public name -> full name of the module that defines it under the same name.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        sys.modules[package].__dict__[name] = value  # the next access does not come here
        return value

    def names() -> list[str]:
        return sorted({*modules, *sys.modules[package].__dict__})

    return load, names
