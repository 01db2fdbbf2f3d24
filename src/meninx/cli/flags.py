"""Flags of a verb: one per setting of its config, with the meaning, choices and range declared there.

A verb that takes a config is decorated with :func:`with_settings`. The parser then sees one keyword per
setting, under its flat name, and the verb receives the config made of the recipe and, on top, of the flags
that were given.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import tomllib
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, Group, Parameter, Token

from meninx.core import setting_types, settings
from meninx.core.errors import ConfigError, UsageError, in_words, problem
from meninx.core.settings import Settings

FREE = dict[str, Any]
WORDS = {"True": True, "False": False}


def with_settings(*everyday: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that makes a verb for the parser: one keyword per setting in place of its config.

    The verb is a function with a parameter ``config`` of a config class; ``recipe`` and ``resume`` (the path
    of a run that goes on with its own settings) may be others.

    Args:
        everyday: flat names of the settings that most users give; ``--help`` shows them first.
    """
    return functools.partial(_with_settings, everyday)


def _with_settings(everyday: tuple[str, ...], verb: Callable[..., None]) -> Callable[..., None]:
    hints = typing.get_type_hints(verb, include_extras=True)
    kind: type[Settings] = hints["config"]
    signature = inspect.signature(verb)
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += (
            _flags(kind, everyday) if name == "config" else [parameter.replace(annotation=hints[name])]
        )

    @functools.wraps(verb)
    def command(*paths: Any, **given: Any) -> None:
        if "resume" in signature.parameters and given.get("resume") is not None:
            _refuse_idle(given)
        known = settings.index(kind)
        flags = {name: _value(known[name][1].hint, given.pop(name)) for name in known.keys() & given.keys()}
        config = settings.resolve_recipe(kind, given.get("recipe"), (flags, "the command line"))
        verb(*paths, config=config, **given)

    described = inspect.cleandoc(verb.__doc__ or "")
    command.__doc__ = re.sub(r"\n {8,}", " ", re.sub(r"\n    config: .*", "", described))  # help wraps itself
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters} | {"return": None}
    return command


def without_tables(arguments: list[str]) -> list[str]:
    """Return arguments with each flag of a table, such as ``--privacy.epsilon``, as the flat ``--epsilon``.

    >>> without_tables(["train", "data", "--privacy.epsilon=8", "--model-options.base", "16"])
    ['train', 'data', '--epsilon=8', '--model-options.base', '16']
    >>> without_tables(["federate", "new", "chest", "--train.epsilon", "8"])
    ['federate', 'new', 'chest', '--train.epsilon', '8']
    """
    return [re.sub(r"^--(?!(?:model-options|train)\.)[a-z]+\.(?=[a-z])", "--", word) for word in arguments]


def value_of(text: str) -> Any:
    """Return a flag's text as a TOML value; text that is none stays text.

    >>> value_of("false"), value_of("16"), value_of("[1, 2]"), value_of("group"), value_of("False")
    (False, 16, [1, 2], 'group', False)
    """
    if text in WORDS:
        return WORDS[text]
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = table["value"]
    return value if len(table) == 1 and isinstance(value, (bool, int, float, str, list, dict)) else text


