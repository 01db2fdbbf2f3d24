"""Progress reporting, independent of the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Something that shows progress; the command line gives a bar, tests give nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Begin a task of ``total`` units (None when unknown)."""

    def advance(self, count: int = 1, **fields: float | str) -> None:
        """Report ``count`` more units done; ``fields`` are shown beside the bar (loss, epsilon)."""

    def finish(self) -> None:
        """End the current task."""

    def note(self, message: str) -> None:
        """Show one line to a person."""


class Silent:
    """Progress that nobody watches."""

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
    """Run one task of a progress display and end it whatever happens."""
    progress.start(label, total)
    try:
        yield progress
    finally:
        progress.finish()
