"""Public names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
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
        if not TYPE_CHECKING:
            __getattr__, __dir__ = lazy_exports(__name__, {"Circle": "package.shapes"})

    Args:
        package: ``__name__`` of the package.
        modules: public name -> full name of the module that defines it under the same name.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        sys.modules[package].__dict__[name] = value  # so that the next access does not call this function
        return value

    def names() -> list[str]:
        return sorted({*modules, *sys.modules[package].__dict__})

    return load, names


def callable_package(package: str, module: str, function: str) -> None:
    """Make a package callable like the public function with the same name.

    ``meninx.train`` is both a public function and the package of the stage. Python binds the name to the
    package as soon as one of its modules is imported, so the package has to behave like the function.

    Args:
        package: ``__name__`` of the package.
        module: full name of the module that defines the function.
        function: its name.
    """

    class CallablePackage(ModuleType):
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return self.__wrapped__(*arguments, **named)

        @property
        def __wrapped__(self) -> Callable[..., Any]:
            """The function; ``inspect.signature``, ``help`` in notebooks and completion use it."""
            found: Callable[..., Any] = getattr(importlib.import_module(module), function)
            return found

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(self.__wrapped__)

        @property
        def __doc__(self) -> str | None:  # type: ignore[override]
            return self.__wrapped__.__doc__

    sys.modules[package].__class__ = CallablePackage
