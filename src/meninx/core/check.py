"""Range checks with uniform messages, used by every frozen config."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from meninx.core.errors import ConfigError, expected

_SYNONYMS = {
    "learning_rate": "lr",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "network": "model",
    "architecture": "model",
    "sigma": "noise_multiplier",
    "clip_norm": "max_grad_norm",
    "target_epsilon": "epsilon",
    "target_delta": "delta",
    "burned_in": "pixels",  # its name in earlier versions of this program
}
"""Words of other libraries and earlier versions -> the name of the setting here."""


def positive(**values: float | None) -> None:
    """Raise ConfigError unless every value given is finite and > 0; None passes."""
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(expected(f"{name} > 0", got=value, where=name))


def non_negative(**values: float | None) -> None:
    """Raise ConfigError unless every value given is finite and >= 0; None passes."""
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ConfigError(expected(f"{name} >= 0", got=value, where=name))


def is_probability(value: object) -> bool:
    """Return whether a value from an untrusted table is a number from 0 to 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def probability(**values: float | None) -> None:
    """Raise ConfigError unless every value given lies in [0, 1]; None passes."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(expected(f"0 <= {name} <= 1", got=value, where=name))


def open_unit(**values: float | None) -> None:
    """Raise ConfigError unless every value given lies strictly inside (0, 1); None passes."""
    for name, value in values.items():
        if value is not None and not 0 < value < 1:
            raise ConfigError(expected(f"0 < {name} < 1", got=value, where=name))


def one_of(choices: Iterable[str], **values: str | None) -> None:
    """Raise ConfigError unless every value given is one of ``choices``; suggests the nearest."""
    known = sorted(choices)
    for name, value in values.items():
        if value is not None and value not in known:
            raise ConfigError(
                expected(
                    f"{name} to be one of {', '.join(known)}",
                    got=repr(value),
                    where=name,
                    fix=did_you_mean(value, known),
                )
            )


def synonym(name: str) -> str:
    """Return meninx's name of a setting that another library calls ``name``, or an empty string."""
    return _SYNONYMS.get(name.strip("-").rpartition(".")[2].replace("-", "_"), "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name for another library's word, else the most similar one, or an empty string.

    >>> nearest("learning_rate", ["lr", "rates"]), nearest("epoch", ["epochs", "steps"]), nearest("x", ["lr"])
    ('lr', 'epochs', '')
    """
    names = list(known)
    word = synonym(name)
    same = [item for item in names if word and item.rpartition(".")[2] == word]
    return next(iter(same or difflib.get_close_matches(name, names, n=1, cutoff=0.5)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` with the most similar known name, or an empty string."""
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else ""
