"""Types of settings: ranges and choices, conversion of values, and messages about invalid values.

The range and the choices of a setting are declared only in its type:

    >>> convert(Positive, 3, "lr"), convert(tuple[Count, ...], [64, 64], "size"), bounds(OpenShare, "delta")
    (3.0, (64, 64), '0 < delta < 1')
    >>> convert(Literal["mean", "sum"], "sun", "reduction")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    meninx.core.errors.ConfigError: expected reduction to be one of mean, sum, got 'sun' (reduction); ...
"""

from __future__ import annotations

import functools
import math
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from meninx.core import check
from meninx.core.errors import ConfigError, expected

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(gt=0)]
CountOrZero = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
PositiveShare = Annotated[float, Meta(gt=0, le=1)]
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1)]
OpenShare = Annotated[float, Meta(gt=0, lt=1)]
Device = Annotated[
    str, Meta(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", examples=["auto", "cpu", "cuda", "cuda:1", "mps"])
]


def convert(hint: Any, value: Any, where: str, name: str = "") -> Any:
    """Return a plain value converted to the declared type of a setting.

    An integer is accepted as any number, a list as a tuple, one word or number as a list of one, and text as
    a path; nothing else is converted.

    Args:
        hint: the declared type.
        value: the value from TOML or Python.
        where: file and key, for the message.
        name: of the setting, if ``where`` contains more than the name.

    Raises:
        ConfigError: the value has the wrong type, is out of range, or is not one of the choices.
    """
    if _is_list(hint) and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        value = (value,)
    try:
        result = msgspec.convert(value, hint, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        raise ConfigError(_refusal(hint, value, where, name or where)) from error
    if any(isinstance(item, float) and not math.isfinite(item) for item in _items(result)):
        raise ConfigError(expected("a finite number", got=value, where=where))
    return result


def choices(hint: Any) -> tuple[str, ...]:
    """Return the allowed words of a setting of this type or of each of its entries; empty for no limit."""
    hint = without_none(hint)
    if typing.get_origin(hint) is Annotated:
        return choices(typing.get_args(hint)[0])
    if typing.get_origin(hint) is Literal:
        return tuple(str(item) for item in typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(str(item.value) for item in hint)
    if typing.get_origin(hint) in (tuple, typing.Union, types.UnionType):
        return tuple(word for item in typing.get_args(hint) if item is not ... for word in choices(item))
    return ()


def examples(hint: Any) -> tuple[str, ...]:
    """Return usual words of a setting that also allows others."""
    metas = [item for item in typing.get_args(without_none(hint))[1:] if isinstance(item, Meta)]
    return tuple(str(word) for item in metas for word in item.examples or ())


def is_mixed(hint: Any) -> bool:
    """Return whether a setting is either a word or one or several numbers."""
    inner = typing.get_args(hint)
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) not in inner


def bounds(hint: Any, name: str = "") -> str:
    """Return the range of a numeric type, such as ``lr > 0`` or, without a name, ``> 0``.

    The result is empty if the type has no range.
    """
    hint = without_none(hint)
    if is_mixed(hint):
        return next((bounds(item, name) for item in typing.get_args(hint) if bounds(item)), "")
    if typing.get_origin(hint) is tuple and len(typing.get_args(hint)) == 2:
        return bounds(typing.get_args(hint)[0], name)
    limits = [item for item in typing.get_args(hint)[1:] if isinstance(item, Meta)]
    if typing.get_origin(hint) is not Annotated or not limits:
        return ""
    low = next(
        (
            (number, sign)
            for number, sign in ((limits[0].gt, "<"), (limits[0].ge, "<="))
            if number is not None
        ),
        None,
    )
    high = next(
        (
            (number, sign)
            for number, sign in ((limits[0].lt, "<"), (limits[0].le, "<="))
            if number is not None
        ),
        None,
    )
    if low and high:
        return f"{low[0]:g} {low[1]} {name or 'x'} {high[1]} {high[0]:g}"
    if low:
        return f"{name} {low[1].replace('<', '>')} {low[0]:g}".strip()
    return f"{name} {high[1]} {high[0]:g}".strip() if high else ""


def without_ranges(hint: Any) -> Any:
    """Return a type without its ranges: ``tuple[int, ...]`` for ``tuple[Count, ...]``."""
    holder = type("_Holder", (), {"__annotations__": {"value": hint}})
    return typing.get_type_hints(holder)["value"]


@functools.cache
def without_none(hint: Any) -> Any:
    """Return ``X`` for ``X | None``, and any other type unchanged."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [item for item in typing.get_args(hint) if item is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


@functools.cache
def _is_list(hint: Any) -> bool:
    """Return whether a setting is a list of any length, so that a single entry is accepted for it."""
    hint = without_none(hint)
    return typing.get_origin(hint) is tuple and typing.get_args(hint)[1:] == (...,)


def _decoded(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise TypeError


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _refusal(hint: Any, value: Any, where: str, name: str) -> str:
    """Return the message about a value that a type refuses, with the allowed values."""
    hint = without_none(hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            fix = "write it in brackets, also with one entry"
            return expected("a list", got=repr(value), where=where, fix=fix)
        bad = next((entry for entry in enumerate(value) if not _fits(inner[0], entry[1])), None)
        if bad is not None:
            return _refusal(inner[0], bad[1], f"{where}[{bad[0]}]", f"{name}[{bad[0]}]")
    elif is_mixed(hint):
        part = next(item for item in inner if not choices(item))
        several = typing.get_origin(part) is tuple
        if not isinstance(value, str) and isinstance(value, (list, tuple)) == several:
            return _refusal(part, value, where, name)
        rule = f"{', '.join(choices(hint))} or {'numbers' if several else 'a number'}"
        return expected(rule, got=repr(value), where=where)
    elif choices(hint) and isinstance(value, (str, int)):
        known = sorted(choices(hint))
        fix = check.did_you_mean(str(value), known)
        return expected(f"{name} to be one of {', '.join(known)}", got=repr(value), where=where, fix=fix)
    elif examples(hint) and isinstance(value, str):
        fix = check.did_you_mean(value, examples(hint))
        return expected(f"{name} such as {', '.join(examples(hint))}", got=repr(value), where=where, fix=fix)
    elif bounds(hint) and _fits(inner[0], value):
        return expected(bounds(hint, name), got=value, where=where)
    bare = inner[0] if origin is Annotated else hint
    kind = "str" if choices(bare) else getattr(bare, "__name__", str(bare))
    return expected(
        f"a value of type {kind}",
        got="true or false" if isinstance(value, bool) else repr(value),
        where=where,
    )


def _fits(hint: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, hint, dec_hook=_decoded)
    except msgspec.ValidationError:
        return False
    return True
