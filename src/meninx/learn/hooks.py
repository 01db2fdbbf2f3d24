"""The private training log: metrics.jsonl, and TensorBoard events when asked.

Both cut back to the step a run resumes from.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from meninx.core import journal
from meninx.core.run import Run


class Journal:
    """Curves of one run, written line by line.

    Args:
        run: the run folder.
        step: steps done so far; later lines (of a run that was killed) are dropped.
        tensorboard: also write events into ``private/tensorboard``.
        active: write at all; off in all processes of a run but one.
    """

    def __init__(self, run: Run, step: int, *, tensorboard: bool, active: bool = True) -> None:
        self.run, self.active = run, active
        self._writer: Any = None
        self._open = ExitStack()
        if not active:
            return
        lines = journal.Journal(run.metrics_path)
        if lines.path.is_file():
            lines.rewrite([table for table in lines.tables() if _step_of(table) <= step])
        self._lines = self._open.enter_context(lines.appending())
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # only for those who ask: slow to import

            folder = str(run.private / "tensorboard")
            self._writer = SummaryWriter(folder, purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()  # without the error: one of training is not one of this file
        if self._writer is not None:
            self._writer.close()

    def write(self, kind: str, step: int, **values: float) -> None:
        """Append one line ``{"kind": kind, "step": step, ...}``; what is not a finite number becomes null."""
        if not self.active:
            return
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.add({"kind": kind, "step": step, **plain})
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)


def _step_of(table: dict[str, Any]) -> float:
    value = table.get("step", 0)
    return float(value) if isinstance(value, (int, float)) else math.inf
