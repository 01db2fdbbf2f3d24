"""Names of image channels in the source, and the selection of channels for a dataset."""

from __future__ import annotations

from meninx.core import check
from meninx.core.errors import ConfigError, expected, problem


def numbered(channels: tuple[str, ...]) -> tuple[str, ...]:
    """Return distinct channel names; equal names get their number appended.

    >>> numbered(("MRI", "MRI", "CT"))
    ('MRI_0', 'MRI_1', 'CT')
    """
    return tuple(
        name if channels.count(name) == 1 else f"{name}_{position}" for position, name in enumerate(channels)
    )


def positions_of(asked: tuple[str, ...], known: tuple[str, ...], *, where: str) -> tuple[int, ...]:
    """Return the positions of the channels that the setting ``channels`` names, or all if it is empty.

    Raises:
        ConfigError: a channel is unknown or named twice.
    """
    for name in asked:
        if name not in known:
            fix = check.did_you_mean(name, known) or f"known: {', '.join(known)}"
            raise ConfigError(expected("channels of the source", got=repr(name), where=where, fix=fix))
    if len(set(asked)) != len(asked):
        raise ConfigError(problem("a channel is named twice", where="channels"))
    return tuple(known.index(name) for name in asked) or tuple(range(len(known)))
