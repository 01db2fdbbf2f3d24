"""Write ``src/meninx/_settings.py``: settings of all stages as typed dictionaries for type checkers.

``make docs`` writes it and ``make docs-check`` compares it, as with the reference pages.
"""

from __future__ import annotations

import enum
import re
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from meninx.audit.config import (
    AttributesConfig,
    BoundsConfig,
    IdentityConfig,
    MembershipConfig,
    OneRunConfig,
    ScoresConfig,
)
from meninx.audit.plan_config import AuditConfig
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.core import setting_types, settings
from meninx.core.settings import Settings
from meninx.deid.config import DeidConfig
from meninx.dossier.config import DossierConfig
from meninx.federated.config import StudyConfig
from meninx.obfuscate.config import ObfuscateConfig, ReleaseAuditConfig
from meninx.predict.config import PredictConfig
from meninx.prepare.config import PrepareConfig
from meninx.report.config import ReportConfig
from meninx.train.config import EvaluateConfig, TrainConfig
from meninx.verify.config import DicomCheckConfig

PAGE = Path(__file__).resolve().parents[1] / "src" / "meninx" / "_settings.py"
KINDS: dict[str, tuple[type[Settings], frozenset[str]]] = {
    "DeidSettings": (DeidConfig, frozenset({"key"})),
    "PrepareSettings": (PrepareConfig, frozenset({"source"})),
    "TrainSettings": (TrainConfig, frozenset({"model"})),
    "EvaluateSettings": (EvaluateConfig, frozenset()),
    "ObfuscateSettings": (ObfuscateConfig, frozenset()),
    "AuditReleaseSettings": (ReleaseAuditConfig, frozenset()),
    "PredictSettings": (PredictConfig, frozenset()),
    "VerifySettings": (DicomCheckConfig, frozenset()),
    "ReportSettings": (ReportConfig, frozenset()),
    "DossierSettings": (DossierConfig, frozenset()),
    "AuditSettings": (AuditConfig, frozenset()),
    "BoundsSettings": (BoundsConfig, frozenset()),
    "ScoresSettings": (ScoresConfig, frozenset()),
    "OneRunSettings": (OneRunConfig, frozenset()),
    "MembershipSettings": (MembershipConfig, frozenset()),
    "AttributesSettings": (AttributesConfig, frozenset()),
    "ReconstructionSettings": (ReconstructionConfig, frozenset()),
    "IdentitySettings": (IdentityConfig, frozenset()),
    "StudySettings": (StudyConfig, frozenset({"sites"})),
}
"""Class name -> its config, and the settings that the functions of ``meninx`` name themselves."""

_HEAD = '''\
"""Settings of the stages as keyword arguments, for completion and type checkers. Written by `make docs`.

Every setting is described in docs/reference/settings.md, and in the ``Attributes:`` of its config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict
'''


def text() -> str:
    """Return the module's text."""
    owners = dict.fromkeys(table for kind, _ in KINDS.values() for table in settings.tables(kind).values())
    parts = [_table(owner) for owner in owners]
    parts += [_stage(name, *kind) for name, kind in KINDS.items()]
    return "\n\n".join([_HEAD, *parts]) + "\n"


def _table(owner: type[Settings]) -> str:
    """Return the dictionary of one table, whose keys are those of a recipe."""
    hints = {path[-1]: item.hint for path, item in settings.index(owner).values()}
    return _class(_name(owner), owner, {key: _setting(hint) for key, hint in hints.items()}, {})


def _stage(name: str, kind: type[Settings], named: frozenset[str]) -> str:
    """Return the dictionary of a stage: all settings by their flat names, and its tables."""
    tables = {key: f"{_name(owner)} | Mapping[str, Any]" for key, owner in settings.tables(kind).items()}
    fields = {key: _setting(item.hint) for key, (_, item) in settings.index(kind).items() if key not in named}
    for key, hint in tables.items():
        if key not in named:
            absent = " | None" if getattr(kind(), key) is None else ""
            fields[key] = f"{fields[key]} | {hint}" if key in fields else f"{hint}{absent}"
    return _class(name, kind, fields, settings.meanings(kind))


def _name(owner: type[Settings]) -> str:
    return owner.__name__.removesuffix("Config") + "Table"


def _class(name: str, kind: type[Settings], fields: dict[str, str], meanings: dict[str, str]) -> str:
    lines = [
        f"class {name}(TypedDict, total=False):",
        f'    """Settings of ``{kind.__module__}.{kind.__name__}``.',
        "",
    ]
    if not meanings:
        fields_of = [f"    {key}: {hint}" for key, hint in fields.items()]
        return "\n".join([lines[0], f'{lines[1]}"""', "", *fields_of]) + "\n"
    described = [(key, meanings.get(key, "the table of that name.")) for key in fields]
    wrap = textwrap.TextWrapper(
        width=110, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False
    )
    lines += ["    Attributes:", *(line for key, text in described for line in wrap.wrap(f"{key}: {text}"))]
    lines += ['    """', "", *(f"    {key}: {hint}" for key, hint in fields.items())]
    return "\n".join(lines) + "\n"


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


def _setting(hint: Any) -> str:
    """Return the type of a setting; one number may stand for a list of one."""
    parts = get_args(setting_types.without_ranges(hint))
    return f"{parts[0].__name__} | {_source(hint)}" if parts in ((int, ...), (float, ...)) else _source(hint)


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
