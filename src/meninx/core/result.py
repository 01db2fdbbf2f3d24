"""Results of the stages: frozen values with text, JSON and HTML output."""

from __future__ import annotations

import dataclasses
import html
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meninx.core import plain


@dataclass(frozen=True, kw_only=True)
class Result:
    """The root of all stage results; holds counts and paths, never images or patients' values.

    Attributes:
        out: the folder or file that was written.
    """

    out: Path

    def summary(self) -> str:
        """Return the result in a few lines of text; empty values and disabled options are left out."""
        lines: list[str] = []
        for name, value in self.to_table().items():
            if isinstance(value, dict):
                lines += (
                    [f"{_words(name)}:", *(f"  {key:<22} {item}" for key, item in value.items())]
                    if value
                    else []
                )
            elif value not in ("", None, False, []):
                lines.append(f"{_words(name)}: {value}")
        return "\n".join(lines)

    def alerts(self) -> tuple[str, ...]:
        """Return important warnings, which the command line shows in bold on stderr."""
        return ()

    def to_table(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {item.name: plain.to_plain(getattr(self, item.name)) for item in dataclasses.fields(self)}

    def to_json(self) -> str:
        """Return the fields as one JSON object; a number that is not finite is null."""
        return plain.to_json(self.to_table()).rstrip("\n")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"


def command(*words: object) -> str:
    """Return a command to type, quoted for a shell.

    >>> command("federate", "stop", Path("my study"))
    "`meninx federate stop 'my study'`"
    """
    return f"`{shlex.join(['meninx', *map(str, words)])}`"


def _words(name: str) -> str:
    return name.replace("_", " ")
