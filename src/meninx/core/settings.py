"""Frozen config dataclasses to and from TOML; recipes by name; unknown keys get a suggestion."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from meninx.core import check, files
from meninx.core.errors import ConfigError, expected

ConfigT = TypeVar("ConfigT")
LIMIT = 1 << 20  # bytes of a recipe


def recipe_names() -> tuple[str, ...]:
    """Return the names of the packaged recipes, sorted."""
    folder = resources.files("meninx.recipes")
    return tuple(
        sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))
    )


def read_recipe(name: str) -> tuple[dict[str, Any], str]:
    """Return a recipe's table and its readable source, from a packaged name or a path to a TOML file.

    Raises:
        ConfigError: no such recipe, or the file is not TOML.
        DataError: the file is not UTF-8 text, or too large to be a recipe.
    """
    if name in recipe_names():
        text, source = (
            (resources.files("meninx.recipes") / f"{name}.toml").read_text(encoding="utf-8"),
            f"recipe {name}.toml",
        )
    elif Path(name).is_file():
        text, source = files.read_text(Path(name), limit=LIMIT), Path(name).name
    else:
        fix = check.did_you_mean(name, recipe_names()) or "`meninx recipes` lists them"
        raise ConfigError(expected("a recipe name or a TOML file", got=repr(name), where="--recipe", fix=fix))
    try:
        return tomllib.loads(text), source
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(expected("valid TOML", got=str(error), where=source)) from error
    except RecursionError as error:
        raise ConfigError(
            expected("valid TOML", got="brackets in brackets without end", where=source)
        ) from error


def build(kind: type[ConfigT], table: Mapping[str, Any], where: str) -> ConfigT:
    """Return ``kind(**table)`` with nested dataclasses, enums, tuples and paths built from plain values.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value that ``kind`` refuses;
            both name ``where`` and the key.
    """
    hints = typing.get_type_hints(kind)
    known = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            fix = check.did_you_mean(key, known) or f"known keys: {', '.join(known)}"
            raise ConfigError(expected("a known key", got=repr(key), where=where, fix=fix))
        values[key] = convert(hints[key], value, f"{where}, {key}")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{error} [{where}]") from error
    except TypeError as error:
        raise ConfigError(expected(f"the fields of {kind.__name__}", got=error, where=where)) from error


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``table`` with ``changes`` on top; a mapping in both is merged in turn."""
    result = dict(table)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def to_table(config: Any) -> dict[str, Any]:
    """Return a config as plain TOML values; None is left out, so that defaults stay defaults."""
    table: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = _plain(getattr(config, item.name))
        if value is not None:
            table[item.name] = value
    return table


def to_toml(config: Any) -> str:
    """Return a config as TOML that :func:`build` reads back to an equal config."""
    return tomli_w.dumps(to_table(config))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_table(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def convert(hint: Any, value: Any, where: str) -> Any:
    """Return a plain value as the type that a setting declares.

    A whole number may stand for any number, nothing else does.

    Args:
        hint: the declared type.
        value: the value as TOML or Python gave it.
        where: file and key, for the message.

    Raises:
        ConfigError: the value has another type, or is no member of an enumeration.
    """
    options = [item for item in typing.get_args(hint) if item is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return None if value is None else convert(options[0], value, where) if len(options) == 1 else value
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, Enum):
        check.one_of([str(item.value) for item in hint], **{where: str(value)})
        return hint(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint in (int, float) and isinstance(value, bool):
        raise ConfigError(expected(f"a value of type {hint.__name__}", got="true or false", where=where))
    if hint is float and isinstance(value, int):
        return float(value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(
                expected(
                    "a list", got=repr(value), where=where, fix="write it in brackets, also with one entry"
                )
            )
        return tuple(convert(options[0], item, where) for item in value) if options else tuple(value)
    if isinstance(hint, type) and hint in (int, float, str, bool, Path) and not isinstance(value, hint):
        raise ConfigError(expected(f"a value of type {hint.__name__}", got=repr(value), where=where))
    return value
