"""Typed values to JSON and back: one conversion for artefacts, results and configs.

Dataclasses, enumerations, tuples, mappings and paths become plain values; a number that is not finite becomes
null. When a file is read, every type is checked against the dataclass, and an error names the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from meninx.core.errors import DataError, expected, problem

ValueT = TypeVar("ValueT")


def to_plain(value: Any) -> Any:
    """Return a value as dictionaries, lists, strings, numbers, booleans and None."""
    return _finite(msgspec.to_builtins(value, enc_hook=_encoded, str_keys=True))


def to_json(value: Any) -> str:
    """Return indented JSON with sorted keys, ending in a newline; a number that is not finite is null."""
    text = msgspec.json.encode(_finite(to_plain(value)), order="sorted")
    return msgspec.json.format(text, indent=2).decode() + "\n"


def from_json(content: bytes | str, kind: type[ValueT], *, where: str) -> ValueT:
    """Return ``kind`` from JSON.

    Args:
        content: the JSON.
        kind: a dataclass, or a type built from plain ones.
        where: name of the file, for the message.

    Raises:
        DataError: the content is not JSON, or a field is missing or has the wrong type; the message names
            file and field.
    """
    try:
        return msgspec.json.decode(content, type=kind, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        raise DataError(
            expected("a file as this version writes it", got=_without_values(error), where=where)
        ) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DataError(problem("the file is not valid JSON", where=where)) from error


def from_plain(value: Any, kind: type[ValueT], *, where: str) -> ValueT:
    """Return ``kind`` from plain values; raises as :func:`from_json`."""
    try:
        return msgspec.convert(value, kind, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        raise DataError(
            expected("a table as this version writes it", got=_without_values(error), where=where)
        ) from error
    except RecursionError as error:
        raise DataError(problem("the table is nested too deeply", where=where)) from error


def _encoded(value: Any) -> Any:
    if isinstance(value, (Path, str)):  # also subclasses of str, such as pydicom's UID
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"no plain form of {type(value).__name__}")


def _decoded(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"no way to read {kind.__name__}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_values(error: msgspec.ValidationError) -> str:
    """Return the library's message without values from the file.

    The message names types and fields, but it also quotes an invalid enumeration member, which is removed.
    """
    text, _, place = str(error).rpartition(" - at")
    if not place or not text:
        text, place = str(error), ""
    words = "another value" if text.startswith("Invalid enum value") else text
    return f"{words} - at{place}" if place else words