def read_options(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Read the options of a network, whose types no setting declares, as TOML values.

    ``--model-options.small-stem false`` is ``{"small_stem": False}``. The parser calls this with all
    arguments.

    Raises:
        ConfigError: a flag names no option.
    """
    for argument in arguments:
        if argument.hint == FREE and argument.tokens:
            table: dict[str, Any] = {}
            for token in argument.tokens:
                table = settings.merged(table, _nested(token))
            argument.tokens[:] = [Token(keyword=argument.name, source="cli", implicit_value=table)]


def shown_default(value: Any) -> str | None:
    """Return a default as ``--help`` shows it, in words; None, which hides it, for nothing or an empty text.

    >>> shown_default(("bundle",)), shown_default(()), shown_default(False), shown_default("")
    ('bundle', 'none', 'off', None)
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "on" if value else "off"
    return in_words(value.value if isinstance(value, Enum) else value)


def _flags(kind: type[Settings], everyday: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    """Return the keywords that the parser sees for a config: everyday ones, then in groups as its tables."""
    first, top = Group("Everyday settings", sort_key=1), Group("Settings", sort_key=2)
    groups = {
        name: Group(f"Settings \\[{name}]", sort_key=order)
        for order, name in enumerate(settings.tables(kind), 3)
    }
    meanings, known = settings.meanings(kind), settings.index(kind)
    for name in sorted(known, key=lambda name: everyday.index(name) if name in everyday else len(everyday)):
        path, item = known[name]
        table = groups[path[0]] if len(path) > 1 else top
        shown = Parameter(
            name=f"--{name.replace('_', '-')}",
            group=first if name in everyday else table,
            help=_help(meanings[name], item.hint),
        )
        default = settings.default_of(kind, name)
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if default is dataclasses.MISSING else _default(item.hint, default),
            annotation=Annotated[_parsed(item.hint), shown],
        )


def _help(meaning: str, hint: Any) -> str:
    """Return the meaning of a setting with its range, and with the words that it takes beside numbers."""
    mixed = setting_types.is_mixed(hint)
    words = ", ".join(setting_types.choices(hint) if mixed else setting_types.examples(hint))
    allowed = " or ".join(part for part in (words, setting_types.bounds(hint)) if part)
    return f"{meaning} [{allowed}]" if allowed else meaning


def _parsed(hint: Any) -> Any:
    """Return the type as which the parser reads a flag.

    It has no ranges, and is text where a setting takes a word or a number.
    """
    if not setting_types.is_mixed(hint):
        return setting_types.without_ranges(hint)
    return tuple[str, ...] if _is_several(hint) else str


def _default(hint: Any, default: Any) -> Any:
    """Return a default in the type as which the parser reads the flag.

    The parser checks defaults, too, where pydantic is loaded, as it is beside Flower.
    """
    if default is None or not setting_types.is_mixed(hint):
        return default
    if not _is_several(hint):
        return str(default)
    return tuple(map(str, default)) if isinstance(default, tuple) else (str(default),)


def _is_several(hint: Any) -> bool:
    return any(typing.get_origin(item) is tuple for item in typing.get_args(hint))


def _value(hint: Any, given: Any) -> Any:
    """Return the value of a flag: ``--class-weights balanced``, or numbers as ``1 2`` or ``1,2``."""
    if not setting_types.is_mixed(hint):
        return given
    if not _is_several(hint):
        return given if given in setting_types.choices(hint) else value_of(given)
    words = [word for text in given for word in text.split(",")]
    try:
        return [float(word) for word in words]
    except ValueError:
        return ",".join(words)


def _refuse_idle(given: dict[str, Any]) -> None:
    """Refuse flags beside ``train --resume``: the run goes on with its own settings and would ignore them."""
    used = ("resume", "output", "report", "archives")
    idle = [f"--{name.replace('_', '-')}" for name in given if name not in used]
    if idle:
        fix = "leave them out, or start a new run without --resume"
        raise UsageError(f"a resumed run keeps its own settings and would ignore {', '.join(idle)}; {fix}")


def _nested(token: Token) -> dict[str, Any]:
    """Return one flag as a table: ``--model-options.small-stem false`` is ``{"small_stem": False}``.

    Raises:
        ConfigError: the flag names no option.
    """
    if not token.keys:
        fix = f"write {token.keyword}.NAME VALUE"
        raise ConfigError(problem("the name of the option is missing", where=str(token.keyword), fix=fix))
    value = value_of(token.value)
    for key in reversed(token.keys):
        value = {key.replace("-", "_"): value}
    table: dict[str, Any] = value
    return table
