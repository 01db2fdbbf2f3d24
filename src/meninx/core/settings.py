"""Settings: frozen tables whose types define the allowed values, and TOML recipes of them.

A stage declares its settings as dataclasses that inherit from :class:`Settings`. The choices and the range of
a field are declared only in its type; checks, the command line, the reference page and the JSON schema all
read them from there:

    >>> from dataclasses import dataclass, field
    >>> from typing import Literal
    >>> from meninx.core.setting_types import Positive
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Optim(Settings):
    ...     optimizer: Literal["sgd", "adam"] = "adam"
    ...     lr: Positive = 1e-3
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Training(Settings):
    ...     optim: Optim = field(default_factory=Optim)
    >>> built = build(Training, {"optim": {"lr": 0.1}}, "recipe")
    >>> Training(optim=Optim(lr=0.1)) == Training.of(lr=0.1) == built
    True
    >>> Training.of(optimizer="adem")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    meninx.core.errors.ConfigError: expected optimizer to be one of adam, sgd, got 'adem' (optimizer); ...

Every setting also has a flat name, unique in the whole config: the name of its field, or the one given by
:func:`flat`. Flags and keyword arguments use flat names, recipes use tables.
"""

# No postponed annotations here: the example above is run in this module, and its types must be objects.

import dataclasses
import functools
import inspect
import re
import tomllib
import typing
import warnings
from collections.abc import Callable, Mapping
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import tomli_w

from meninx.core import check, files, setting_types
from meninx.core.errors import ConfigError, expected
from meninx.core.setting_types import without_none

SettingsT = TypeVar("SettingsT", bound="Settings")
ReturnT = TypeVar("ReturnT")
LIMIT = 1 << 20  # bytes of a recipe


class OldLayout(UserWarning):
    """A recipe or a run's config has the flat layout of an earlier version."""


class Settings:
    """Base of every config: checks the type and range of each field, then the rules between fields.

    Raises:
        ConfigError: a value is not allowed by its type; the message names the setting and the allowed values.
    """

    def __post_init__(self) -> None:
        for item in _fields(type(self)):
            value = _converted(item.hint, getattr(self, item.name), item.flat)
            object.__setattr__(self, item.name, value)
        self.check_rules()

    def check_rules(self) -> None:
        """Raise ConfigError for values that are valid individually but not together."""

    @classmethod
    def of_recipe(cls, table: Mapping[str, Any], source: str) -> Mapping[str, Any]:
        """Return the settings of this class in a recipe's table.

        By default this is the table itself; a class that also accepts recipes of another class overrides it.

        Args:
            table: the recipe.
            source: its name, for messages.
        """
        return table

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Return the config of settings given by their flat names or as whole tables."""
        return build(cls, settings, "")

    def replace(self, **settings: Any) -> Self:
        """Return the config with some settings changed, given by their flat names or as tables."""
        kind, values = type(self), _values(self)
        for key, value in arranged(kind, settings, "").items():
            table = key in tables(kind) and isinstance(value, Mapping)
            values[key] = {**(values[key] or {}), **value} if table else value
        return _made(kind, values)


def _cached(function: Callable[[type[Settings]], ReturnT]) -> Callable[[type[Settings]], ReturnT]:
    """Return a function that is computed once per class."""
    return functools.cache(function)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
        name: its name in its table.
        hint: its type, with its range.
        flat: its flat name, unique in the whole config.
    """

    name: str
    hint: Any
    flat: str


def flat(name: str) -> dict[str, str]:
    """Return field metadata that sets a flat name different from the name of the field."""
    return {"flat": name}


@_cached
def tables(kind: type[Settings]) -> dict[str, type[Settings]]:
    """Return the tables of a composed config: name of the table -> its class."""
    found = {item.name: _table_class(item.hint) for item in _fields(kind)}
    return {name: table for name, table in found.items() if table is not None}


