"""Every error that meninx raises on purpose, and the exit code of each.

The tree::

    MeninxError             1   a bug; nothing below fits
    ├── UsageError          2   the command line or a recipe has no valid meaning
    │   └── ConfigError     2   a setting is out of range; the message names file and key
    ├── DataError           3   input unreadable, missing, or inconsistent
    │   ├── LayoutError     3   a dataset folder or table does not have the published layout
    │   ├── RunLocked       3   another process holds the folder
    │   └── StorageError    3   the disk is full, read-only or refuses the write
    ├── PrivacyRefusal      4   a privacy guard refuses (no key, BatchNorm under DP, budget spent)
    ├── AuditFinding        5   an audit refuted a claimed guarantee
    └── Interrupted       130   stopped by the user or the system; finished work is saved

A message states what is wrong, where, and what to do: ``expected X, got Y (where); fix`` or ``problem
(where); fix``. It never contains a patient's value; an attribute keyword and a row number or a keyed digest
replace it.
"""

from __future__ import annotations


class MeninxError(Exception):
    """The root of the tree; its attribute ``exit_code`` is that of the process."""

    exit_code: int = 1


class UsageError(MeninxError):
    """The command or recipe cannot be carried out as written."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting has a value out of its range, or an unknown name."""


class DataError(MeninxError):
    """Input is missing, unreadable or inconsistent with itself."""

    exit_code = 3


class LayoutError(DataError):
    """A dataset folder or table does not have the published layout."""


class StorageError(DataError):
    """The disk refused a write; whatever was complete is still there."""


class PrivacyRefusal(MeninxError):
    """Continuing would break a privacy guarantee, so the program stops."""

    exit_code = 4


class AuditFinding(MeninxError):
    """An audit refuted a claimed guarantee; its result has been printed."""

    exit_code = 5


class RunLocked(DataError):
    """Another process is writing to this run folder."""


class Interrupted(MeninxError):
    """The user stopped the program; state is saved."""

    exit_code = 130


def expected(what: str, *, got: object, where: str, fix: str = "") -> str:
    """Return the message ``expected <what>, got <got> (<where>); <fix>``.

    >>> expected("one size per axis", got=(64, 64, 1), where="size", fix="give two")
    'expected one size per axis, got 64, 64, 1 (size); give two'

    Args:
        what: the rule, in words, e.g. ``"0 < delta < 1"``.
        got: the value found; never a patient's. Several values are listed in words.
        where: file, key, row or argument name.
        fix: what to do about it; left out when empty.
    """
    message = f"expected {what}, got {in_words(got)} ({_on_one_line(where)})"
    return f"{message}; {fix}" if fix else message


def in_words(value: object) -> str:
    """Return a value in words: lists without brackets and quotes, empty values as ``none``.

    >>> in_words((1.0, 3.0)), in_words(["flip", "shift"]), in_words({}), in_words({"base": 16})
    ('1, 3', 'flip, shift', 'none', 'base = 16')
    """
    if value is None or (isinstance(value, (tuple, list, dict, set, frozenset)) and not value):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name} = {in_words(item)}" for name, item in value.items())
    if isinstance(value, (set, frozenset)):
        return in_words(sorted(value, key=str))
    if isinstance(value, (tuple, list)):
        return ", ".join(in_words(item) for item in value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def problem(what: str, *, where: str = "", fix: str = "") -> str:
    """Return the message ``<what> (<where>); <fix>``.

    Use it where "expected X, got Y" would say the same thing twice, e.g. if something is missing.

    >>> problem("the table has no column 'age'", where="labels.csv", fix="give age_column")
    "the table has no column 'age' (labels.csv); give age_column"

    Args:
        what: the problem as a sentence without a full stop; never a patient's value.
        where: file, key, row or argument name; left out when empty.
        fix: what to do about it; left out when empty.
    """
    message = f"{what} ({_on_one_line(where)})" if where else what
    return f"{message}; {fix}" if fix else message


def _on_one_line(text: str) -> str:
    """Return a place, e.g. a path from the command line, without control characters and line breaks."""
    return "".join(character if character.isprintable() else "?" for character in text)
