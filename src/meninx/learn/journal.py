"""The private training log: metrics.jsonl, and TensorBoard events when asked; both cut back to the step a run resumes from."""

from __future__ import annotations

import json
import math
from types import TracebackType
from typing import Any, Self

from meninx.core import files
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
        if not active:
            return
        self._cut(step)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # only for those who ask: slow to import

            folder = str(run.private / "tensorboard")
            self._writer = SummaryWriter(folder, purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, kind: str, step: int, **values: float) -> None:
        """Append one line ``{"kind": kind, "step": step, ...}``; what is not a finite number becomes null."""
        if not self.active:
            return
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.run.log_metrics(kind=kind, step=step, **plain)
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def _cut(self, step: int) -> None:
        path = self.run.metrics_path
        if not path.is_file():
            return
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        files.write_text(path, "".join(f"{line}\n" for line in lines), mode=0o600)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line).get("step", 0))
    except (json.JSONDecodeError, AttributeError, TypeError):
        return math.inf  # the half-written last line of a killed run