@_cached
def index(kind: type[Settings]) -> dict[str, tuple[tuple[str, ...], Field]]:
    """Return flat name -> (path from the top, field) of every setting, in the order of declaration.

    Raises:
        TypeError: two settings have the same flat name.
    """
    found: dict[str, tuple[tuple[str, ...], Field]] = {}
    for item in _fields(kind):
        table = _table_class(item.hint)
        inner = (
            [((item.name, part.name), part) for part in _fields(table)] if table else [((item.name,), item)]
        )
        for path, part in inner:
            if part.flat in found:
                raise TypeError(f"two settings of {kind.__name__} are called {part.flat}")
            found[part.flat] = (path, part)
    return found


def value_of(config: Settings, name: str) -> Any:
    """Return a setting by its flat name; None when its table is absent."""
    path, _ = index(type(config))[name]
    return functools.reduce(lambda table, key: None if table is None else getattr(table, key), path, config)


def default_of(kind: type[Settings], name: str) -> Any:
    """Return the default of a setting by its flat name."""
    path, _ = index(kind)[name]
    owner = kind if len(path) == 1 else tables(kind)[path[0]]
    item = {item.name: item for item in dataclasses.fields(owner)}[path[-1]]  # type: ignore[arg-type]
    return item.default_factory() if callable(item.default_factory) else item.default


@_cached
def meanings(kind: type[Settings]) -> dict[str, str]:
    """Return flat name -> description of every setting, from ``Attributes:`` in the docstrings."""
    described: dict[tuple[str, ...], str] = {}
    for path, owner in ((), kind), *(((name,), table) for name, table in tables(kind).items()):
        described |= {(*path, name): text for name, text in attributes(owner).items()}
    return {name: described.get(path, "") for name, (path, _) in index(kind).items()}


