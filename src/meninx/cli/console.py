"""What a person sees: the result on stdout, progress and messages on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from meninx.core import plain
from meninx.core.progress import Progress as ProgressProtocol
from meninx.core.progress import Silent
from meninx.core.result import Result

PLAIN_STEPS = 10


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """How results and progress are shown.

    Attributes:
        quiet: Show the result only.
        verbose: Show the traceback of an unexpected error.
        json: Print the result as JSON.
    """

    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="")] = False
    json: Annotated[bool, Parameter(negative="")] = False

    def progress(self) -> ProgressProtocol:
        """Return the progress display for this terminal."""
        if self.quiet:
            return Silent()
        return Bar() if sys.stderr.isatty() else PlainLines()

    def screen(self) -> Screen | None:
        """Return the terminal of the progress display; None when there is none to draw on."""
        screen = Screen(stderr=True)
        return None if self.quiet or not screen.is_terminal else screen

    def show(self, *results: Result) -> None:
        """Print results on stdout: as words one after the other, as JSON in one value (several as a list)."""
        if not self.json:
            print("\n\n".join(result.summary() for result in results))
        elif len(results) == 1:
            print(results[0].to_json())
        else:
            print(plain.to_json([result.to_table() for result in results]))
        alerts = () if self.quiet else dict.fromkeys(text for item in results for text in item.alerts())
        for text in alerts:
            Screen(stderr=True).print(
                f"warning: {text}", style="bold", highlight=False, markup=False, soft_wrap=True
            )


class Bar:
    """One bar per task with time left and the latest loss and epsilon."""

    def __init__(self) -> None:
        clocks = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            *clocks,
            TextColumn("{task.fields[shown]}"),
        )
        self._progress = Progress(*columns, console=Screen(stderr=True))
        self._task: TaskID | None = None

    def start(self, label: str, total: int | None) -> None:
        """Show a new bar."""
        self._progress.start()
        self._task = self._progress.add_task(label, total=total, shown="")

    def advance(self, count: int = 1, **fields: float | str) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, count)
            if fields:
                self._progress.update(self._task, shown=_shown(fields))

    def finish(self) -> None:
        """Leave the finished bar on the screen."""
        self._progress.stop()
        self._task = None

    def note(self, message: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(message, highlight=False, markup=False)


class Screen(RichConsole):
    """A terminal; when it is gone, the work goes on without it."""

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True


class PlainLines:
    """A line every ten per cent, for logs and pipes."""

    def __init__(self) -> None:
        self._label, self._total, self._done, self._printed, self._began = "", 0, 0, 0, 0.0

    def start(self, label: str, total: int | None) -> None:
        """Remember the task."""
        self._label, self._total, self._done, self._printed, self._began = (
            label,
            total or 0,
            0,
            0,
            time.monotonic(),
        )

    def advance(self, count: int = 1, **fields: float | str) -> None:
        """Print when another tenth is done."""
        self._done += count
        tenth = self._done * PLAIN_STEPS // self._total if self._total else 0
        if tenth > self._printed:
            self._printed = tenth
            seconds = time.monotonic() - self._began
            self.note(
                f"{self._label}: {self._done}/{self._total}  {seconds:.0f} s  {_shown(fields)}".rstrip()
            )

    def finish(self) -> None:
        """Do nothing; the last tenth was printed."""

    def note(self, message: str) -> None:
        """Print a line on stderr; when nobody reads it any more, the work goes on."""
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)


def _shown(fields: dict[str, float | str]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    )
