"""Messages for misspelled flags and settings: unknown flags, unknown keys of a recipe, values of another type."""

from __future__ import annotations

import re
from itertools import chain

from cyclopts import CycloptsError, UnknownOptionError

from meninx.core import check
from meninx.core.errors import expected

COMMAND_LINE = "cli"


def told(error: CycloptsError) -> str:
    """Return one line about an error in arguments or recipe."""
    if isinstance(error, UnknownOptionError) and error.token.source != COMMAND_LINE:
        return _unknown_key(error)
    return str(error)


def _unknown_key(error: UnknownOptionError) -> str:
    """Return the message about a key of a recipe that no setting has; suggests the nearest setting."""
    found = re.findall(r"\[([^]]*)\]", error.token.keyword or "")
    flags = chain.from_iterable(argument.names for argument in error.argument_collection if argument.parse)
    known = [flag.removeprefix("--").replace("-", "_") for flag in flags if flag.startswith("--")]
    key = ".".join(found)
    fix = check.did_you_mean(key, known) or "the page of settings lists the keys"
    return expected("a known key", got=repr(key), where=str(error.token.source), fix=fix)
