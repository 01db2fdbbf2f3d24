"""One line of a verification: what was looked at, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from meninx.core import names
from meninx.core.errors import MeninxError, PrivacyRefusal
from meninx.core.summaries import number_of

SHOWN = 3  # names in one line; the others are counted


class State(StrEnum):
    """What came of a check."""

    OK = "ok"
    NOT_OK = "not ok"
    NOT_POSSIBLE = "not possible"
    NOT_VERIFIED = "not verified"
    """It could not be made, and without it the folder must not count as verified."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line.

    Attributes:
        folder: name of the folder, relative to the one that was given; empty for that one itself.
        what: what was looked at.
        state: what came of it.
        why: the reason when it is not ok or not possible, or a remark; no name in it can do anything to a
            terminal.
        privacy: a promise to patients depends on it.
        fix: what to do where it is not ok; empty when nothing but a backup helps.
    """

    folder: str
    what: str
    state: State
    why: str = ""
    privacy: bool = False
    fix: str = ""

    def line(self) -> str:
        """Return the line."""
        place = f"{plain(self.folder)}: " if self.folder else ""
        return f"{self.state:<12}  {place}{self.what}{f' ({self.why})' if self.why else ''}"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the checker of a dossier or a clean archive knows from elsewhere.

    Attributes:
        signer: fingerprint that the signer told the checker; empty when it was not given.
        decision: filled-in form of a dossier to check; None when none was given.
    """

    signer: str = ""
    decision: Path | None = None


class CheckList:
    """Collects the lines of one folder."""

    def __init__(self, folder: str = "") -> None:
        self.folder, self.checks = folder, list[Check]()

    def add(self, what: str, state: State, why: str = "", *, privacy: bool = False, fix: str = "") -> None:
        """Add a line."""
        self.checks.append(
            Check(folder=self.folder, what=what, state=state, why=why, privacy=privacy, fix=fix)
        )

    def judge(
        self, what: str, wrong: Iterable[str], *, privacy: bool = False, remark: str = "", fix: str = ""
    ) -> bool:
        """Add a line that is ok when nothing is wrong; return whether it is."""
        found = list(wrong)
        state, why = (State.NOT_OK, "; ".join(found)) if found else (State.OK, remark)
        self.add(what, state, why, privacy=privacy, fix=fix if found else "")
        return not found

    def impossible(self, what: str, why: str) -> None:
        """Add a line for what cannot be checked."""
        self.add(what, State.NOT_POSSIBLE, why)

    def unverified(self, what: str, why: str, *, fix: str = "") -> None:
        """Add a line for what cannot be checked, and without which the folder is not verified."""
        self.add(what, State.NOT_VERIFIED, why, fix=fix)

    def guard(self, what: str, action: Callable[[], None]) -> None:
        """Run checks; a file that cannot be read is a line, not the end of the verification."""
        try:
            action()
        except MeninxError as error:
            self.add(what, State.NOT_OK, plain(str(error)), privacy=isinstance(error, PrivacyRefusal))


def plain(text: str) -> str:
    """Return text without control and direction characters, on one line."""
    return names.printable(text)


def some(every: Iterable[str]) -> str:
    """Return the first few names and the number of the others."""
    listed = sorted(every)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(plain(name) for name in listed[:SHOWN]) + more


def damaged(kind: str, every: tuple[str, ...]) -> list[str]:
    """Return ``3 files missing: a, b, c`` as a list of one, empty without a name."""
    return [f"{number_of(len(every), 'file')} {kind}: {some(every)}"] if every else []
