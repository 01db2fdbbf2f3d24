"""Recipes on the command line: the same values as in Python, with the types of TOML.

The parser of the command line carries a recipe's values as text and reads each by the type of its setting.
Options of a
network have no declared type: they pass by that way untouched. Given as flags they are read as TOML values,
    so
``--model-options.small-stem false`` is ``small_stem = false``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from cyclopts import App, ArgumentCollection, Token
from cyclopts.argument import Argument
from cyclopts.config import Dict

from meninx.core import settings
from meninx.core.errors import ConfigError, UsageError, expected

FREE = dict[str, Any]
_BESIDE_RESUME = {"--resume", "--quiet", "--json", "--verbose"}
WORDS = {"True": True, "False": False}


class TypedRecipe:
    """What a recipe contributes to a command; flags win over it.

    Args:
        table: the recipe's table.
        source: its name, for messages.
    """

    def __init__(self, table: Mapping[str, Any], source: str) -> None:
        self.table, self.source = table, source

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Put the recipe's values into the arguments that no flag gave.

        Raises:
            ConfigError: a value of another type than its setting; names file and key.
        """
        free = {argument.keys[-1]: argument for argument in arguments if argument.hint == FREE}
        _refuse_dashes({name: value for name, value in self.table.items() if name not in free}, self.source)
        rest = {
            name: value
            for name, value in self.table.items()
            if name not in free or not isinstance(value, Mapping)
        }
        for argument in arguments:
            self._check(argument)
        if rest:
            Dict(rest, use_commands_as_keys=False, source=self.source)(app, commands, arguments)
        for name, argument in free.items():
            self._fill(argument, self.table.get(name, {}))

    def _check(self, argument: Argument) -> None:
        """Refuse a value of another type.

        Text that would read as the type is text all the same, as in Python.
        """
        value: Any = self.table
        for key in argument.keys:
            if not isinstance(value, Mapping) or key not in value:
                return
            value = value[key]
        if argument.keys and not argument.children:
            settings.convert(argument.hint, value, f"{self.source}, {'.'.join(argument.keys)}")

    def _fill(self, argument: Argument, table: Mapping[str, Any]) -> None:
        """Give a free table its recipe's values as they are, and on top those of flags."""
        flags: dict[str, Any] = {}
        for token in argument.tokens:
            flags = settings.merged(flags, _nested(token))
        if table or flags:
            values = settings.merged(table, flags)
            argument.tokens[:] = [Token(keyword=argument.name, source=self.source, implicit_value=values)]


def resume_alone(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse flags beside ``train --resume``: the run goes on with its own settings and would ignore them.

    It must see the arguments before a recipe adds to them.

    Raises:
        UsageError: there are such flags; names them.
    """
    given = [argument for argument in arguments if argument.tokens]
    if commands[:1] != ("train",) or not any("--resume" in argument.names for argument in given):
        return
    idle = [
        str(item.tokens[0].keyword or item.name)
        for item in given
        if not _BESIDE_RESUME & set(item.names) and item.tokens[0].keyword
    ]
    if idle:
        fix = "leave them out, or start a new run without --resume"
        raise UsageError(f"a resumed run keeps its own settings and would ignore {', '.join(idle)}; {fix}")


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


def _refuse_dashes(table: Mapping[str, Any], source: str) -> None:
    """Refuse keys in the spelling of flags, which only the command line would understand."""
    for key, value in table.items():
        if "-" in key:
            fix = f"did you mean {key.replace('-', '_')!r}?"
            raise ConfigError(expected("a known key", got=repr(key), where=source, fix=fix))
        if isinstance(value, Mapping):
            _refuse_dashes(value, source)


def _nested(token: Token) -> dict[str, Any]:
    """Return one flag as a table: ``--model-options.small-stem false`` is ``{"small_stem": False}``.

    Raises:
        ConfigError: the flag names no option.
    """
    if not token.keys:
        fix = f"write {token.keyword}.NAME VALUE"
        raise ConfigError(expected("the name of an option", got="none", where=str(token.keyword), fix=fix))
    value = value_of(token.value)
    for key in reversed(list(_names(token.keys))):
        value = {key: value}
    table: dict[str, Any] = value
    return table


def _names(keys: tuple[str, ...]) -> Iterator[str]:
    return (key.replace("-", "_") for key in keys)