def attributes(kind: type[Any]) -> dict[str, str]:
    """Return name -> description of a class's attributes, from ``Attributes:`` in its and its bases' docs."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        block = (inspect.getdoc(base) or "").partition("Attributes:")[2]
        for match in re.finditer(r"^    (\w+): (.*(?:\n {8,}.*)*)", block, flags=re.MULTILINE):
            found[match.group(1)] = re.sub(r"\s+", " ", match.group(2)).strip()
    return found


# values into configs


def build(kind: type[SettingsT], settings: Mapping[str, Any], where: str) -> SettingsT:
    """Return a config of settings given by flat names, as tables, or both.

    Args:
        kind: class of the config.
        settings: plain values from TOML or Python.
        where: their source, for messages: the name of a file, or empty.

    Raises:
        ConfigError: an unknown key (with a similar known one), or a value that ``kind`` does not allow; the
            message names ``where`` and the key.
    """
    return resolve(kind, (settings, where))


def resolve(kind: type[SettingsT], *layers: tuple[Mapping[str, Any], str]) -> SettingsT:
    """Return a config of several layers of settings; later layers win, and tables are merged key by key.

    Args:
        kind: class of the config.
        *layers: settings and their source, as for :func:`build`.

    Raises:
        ConfigError: see :func:`build`.
    """
    values: dict[str, Any] = {}
    for settings, where in layers:
        values = merged(values, arranged(kind, settings, where))
    try:
        return _made(kind, values)
    except ConfigError as error:
        sources = " and ".join(dict.fromkeys(where for settings, where in layers if where and settings))
        raise ConfigError(f"{error} [{sources}]" if sources else str(error)) from error


def resolve_recipe(
    kind: type[SettingsT], recipe: str | None, *layers: tuple[Mapping[str, Any], str]
) -> SettingsT:
    """Return a config of a recipe, with further layers on top.

    Args:
        kind: class of the config.
        recipe: packaged recipe or TOML file; None or empty for none.
        *layers: as for :func:`resolve`.

    Raises:
        ConfigError: no such recipe; or see :func:`build`.
    """
    if not recipe:
        return resolve(kind, *layers)
    found, source = read_recipe(recipe)
    table = kind.of_recipe(found, source)
    warn_of_old_layout(kind, table, source)
    return resolve(kind, (table, source), *layers)


def arranged(kind: type[Settings], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings arranged in tables, each value checked and converted; see :func:`build`."""
    places, below, result = index(kind), tables(kind), dict[str, Any]()
    for key, value in settings.items():
        if key in below and isinstance(value, (Mapping, Settings)):
            given = _values(value) if isinstance(value, Settings) else value
            result[key] = merged(result.get(key) or {}, _table(kind, key, given, where))
        elif key in below and (value is None or key not in places):
            _refuse_no_table(kind, key, value, where)
            result[key] = None
        elif key in places:
            path, item = places[key]
            found: Any = _converted(item.hint, value, _place(where, key), key)
            for name in reversed(path):
                found = {name: found}
            result = merged(result, found)
        else:
            raise _unknown(kind, (key,), where, table=isinstance(value, Mapping))
    return result


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``table`` updated with ``changes``; a mapping in both is merged recursively."""
    result = dict(table)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


# configs into values


def to_table(config: Any) -> dict[str, Any]:
    """Return a config as plain TOML values; None is left out, because TOML cannot express it."""
    table: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = to_plain(getattr(config, item.name))
        if value is not None:
            table[item.name] = value
    return table


def to_flat(config: Settings) -> dict[str, Any]:
    """Return flat name -> plain value of every setting; those that are None are left out."""
    table = {name: to_plain(value_of(config, name)) for name in index(type(config))}
    return {name: value for name, value in table.items() if value is not None}


def to_plain(value: Any) -> Any:
    """Return a value, mapping or config in the types of TOML: no tuples, paths, enumerations or None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_table(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def flattened(kind: type[Settings], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's table with its settings under their flat names, unchecked; other keys are kept."""
    names = {path: name for name, (path, _) in index(kind).items()}
    result: dict[str, Any] = {}
    for key, value in table.items():
        inside = key in tables(kind) and isinstance(value, Mapping)
        result |= (
            {names.get((key, name), name): item for name, item in value.items()} if inside else {key: value}
        )
    return result


def to_toml(config: Any) -> str:
    """Return a config as TOML that :func:`build` reads back to an equal config."""
    return tomli_w.dumps(to_table(config))


def schema(kind: type[Settings]) -> dict[str, Any]:
    """Return the JSON schema of recipes of a kind, with all choices and ranges, for editors."""
    found = msgspec.json.schema(kind, schema_hook=lambda other: {"type": "string"})
    owners = {owner.__name__: owner for owner in (kind, *tables(kind).values())}
    for name, part in found["$defs"].items():
        if name in owners:
            part["additionalProperties"] = False
            part["description"] = (inspect.getdoc(owners[name]) or "").partition("\n")[0]
            for setting, meaning in meanings(owners[name]).items():
                place = index(owners[name])[setting][0]
                if len(place) == 1 and meaning:
                    part["properties"][place[0]]["description"] = meaning
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


# recipes


OTHER_RECIPES = ("obfuscate",)
"""Commands besides `train` with packaged recipes; the names of theirs begin with the command and a hyphen."""


def recipe_names(command: str = "train") -> tuple[str, ...]:
    """Return the names of the packaged recipes of a command, sorted."""
    folder = resources.files("meninx.recipes")
    every = sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )

    def owner(name: str) -> str:
        return next((other for other in OTHER_RECIPES if name.startswith(f"{other}-")), "train")

    return tuple(name for name in every if owner(name) == command)


def every_recipe() -> tuple[str, ...]:
    """Return the names of all packaged recipes, those of `train` first."""
    return tuple(name for command in ("train", *OTHER_RECIPES) for name in recipe_names(command))


def read_recipe(name: str) -> tuple[dict[str, Any], str]:
    """Return a recipe's table and a name of its source, for a packaged recipe or a path to a TOML file.

    Raises:
        ConfigError: no such recipe, or the file is not TOML.
        DataError: the file is not UTF-8 text, or too large to be a recipe.
    """
    if name in every_recipe():
        text, source = (
            (resources.files("meninx.recipes") / f"{name}.toml").read_text(encoding="utf-8"),
            f"recipe {name}.toml",
        )
    elif Path(name).is_file():
        text, source = files.read_text(Path(name), limit=LIMIT), Path(name).name
    else:
        fix = check.did_you_mean(name, every_recipe()) or "`meninx recipes` lists them"
        raise ConfigError(expected("a recipe name or a TOML file", got=repr(name), where="--recipe", fix=fix))
    try:
        return tomllib.loads(text), source
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(expected("valid TOML", got=str(error), where=source)) from error
    except RecursionError as error:
        raise ConfigError(
            expected("valid TOML", got="brackets in brackets without end", where=source)
        ) from error


def warn_of_old_layout(kind: type[Settings], table: Mapping[str, Any], source: str) -> None:
    """Warn if a recipe has settings outside their tables, in the layout of earlier versions."""
    loose = sorted(key for key in table if is_loose(kind, key, table[key]))
    if loose:
        path = ".".join(index(kind)[loose[0]][0])
        warnings.warn(
            f"{source} has the flat layout of an earlier version ({loose[0]} is now {path}); it is "
            "read as before. "
            f"`meninx recipes --convert FILE` prints it in tables",
            OldLayout,
            stacklevel=2,
        )


def knows(kind: type[Settings], table: Mapping[str, Any]) -> bool:
    """Return whether a config has all top-level keys of a recipe."""
    return all(key in tables(kind) or key in index(kind) for key in table)


def is_loose(kind: type[Settings], key: str, value: Any) -> bool:
    """Return whether a top-level key of a recipe belongs in a table."""
    inside = key in tables(kind) and isinstance(value, Mapping)
    return key in index(kind) and len(index(kind)[key][0]) > 1 and not inside


# the parts


@_cached
def _fields(kind: type[Settings]) -> tuple[Field, ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    items = dataclasses.fields(kind)  # type: ignore[arg-type]
    return tuple(Field(item.name, hints[item.name], item.metadata.get("flat", item.name)) for item in items)


@functools.cache
def _table_class(hint: Any) -> type[Settings] | None:
    hint = without_none(hint)
    return hint if isinstance(hint, type) and issubclass(hint, Settings) else None


def _table(kind: type[Settings], key: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = {item.name: item for item in _fields(tables(kind)[key])}
    result: dict[str, Any] = {}
    for name, value in given.items():
        if name not in fields:
            raise _unknown(kind, (key, name), where)
        result[name] = _converted(fields[name].hint, value, _place(where, f"{key}.{name}"), fields[name].flat)
    return result


def _refuse_no_table(kind: type[Settings], key: str, value: Any, where: str) -> None:
    hint = next(item.hint for item in _fields(kind) if item.name == key)
    if value is not None or without_none(hint) is hint:
        fix = f"write the settings of {key} below a line [{key}]"
        raise ConfigError(expected("a table", got=repr(value), where=_place(where, key), fix=fix))


def _values(config: Settings) -> dict[str, Any]:
    """Return the values of a config, with its tables as mappings."""
    found = {item.name: getattr(config, item.name) for item in _fields(type(config))}
    return {name: _values(value) if isinstance(value, Settings) else value for name, value in found.items()}


def _made(kind: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    below = tables(kind)
    made = {
        name: _made(below[name], value) if name in below and isinstance(value, Mapping) else value
        for name, value in values.items()
    }
    return kind(**made)


def _converted(hint: Any, value: Any, where: str, name: str = "") -> Any:
    """Return a value converted to the type of its setting, which may be a table."""
    table = _table_class(hint)
    if table is not None and isinstance(value, Mapping):
        return build(table, value, where)
    return value if table and isinstance(value, table) else setting_types.convert(hint, value, where, name)


def _place(where: str, key: str) -> str:
    return f"{where}, {key}" if where else key


def _unknown(kind: type[Settings], path: tuple[str, ...], where: str, *, table: bool = False) -> ConfigError:
    """Return the error about an unknown key, which suggests the right table or a similar key."""
    places = {name: ".".join(place) for name, (place, _) in index(kind).items()}
    key, name = ".".join(path), path[-1]
    if len(path) > 1:
        known = [*places.values()]
        same = [place for place in known if place.rpartition(".")[2] == name] or [places.get(name, "")]
        fix = f"did you mean {same[0]!r}?" if same[0] else check.did_you_mean(key, known)
    else:
        fix = check.did_you_mean(name.replace("-", "_"), tables(kind) if table else places)
    return ConfigError(
        expected(
            "a known key",
            got=repr(key),
            where=where or "settings",
            fix=fix or "the page of settings lists the keys",
        )
    )
