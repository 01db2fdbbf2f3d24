"""What every stage returns: a small frozen object that can say itself in words, JSON and HTML."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Result:
    """The root of all stage results; holds counts and paths, never images or patients' values.

    Attributes:
        out: the folder or file that was written.
    """

    out: Path

    def summary(self) -> str:
        """Return the result in a few lines for people; what is empty or off is left out."""
        lines: list[str] = []
        for name, value in self.to_table().items():
            if isinstance(value, dict):
                lines += [f"{_words(name)}:", *(f"  {key:<22} {item}" for key, item in value.items())] if value else []
            elif value not in ("", None, False, []):
                lines.append(f"{_words(name)}: {value}")
        return "\n".join(lines)

    def to_table(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}

    def to_json(self) -> str:
        """Return the fields as one JSON object; what is not a finite number is null."""
        return json.dumps(_finite(self.to_table()), indent=2, sort_keys=True, allow_nan=False)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, (Path, Enum)):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
