"""What several stages do together in one call: train and report, audit or obfuscate and draw the page.

`meninx train --report PAGE`, `meninx audit RUN` and `meninx obfuscate`, with :func:`meninx.train_and_report`,
:func:`meninx.audit` and :func:`meninx.obfuscate`, are this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import workspace
from meninx.core.audit_parts import FOLDER
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result

if TYPE_CHECKING:
    from torch import nn

    from meninx.audit.plan_config import AuditConfig
    from meninx.audit.stage import AuditResult
    from meninx.obfuscate.audited_release import ReleaseAuditResult
    from meninx.obfuscate.config import ObfuscateConfig, ReleaseAuditConfig
    from meninx.obfuscate.feature_stage import FeatureReleaseResult
    from meninx.obfuscate.stage import ObfuscateResult
    from meninx.report.stage import ReportResult
    from meninx.train.config import TrainConfig
    from meninx.train.evaluate import EvaluateResult
    from meninx.train.stage import TrainResult


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """The results of a training and of what followed it.

    Attributes:
        training: of the run.
        evaluation: of its test split; None without a page, and in all but the first process of several.
        report: of the page; None as above.
    """

    training: TrainResult
    evaluation: EvaluateResult | None = None
    report: ReportResult | None = None

    @property
    def results(self) -> tuple[Result, ...]:
        """The results that there are, in the order of the work."""
        return tuple(item for item in (self.training, self.evaluation, self.report) if item is not None)


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    page: Path | None = None,
    archives: Sequence[Path] = (),
    resume: Path | None = None,
    recipe: str | None = None,
    dry_run: bool = False,
    network: nn.Module | None = None,
    progress: Progress = SILENT,
) -> ReportedRun:
    """Train a run and, where a page is asked for, measure it on the test split and report it.

    Args:
        config: settings of the training.
        data: prepared dataset folder.
        out: folder of runs.
        page: HTML file to write; None trains alone.
        archives: clean archives to describe on the page.
        resume: run folder to continue.
        recipe: name or file of the recipe.
        dry_run: check and count, and write nothing.
        network: a network of the caller's own.
        progress: shows the work.

    Raises:
        UsageError, DataError: the page cannot be written (:func:`refuse_page`); see also
            ``meninx.train.stage.run``, ``meninx.train.evaluate.run`` and ``meninx.report.stage.run``.
    """
    refuse_page(page, archives, data, dry_run=dry_run)
    from meninx.learn import distributed
    from meninx.train import stage

    training = stage.run(
        config, data, out, progress=progress, resume=resume, dry_run=dry_run, recipe=recipe, network=network
    )
    if page is None or not distributed.is_main():
        return ReportedRun(training=training)
    from meninx.report import stage as reporting
    from meninx.report.config import ReportConfig
    from meninx.train import evaluate
    from meninx.train.config import EvaluateConfig

    measured = EvaluateConfig(device=config.runtime.device)
    evaluation = evaluate.run(measured, training.out, progress=progress, network=network)
    sources = (*archives, data, training.out)
    report = reporting.run(ReportConfig(), sources, page, progress=progress)
    return ReportedRun(training=training, evaluation=evaluation, report=report)


def refuse_page(page: Path | None, archives: Sequence[Path], data: Path, *, dry_run: bool = False) -> None:
    """Refuse a page that cannot be written, before anything slow.

    Args:
        page: HTML file to write; None for no page.
        archives: clean archives to describe on it.
        data: dataset of the training.
        dry_run: nothing is trained.

    Raises:
        UsageError: the page exists, would lie in the dataset or an archive, or a setting has no effect.
        DataError: there is no such archive.
    """
    if page is None:
        if archives:
            raise UsageError("archives are described on the page of --report: give --report PAGE.html")
        return
    if dry_run:
        raise UsageError("a dry run trains nothing, so there is nothing to report on: leave --report out")
    for path in archives:
        if not path.exists():
            raise DataError(problem("there is no such file or folder", where=str(path), fix="check the path"))
    if page.exists():
        raise UsageError(problem("the file exists already", where=str(page), fix="give another name"))
    workspace.outside(page, [data, *archives], in_release=True)
    from meninx.report import stage as reporting

    reporting.refuse_page(page, overwrite=False, in_release=True)


def audit(
    config: AuditConfig,
    run: Path,
    page: Path | None = None,
    *,
    data: Path | None = None,
    fail_if: Sequence[str] = (),
    progress: Progress = SILENT,
) -> AuditResult:
    """Audit a run, and write the audit's page.

    Args:
        config: the plan, and how it is carried out.
        run: a finished run.
        page: HTML file to write; by default ``audit/audit.html`` in the run folder.
        data: the run's dataset, where it is no longer at the recorded place.
        fail_if: conditions that fail the audit beside those of the plan.
        progress: shows the parts.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.audit.stage.run`` and, for another page than the
            usual one, ``meninx.report.stage.refuse_page``.
    """
    from meninx.audit import stage
    from meninx.report import stage as reporting

    if page is not None:
        reporting.refuse_page(page, overwrite=config.overwrite)
    place = page or run.resolve() / FOLDER / reporting.AUDIT_PAGE
    return stage.run(
        config, run, data=data, fail_if=fail_if, progress=progress,
        write_page=lambda: reporting.write_audit_page(run, place),
    )  # fmt: skip


def obfuscate(
    config: ObfuscateConfig, source: Path, out: Path, *, progress: Progress = SILENT
) -> ObfuscateResult:
    """Release a dataset whose images hide an attribute, attack it, and write its page into its folder.

    Args:
        config: the settings.
        source: prepared dataset of 2-D images with labels.
        out: folder of the release.
        progress: shows the work.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.obfuscate.stage.run``.
    """
    from meninx.obfuscate import stage
    from meninx.report import stage as reporting

    reporting.refuse_release_page(out)
    result = stage.run(config, source, out, progress=progress)
    if result.dry_run:
        return result
    return replace(result, page=reporting.write_release_page(out, progress=progress))


def obfuscate_features(
    config: ObfuscateConfig,
    source: Path,
    out: Path,
    *,
    data: Path | None = None,
    network: nn.Module | None = None,
    progress: Progress = SILENT,
) -> FeatureReleaseResult:
    """Release feature vectors that hide an attribute, attack them, and write the page into their folder.

    Args:
        config: the settings.
        source: folder of a finished run, or a file of feature vectors.
        out: folder of the release.
        data: dataset to embed, where it is not that of the run.
        network: architecture of a run that was given its own network.
        progress: shows the work.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.obfuscate.feature_stage.run``.
    """
    from meninx.obfuscate import feature_stage
    from meninx.report import stage as reporting

    reporting.refuse_release_page(out)
    result = feature_stage.run(config, source, out, data=data, network=network, progress=progress)
    if result.dry_run:
        return result
    return replace(result, page=reporting.write_release_page(out, progress=progress))


def audit_release(
    config: ReleaseAuditConfig,
    original: Path,
    release: Path,
    out: Path | None = None,
    *,
    progress: Progress = SILENT,
) -> ReleaseAuditResult:
    """Attack a released dataset, whoever made it, and write record and page.

    Args:
        config: the settings.
        original: prepared dataset of the original images.
        release: dataset with the same cases and changed images.
        out: folder of record and page; by default the release where meninx made it, else ``release_audit``.
        progress: shows the attackers.

    Raises:
        UsageError, DataError: see ``meninx.obfuscate.audited_release.audit_existing``.
    """
    from meninx.obfuscate import audited_release
    from meninx.report import stage as reporting

    for place in (out,) if out is not None else (release, Path(audited_release.PLACE)):
        reporting.refuse_release_page(place)
    result = audited_release.audit_existing(config, original, release, out, progress=progress)
    return replace(result, page=reporting.write_release_page(result.out, progress=progress))
