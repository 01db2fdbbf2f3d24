"""Progress reporting, independent of the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """A display of progress: a bar on the command line, nothing in tests."""

    def start(self, label: str, total: int | None) -> None:
        """Begin a task of ``total`` units (None if unknown)."""

    def advance(self, count: int = 1, **fields: float | str) -> None:
        """Report ``count`` more completed units; ``fields`` are shown beside the bar (loss, epsilon)."""

    def finish(self) -> None:
        """End the current task."""

    def note(self, message: str) -> None:
        """Show one line to the user."""


class Silent:
    """A progress display that shows nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Do nothing."""

    def advance(self, count: int = 1, **fields: float | str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Do nothing."""


SILENT = Silent()


@contextmanager
def task(progress: Progress, label: str, total: int | None) -> Iterator[Progress]:
    """Run one task of a progress display and end it, also after an error."""
    progress.start(label, total)
    try:
        yield progress
    finally:
        progress.finish()
