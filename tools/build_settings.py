"""Write ``src/meninx/_settings.py``: the settings of every stage as typed dictionaries, for completion and type checkers.

``make docs`` writes it and ``make docs-check`` compares it, as with the reference pages.
"""

from __future__ import annotations

import enum
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from meninx.core import setting_types, settings
from meninx.core.settings import Settings
from meninx.deid.config import DeidConfig
from meninx.prepare.config import PrepareConfig
from meninx.report.config import ReportConfig
from meninx.train.config import EvaluateConfig, TrainConfig

PAGE = Path(__file__).resolve().parents[1] / "src" / "meninx" / "_settings.py"
KINDS: dict[str, tuple[type[Settings], frozenset[str]]] = {
    "DeidSettings": (DeidConfig, frozenset({"key"})),
    "PrepareSettings": (PrepareConfig, frozenset({"source"})),
    "TrainSettings": (TrainConfig, frozenset({"model"})),
    "EvaluateSettings": (EvaluateConfig, frozenset()),
    "ReportSettings": (ReportConfig, frozenset()),
}
"""Class name -> its config, and the settings that the functions of ``meninx`` name themselves."""

_HEAD = '''"""Settings of the stages as keyword arguments, for completion and type checkers. Written by `make docs`.

Every setting is described in docs/reference/settings.md, and in the ``Attributes:`` of its config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict
'''


def text() -> str:
    """Return the module's text."""
    return "\n\n".join([_HEAD, *(_typed_dict(name, *kind) for name, kind in KINDS.items())]) + "\n"


def _typed_dict(name: str, kind: type[Settings], named: frozenset[str]) -> str:
    lines = [
        f"class {name}(TypedDict, total=False):",
        f'    """Settings of ``{kind.__module__}.{kind.__name__}``."""',
        "",
    ]
    flat = {key: part.hint for key, (_, part) in settings.index(kind).items() if key not in named}
    lines += [f"    {key}: {_source(hint)}" for key, hint in flat.items()]
    free = [table for table in settings.tables(kind) if table not in flat and table not in named]
    lines += [f"    {table}: Mapping[str, Any]" for table in free]
    return "\n".join(lines)


def _source(hint: Any) -> str:
    """Return a type as Python source, as wide as what the settings accept."""
    hint = setting_types.without_ranges(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"Literal[{', '.join(_quoted(part) for part in parts)}]"
    if origin in (types.UnionType, typing.Union):
        return " | ".join(dict.fromkeys(_source(part) for part in parts))
    if origin is tuple:
        return f"Sequence[{_source(parts[0])}]"
    if origin is dict:
        return "Mapping[str, Any]"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return f"Literal[{', '.join(_quoted(item.value) for item in hint)}]"
    if hint is Path:
        return "str | Path"
    if hint is type(None):
        return "None"
    return re.sub(r"^typing\.", "", hint.__name__ if isinstance(hint, type) else str(hint))


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
