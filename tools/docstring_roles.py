"""A Griffe extension that turns the Sphinx marks of docstrings into Markdown for the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc|obj):`~?([^`]+)`")
LITERAL = re.compile(r"::$", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
TABLE = re.compile(r"^(=+(?: +=+)+)\n.+\n\1\n(?:.+\n)+\1$", re.MULTILINE)


class DocstringRoles(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_kwargs: Any) -> None:
        """Replace the marks in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    r"""Return a docstring whose Sphinx marks are Markdown.

    Roles become code, a plain table a Markdown table, ``::`` at the end of a line a colon, and the section
    ``Example:`` the one that Griffe knows, ``Examples:``.

    Example:
        >>> markdown("see :func:`~meninx.core.files.atomic`")
        'see `meninx.core.files.atomic`'
        >>> print(markdown("==  ====\nin  what\n==  ====\nx   pixel values\n==  ===="))
        | in | what |
        |---|---|
        | x | pixel values |
    """
    marked = ROLE.sub(r"`\1`", TABLE.sub(_table, text))
    return LITERAL.sub(":", EXAMPLE.sub("Examples:", marked))


def _table(match: re.Match[str]) -> str:
    border, *lines = match[0].splitlines()
    starts = [found.start() for found in re.finditer("=+", border)]
    ends = [*starts[1:], None]
    rows = [
        [line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines if line[:2] != "=="
    ]
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|{'---|' * len(starts)}", *body])
