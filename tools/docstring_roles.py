"""A Griffe extension that turns the Sphinx marks of docstrings into Markdown for the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc|obj):`~?([^`]+)`")
LITERAL = re.compile(r"::$", re.MULTILINE)


class DocstringRoles(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_kwargs: Any) -> None:
        """Replace the marks in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Return a docstring with each role as code and each ``::`` at the end of a line as a colon.

    Example:
        >>> markdown("see :func:`~meninx.core.files.atomic`")
        'see `meninx.core.files.atomic`'
    """
    return LITERAL.sub(":", ROLE.sub(r"`\1`", text))
