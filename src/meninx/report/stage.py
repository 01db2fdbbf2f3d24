"""The stage: folders in, one page (and model cards, when asked) out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meninx.core import files
from meninx.core.errors import UsageError, expected
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.report import card, page
from meninx.report.config import ReportConfig
from meninx.report.context import gather
from meninx.report.verdict import verdicts


@dataclass(frozen=True, kw_only=True)
class ReportResult(Result):
    """A written report.

    Attributes:
        size: bytes of the page.
        verdicts: question -> colour and word.
        missing: what the page says it does not know.
        cards: model cards written.
    """

    size: int
    verdicts: dict[str, str]
    missing: tuple[str, ...]
    cards: tuple[Path, ...] = ()


def run(config: ReportConfig, sources: Sequence[Path], out: Path, *, progress: Progress = SILENT) -> ReportResult:
    """Write the report of ``sources`` to ``out``.

    Args:
        config: title, limits, and what the model card needs.
        sources: output folders of deid, prepare and train, in any number and order, or folders of them.
        out: HTML file to write; a folder gets ``report.html``.
        progress: shown to the user.

    Raises:
        UsageError: a source holds nothing to report, or a file to write exists and ``overwrite`` is off.
        DataError: a summary cannot be read, or the model card would have an empty field.
    """
    page_path = out / "report.html" if out.is_dir() else out
    with task(progress, "report", 3):
        context = gather(config, sources)
        progress.advance()
        written = {page_path: page.render(context)}
        progress.advance()
        cards = {item.root / "release" / "MODEL_CARD.md": card.render(context, item) for item in context.runs if config.card}
        written |= cards
        for path in written:
            if path.exists() and not config.overwrite:
                raise UsageError(
                    expected("a new file", got="one that exists", where=str(path), fix="give --overwrite or another name")
                )
        for path, text in written.items():
            files.write_text(path, text)
        progress.advance()
    answers = {item.question: f"{item.colour}: {item.word}" for item in verdicts(context)}
    size = page_path.stat().st_size
    return ReportResult(out=page_path, size=size, verdicts=answers, missing=context.missing, cards=tuple(cards))
