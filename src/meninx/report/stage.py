"""The stage: folders in, one page (and model cards, when asked) out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from meninx.core import artifacts, files, names, workspace
from meninx.core.artifacts import DeidRecord, EvaluationRecord, RunRecord, RunState
from meninx.core.errors import ConfigError, DataError, UsageError, expected, problem
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Manifest
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.obfuscate import sealed_audit
from meninx.report import audits, card, contact_sheet, obfuscation_figures, page, sources
from meninx.report.config import ReportConfig
from meninx.report.context import gather
from meninx.report.verdict import verdicts

AUDIT_PAGE = "audit.html"
"""In the folder ``audit/`` of a run."""
RELEASE_PAGE = "report.html"
"""In the folder of an obfuscated dataset, or of the audit of one."""
_PAGES = (".html", ".htm")
_MARK = b'<meta name="generator" content="meninx">'  # in every page
_HEAD = 4096  # bytes of a page that hold the mark


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

    def summary(self) -> str:
        """Return the verdicts, what was written and what the page does not know, one a line."""
        width = max(map(len, self.verdicts), default=0)
        lines = [
            f"out: {self.out}",
            *(f"{question:<{width}}  {answer}" for question, answer in self.verdicts.items()),
        ]
        lines += [f"card: {path}" for path in self.cards]
        return "\n".join(
            [
                *lines,
                *(["not known or not shown:"] if self.missing else []),
                *(f"  {item}" for item in self.missing),
            ]
        )


def run(
    config: ReportConfig, folders: Sequence[Path], out: Path, *, progress: Progress = SILENT
) -> ReportResult:
    """Write the report of ``folders`` to ``out``. Nothing is written before all of it is rendered.

    Args:
        config: title, limits, and what the model card needs.
        folders: output folders of deid, prepare, train, sweep and federate, in any number and order, or
            folders of them.
        out: HTML file to write; a folder gets ``report.html``.
        progress: shown to the user.

    Raises:
        ConfigError: a model card is wanted and what a person has to say is not given; names all of it.
        UsageError: a source holds nothing to report, is given twice, a file to write exists and ``overwrite``
            is off, or the page would lie in a dataset or an archive.
        DataError: a record cannot be read or contradicts another, or a model card would have an empty field.
        RunLocked: the release of a run that is being trained or measured would be written to.
        PrivacyRefusal: a privacy record contradicts its ledger, or a contact sheet would show images of a
            private run.
    """
    page_path = out / "report.html" if out.is_dir() else out
    _refuse_incomplete_card(config, folders)
    refuse_page(page_path, overwrite=config.overwrite, in_release=True)
    with task(progress, "report", 3):
        context = gather(config, folders)
        contact_sheet.refuse(context, page_path)
        progress.advance()
        wanted = [*context.runs, *context.unfinished] if config.card else []
        cards = {item.root / "release" / card.NAME: item for item in wanted}
        _refuse_existing(cards, config)
        written = {path: card.render(context, item) for path, item in cards.items()}
        written[page_path] = page.render(context)
        progress.advance()
        _publish(written, [Run(item.root) for item in (*context.runs, *context.unfinished)])
        progress.advance()
    answers = {item.question: f"{item.colour}: {item.word}" for item in verdicts(context)}
    size = page_path.stat().st_size
    return ReportResult(
        out=page_path, size=size, verdicts=answers, missing=context.missing, cards=tuple(cards)
    )


def refuse_page(page_path: Path, *, overwrite: bool, in_release: bool = False) -> None:
    """Refuse a place for a page where it would replace anything but an earlier page of this program.

    Args:
        page_path: HTML file.
        overwrite: an earlier page may be replaced.
        in_release: whether the page may lie in a release, and be released with the model.

    Raises:
        UsageError: it is no HTML file, lies in a private folder, dataset, archive or, without
            ``in_release``, release, or another file is there.
    """
    if page_path.suffix.lower() not in _PAGES:
        got, fix = page_path.name, "give a name such as page.html"
        raise UsageError(
            expected(f"a file that ends in {' or '.join(_PAGES)}", got=got, where="out", fix=fix)
        )
    folders = (page_path.absolute(), *page_path.absolute().parents)
    marks = (
        INFO_NAME,
        artifacts.place(DeidRecord),
    )  # of folders that older versions made, which have no marker
    made = [folder for folder in folders if any((folder / mark).is_file() for mark in marks)]
    workspace.outside(page_path, made, in_release=in_release)
    if page_path.exists() and not overwrite:
        raise UsageError(problem("the file exists already", where=str(page_path), fix="give --overwrite"))
    if page_path.is_symlink() or (page_path.exists() and not _is_page(page_path)):
        what = "the file is not a page of meninx, and is not replaced"
        raise UsageError(problem(what, where=str(page_path), fix="give another name"))


def _is_page(path: Path) -> bool:
    if not path.is_file():
        return False
    with files.regular(path) as stream:
        return _MARK in stream.read(_HEAD)


def write_audit_page(folder: Path, page_path: Path) -> Path:
    """Write the page of a run's audit from its records, and return its path.

    Args:
        folder: the run folder.
        page_path: HTML file; an earlier one is replaced.

    Raises:
        DataError: the run was not audited, or the audit is stale or damaged.
    """
    root = folder.resolve()
    record = artifacts.require(root, RunRecord, fix="give the folder of a finished run")
    found = audits.read(root, record)
    if found is None:
        raise DataError(problem("the run was not audited", where=root.name, fix="run `meninx audit RUN`"))
    files.write_text(page_path, page.render_audit(names.printable(record.name), found))
    return page_path


def write_release_page(folder: Path, *, progress: Progress = SILENT) -> Path:
    """Write the page of an obfuscated dataset into its folder from its records, and return its path.

    It shows images of the release, which lie beside it; where no dataset is in the folder, none.

    Args:
        folder: of the release, or of the audit of a release of another program.
        progress: shows the work.

    Raises:
        UsageError: the folder holds neither, or a file of that name which is no page of meninx.
        DataError: a record is damaged, was changed, or belongs to another dataset.
    """
    root = folder.resolve()
    place = root / RELEASE_PAGE
    with task(progress, "page of the release", 1):
        refuse_release_page(root)
        found = sources.release(root)
        held = (root / INFO_NAME).is_file() and (root / MANIFEST_NAME).is_file()
        sheet = obfuscation_figures.released_images(found, Manifest.read(root)) if held else None
        files.write_text(place, page.render_release(found, sheet))
        sealed_audit.seal(root)
        progress.advance()
    return place


def refuse_release_page(folder: Path) -> None:
    """Refuse a folder whose file of the page's name is no page of this program, before anything slow.

    Raises:
        UsageError: as above.
    """
    place = folder / RELEASE_PAGE
    if place.is_symlink() or (place.exists() and not _is_page(place)):
        what = "the file is not a page of meninx, and is not replaced"
        raise UsageError(problem(what, where=RELEASE_PAGE, fix="move it elsewhere"))


def _refuse_incomplete_card(config: ReportConfig, sources: Sequence[Path]) -> None:
    """Name at once everything that a model card lacks, before anything slow."""
    if not config.card:
        return
    needed = {
        "license": config.license,
        "authors": config.authors,
        "contact": config.contact,
        "intended use": config.intended_use,
    }
    missing = [name for name, value in needed.items() if not value.strip()]
    flags = " ".join(f"--{name.replace(' ', '-')}" for name in missing)
    unmeasured = [folder for folder in sources if _lacks_evaluation(folder)]
    if not missing and not unmeasured:
        return
    lacks = [*missing, *(f"an evaluation of {names.printable(folder.name)}" for folder in unmeasured)]
    fixes = [f"give {flags}"] if missing else []
    fixes += [f"run `meninx evaluate {folder}`" for folder in unmeasured]
    fix = f"{', '.join(fixes)}, or leave --card out"
    kind = ConfigError if missing else DataError
    raise kind(problem(f"the model card lacks {', '.join(lacks)}", where="card", fix=fix))


def _lacks_evaluation(folder: Path) -> bool:
    """Return whether a folder is a finished run of a stage that was not measured; the page judges others."""
    record = Run(folder).record if (folder / artifacts.place(RunRecord)).is_file() else None
    finished = record is not None and record.state is RunState.RELEASED
    measured = (folder / artifacts.place(EvaluationRecord)).is_file()
    return record is not None and finished and not record.own_loop and not measured


def _refuse_existing(paths: Sequence[Path] | Mapping[Path, object], config: ReportConfig) -> None:
    for path in paths:
        if path.exists() and not config.overwrite:
            raise UsageError(
                problem("the file exists already", where=str(path), fix="give --overwrite or another name")
            )


def _publish(texts: Mapping[Path, str], known: Sequence[Run]) -> None:
    """Write all files, and enter those in the release of a run into its list of digests."""
    added = {run: [path for path in texts if path.resolve().is_relative_to(run.release)] for run in known}
    with ExitStack() as stack:
        touched = [run for run, paths in added.items() if paths]
        for run in touched:
            if run.private.is_dir():
                stack.enter_context(run.lock())
        _write(texts)
        for run in touched:
            run.enlist(added=[path.resolve() for path in added[run]])


def _write(texts: Mapping[Path, str]) -> None:
    """Write all files, or none: each takes its place only after all are on the disk."""
    with ExitStack() as stack:
        streams = [(stack.enter_context(files.atomic(path)), text) for path, text in texts.items()]
        for stream, text in streams:
            stream.write(text.encode())
