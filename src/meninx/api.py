"""The public functions of meninx: one per stage, from folders and settings to a small result.

``import meninx`` offers them lazily. Settings are keyword arguments with the names of the flags, and are
checked like them; docs/reference/settings.md describes each. ``progress`` may be a
:class:`meninx.core.progress.Progress`. Nothing heavy is imported before a function is called.

    >>> import meninx
    >>> names = sorted(name for name in meninx.__all__ if not name.startswith(("_", "audit_")))
    >>> print(*names[:6], sep=", ")
    audit, compare_releases, deidentify, dossier, evaluate, load_model
    >>> print(*names[6:-5], sep=", ")
    new_key, obfuscate, obfuscate_features, predict, prepare, report
    >>> print(*names[-5:], sep=", ")
    simulate, sweep, train, train_and_report, verify
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from meninx._settings import (
    AuditSettings,
    DeidSettings,
    DossierSettings,
    EvaluateSettings,
    PredictSettings,
    PrepareSettings,
    ReportSettings,
    StudySettings,
    TrainSettings,
    VerifySettings,
)
from meninx.core import provenance
from meninx.core import settings as config_settings
from meninx.core.errors import UsageError
from meninx.core.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import nn

    from meninx.audit.stage import AuditResult
    from meninx.deid.deid_result import DeidResult
    from meninx.dossier.stage import DossierResult
    from meninx.federated.simulate import SimulateResult
    from meninx.predict.stage import PredictResult
    from meninx.prepare.stage import PrepareResult
    from meninx.report.stage import ReportResult
    from meninx.train.config import TrainConfig
    from meninx.train.evaluate import EvaluateResult
    from meninx.train.stage import TrainResult
    from meninx.train.sweep import SweepResult
    from meninx.verify.dicom_result import DicomCheckResult
    from meninx.verify.stage import VerifyResult
    from meninx.workflow import ReportedRun

StrPath = str | Path
_HERE = "meninx"

__version__ = provenance.version()


def new_key(path: StrPath) -> None:
    """Make a site key for :func:`deidentify`; an existing file is never replaced.

    Raises:
        PrivacyRefusal: the file exists.
        StorageError: it cannot be written.
    """
    from meninx.deid.identity.keys import make_key

    make_key(Path(path))


def deidentify(
    source: StrPath,
    out: StrPath,
    *,
    key: StrPath,
    progress: Progress = SILENT,
    **settings: Unpack[DeidSettings],
) -> DeidResult:
    """De-identify the DICOM files below ``source`` into ``out``.

    Args:
        source: folder of DICOM files.
        out: folder of the clean archive, not inside the source.
        key: file with the site key (:func:`new_key`).
        progress: shows the files.
        **settings: those of ``meninx deid``.

    Guarantee: see :mod:`meninx.deid`.

    Raises:
        UsageError, ConfigError, DataError: see ``meninx.deid.stage.run``.
    """
    from meninx.deid.config import DeidConfig
    from meninx.deid.stage import run

    config = config_settings.build(DeidConfig, {"key": Path(key), **settings}, _HERE)
    return run(config, Path(source), Path(out), progress=progress)


def prepare(
    source: StrPath | Sequence[StrPath],
    out: StrPath,
    *,
    progress: Progress = SILENT,
    **settings: Unpack[PrepareSettings],
) -> PrepareResult:
    """Make a dataset of ``source`` in ``out``: images, labels, splits by patient.

    Args:
        source: folder, or several folders, one per site.
        out: folder of the dataset, not inside a source.
        progress: shows the cases.
        **settings: those of ``meninx prepare``.

    Raises:
        UsageError, ConfigError, DataError: see ``meninx.prepare.stage.run``.
    """
    from meninx.prepare.config import PrepareConfig
    from meninx.prepare.stage import run

    sources = Path(source) if isinstance(source, (str, Path)) else [Path(item) for item in source]
    return run(config_settings.build(PrepareConfig, settings, _HERE), sources, Path(out), progress=progress)


def train(
    data: StrPath,
    *,
    model: nn.Module | str | None = None,
    out: StrPath | None = None,
    recipe: str = "",
    resume: StrPath | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
    **settings: Unpack[TrainSettings],
) -> TrainResult:
    """Train on a prepared dataset, privately when ``epsilon`` or ``noise_multiplier`` is given.

    Args:
        data: prepared dataset folder.
        model: name of a network, or any ``nn.Module`` that takes the dataset's images and gives one output
            per label; it is trained in place, from the weights it has.
        out: folder of runs; ``runs`` by default.
        recipe: packaged recipe or TOML file; settings win over it.
        resume: run folder to continue with its own settings; a run with a network of its own needs ``model``
            again.
        dry_run: check, calibrate and count, and write nothing.
        progress: shows steps, loss and epsilon.
        **settings: those of ``meninx train``; a mapping for a table such as ``privacy`` adds to the recipe's.

    Guarantee: with privacy, see :class:`meninx.privacy.Plan`; ``result.privacy`` states what was spent.

    Raises:
        UsageError: settings beside ``resume``, which the run would ignore; names them. See also
            ``meninx.train.stage.run``.
    """
    config, network = _training(model, recipe, resume, out, settings)
    return _trained(config, data, out, recipe, resume, progress, network, dry_run=dry_run).training


def train_and_report(
    data: StrPath,
    page: StrPath,
    *,
    archives: Sequence[StrPath] = (),
    model: nn.Module | str | None = None,
    out: StrPath | None = None,
    recipe: str = "",
    resume: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[TrainSettings],
) -> ReportedRun:
    """Train on a prepared dataset, measure the run on the test split, and write its report to one HTML file.

    It is `meninx train DATA --report PAGE`: :func:`train`, :func:`evaluate` and :func:`report` with default
    settings of the last two.

    Args:
        data: prepared dataset folder.
        page: HTML file to write; it must not exist.
        archives: clean archives to describe on the page.
        model: as for :func:`train`.
        out: folder of runs; ``runs`` by default.
        recipe: packaged recipe or TOML file; settings win over it.
        resume: run folder to continue with its own settings.
        progress: shows the work.
        **settings: those of ``meninx train``.

    Returns:
        The results of the training, the evaluation and the report.

    Raises:
        UsageError, DataError: the page cannot be written, which is checked before the training; or as the
            three functions raise.
    """
    config, network = _training(model, recipe, resume, out, settings)
    places = [Path(item) for item in archives]
    return _trained(config, data, out, recipe, resume, progress, network, page=Path(page), archives=places)


def _training(
    model: nn.Module | str | None,
    recipe: str,
    resume: StrPath | None,
    out: StrPath | None,
    settings: Mapping[str, Any],
) -> tuple[TrainConfig, nn.Module | None]:
    """Return the settings of a training, and the network of a caller who gives one.

    Raises:
        UsageError: an argument would be ignored, or is a class.
    """
    named = isinstance(model, str)
    if isinstance(model, type):
        raise UsageError(f"model is the class {model.__name__}: give an object, {model.__name__}(...)")
    if model is not None and not named and settings.get("model_options"):
        raise UsageError("model_options have no effect on your own network; give them to its constructor")
    idle = [
        *settings,
        *(["recipe"] if recipe else []),
        *(["out"] if out is not None else []),
        *(["model"] if named else []),
    ]
    if resume is not None and idle:
        fix = "leave them out, or start a new run without resume"
        raise UsageError(f"a resumed run keeps its own settings and would ignore {', '.join(idle)}; {fix}")
    config = _train_config(recipe, {**settings, **({"model": model} if named else {})})
    return config, None if model is None or isinstance(model, str) else model


def _trained(
    config: TrainConfig,
    data: StrPath,
    out: StrPath | None,
    recipe: str,
    resume: StrPath | None,
    progress: Progress,
    network: nn.Module | None,
    **more: Any,
) -> ReportedRun:
    from meninx import workflow

    return workflow.train(
        config,
        Path(data),
        Path(out or "runs"),
        progress=progress,
        resume=None if resume is None else Path(resume),
        recipe=recipe or None,
        network=network,
        **more,
    )


def evaluate(
    run: StrPath,
    *,
    data: StrPath | None = None,
    model: nn.Module | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[EvaluateSettings],
) -> EvaluateResult:
    """Measure a finished run, by default on the test split of its own dataset.

    Args:
        run: run folder.
        data: another prepared dataset.
        model: the network of a run that was given one of its own; a copy of it is filled.
        progress: shows the cases.
        **settings: those of ``meninx evaluate``.

    Raises:
        DataError, UsageError: see ``meninx.train.evaluate.run``.
    """
    from meninx.train.config import EvaluateConfig
    from meninx.train.evaluate import run as measure

    if isinstance(model, (str, type)):
        raise UsageError("model is for a run with its own network: give that network, an nn.Module object")
    config = config_settings.build(EvaluateConfig, settings, _HERE)
    return measure(config, Path(run), None if data is None else Path(data), progress=progress, network=model)


def predict(
    run: StrPath,
    source: StrPath,
    out: StrPath,
    *,
    model: nn.Module | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[PredictSettings],
) -> PredictResult:
    """Predict new images with a trained model, and write a table of probabilities and label maps to ``out``.

    Args:
        run: run folder, its ``release/``, or the ``bundle/`` in it, also copied to another machine.
        source: DICOM, PNG, JPEG, TIFF or NIfTI, a file or a folder; or a prepared dataset.
        out: folder of the predictions.
        model: the network of a run that was given one of its own; a copy of it is filled.
        progress: shows the images.
        **settings: those of ``meninx predict``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.predict.stage.run``.
    """
    from meninx.predict.config import PredictConfig
    from meninx.predict.stage import run as predicted

    if isinstance(model, (str, type)):
        raise UsageError("model is for a run with its own network: give that network, an nn.Module object")
    config = config_settings.build(PredictConfig, settings, _HERE)
    return predicted(config, Path(run), Path(source), Path(out), progress=progress, network=model)


def load_model(run: StrPath, *, model: nn.Module | None = None) -> nn.Module:
    """Return the trained network of a run, in evaluation mode, on the CPU; its outputs are logits.

    Args:
        run: run folder.
        model: the network of a run that was given one of its own; it is filled and returned.

    Raises:
        UsageError: not a run folder.
        DataError: no weights, damaged ones, or those of another network.
    """
    from meninx.core.run import open_run
    from meninx.learn.inference import load_model as load

    return load(open_run(Path(run)), network=model)[0]


def sweep(
    data: StrPath,
    out: StrPath,
    *,
    epsilons: Sequence[float] | float,
    seeds: Sequence[int] | int = (0, 1, 2),
    model: str = "",
    recipe: str = "",
    non_private: bool = True,
    progress: Progress = SILENT,
    **settings: Unpack[TrainSettings],
) -> SweepResult:
    """Train over epsilons and seeds, and tabulate utility against epsilon.

    Args:
        data: prepared dataset folder.
        out: folder of the sweep.
        epsilons: one private run for each, and each seed.
        seeds: of initialisation and order.
        model: name of the network.
        recipe: packaged recipe or TOML file; settings win over it.
        non_private: also train without privacy.
        progress: shows the runs.
        **settings: those of ``meninx train``.

    Raises:
        UsageError, ConfigError, DataError: see ``meninx.train.sweep.run``.
    """
    from meninx.train.config import SweepConfig
    from meninx.train.sweep import run

    grid = {"epsilons": _listed(epsilons), "seeds": _listed(seeds), "non_private": non_private}
    given = {**settings, **({"model": model} if model else {}), **grid}
    config = config_settings.resolve_recipe(SweepConfig, recipe, (given, _HERE))
    return run(config.training, config.grid, Path(data), Path(out), progress=progress, recipe=recipe or None)


def simulate(
    sites: Sequence[StrPath],
    out: StrPath,
    *,
    recipe: str = "",
    baselines: bool = False,
    device: str = "auto",
    progress: Progress = SILENT,
    **settings: Unpack[StudySettings],
) -> SimulateResult:
    """Train prepared datasets together as sites of a federated study, in this process.

    Args:
        sites: prepared dataset folders, one per site.
        out: folder of the simulation.
        recipe: packaged recipe or TOML file of ``meninx train``, or a study's; settings win over it.
        baselines: also train each site alone and all data pooled.
        device: where networks run.
        progress: shows the rounds.
        **settings: those of ``meninx federate new``.

    Raises:
        UsageError, ConfigError, DataError, PrivacyRefusal: see ``meninx.federated.simulate.run``.
    """
    from meninx.federated.config import StudyConfig
    from meninx.federated.simulate import run

    config = config_settings.resolve_recipe(StudyConfig, recipe, (settings, _HERE))
    folders = [Path(site) for site in sites]
    return run(config, folders, Path(out), baselines=baselines, device=device, progress=progress)


def report(
    sources: StrPath | Sequence[StrPath],
    out: StrPath,
    *,
    progress: Progress = SILENT,
    **settings: Unpack[ReportSettings],
) -> ReportResult:
    """Write the report of some folders (clean archives, datasets, runs, sweeps) to one HTML file.

    Args:
        sources: the folders, or one.
        out: the HTML file.
        progress: shows the sections.
        **settings: those of ``meninx report``.

    Raises:
        UsageError, DataError: see ``meninx.report.stage.run``.
    """
    from meninx.report.config import ReportConfig
    from meninx.report.stage import run

    config = config_settings.build(ReportConfig, settings, _HERE)
    folders = [sources] if isinstance(sources, (str, Path)) else sources
    return run(config, [Path(item) for item in folders], Path(out), progress=progress)


def dossier(
    sources: StrPath | Sequence[StrPath],
    out: StrPath,
    *,
    key: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[DossierSettings],
) -> DossierResult:
    """Write an egress dossier, from which an output checker can decide on the release of a run's model.

    Args:
        sources: the run, all others on its patients, their dataset and clean archives; or one folder.
        out: folder of the dossier.
        key: file of the secret key that signs it, made on first use; unsigned without one.
        progress: shows the parts.
        **settings: see ``meninx.dossier.config.DossierConfig``.

    Guarantee: see ``meninx.dossier.stage.run``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.dossier.stage.run``.
    """
    from meninx.dossier.config import DossierConfig
    from meninx.dossier.stage import run

    config = config_settings.build(DossierConfig, settings, _HERE)
    folders = [sources] if isinstance(sources, (str, Path)) else sources
    secret = Path(key) if key is not None else None
    return run(config, [Path(item) for item in folders], Path(out), key=secret, progress=progress)


def audit(
    run: StrPath,
    *,
    plan: StrPath | None = None,
    page: StrPath | None = None,
    data: StrPath | None = None,
    fail_if: Sequence[str] | str = (),
    progress: Progress = SILENT,
    **settings: Unpack[AuditSettings],
) -> AuditResult:
    """Audit a finished run: what is guaranteed, what attacks find, and whether the program keeps its promise.

    It is ``meninx audit RUN``. A refuted guarantee and a met condition are in the result
    (``raise_if_failed()``), not raised.

    Args:
        run: run folder.
        plan: TOML file with the plan; settings win over it.
        page: HTML file to write; by default ``audit/audit.html`` in the run folder.
        data: folder of the run's dataset, where it was moved.
        fail_if: conditions such as ``"tpr@fpr=0.01 > 0.05"``, or one.
        progress: shows the parts.
        **settings: those of ``meninx audit``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.audit.stage.run``.
    """
    from meninx import workflow
    from meninx.audit.plan_config import AuditConfig

    config = config_settings.resolve_recipe(AuditConfig, str(plan) if plan else "", (settings, _HERE))
    conditions = [fail_if] if isinstance(fail_if, str) else fail_if
    place, moved = (None if given is None else Path(given) for given in (page, data))
    return workflow.audit(config, Path(run), place, data=moved, fail_if=conditions, progress=progress)


def verify(
    folder: StrPath,
    *,
    signer: str = "",
    decision: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[VerifySettings],
) -> VerifyResult | DicomCheckResult:
    """Check that a folder is as meninx wrote it, or what DICOM files of another origin still hold.

    A failed check is in the result (``ok``, ``exit_code``), not raised.

    Args:
        folder: the folder.
        signer: fingerprint of the key that a dossier has to be signed with; empty for any.
        decision: filled-in form of a dossier.
        progress: shows the files.
        **settings: for DICOM files of another origin: :class:`meninx.verify.config.DicomCheckConfig`.
    """
    from meninx.verify.config import DicomCheckConfig
    from meninx.verify.stage import run

    form = Path(decision) if decision is not None else None
    config = config_settings.build(DicomCheckConfig, settings, _HERE)
    return run(Path(folder), signer=signer, decision=form, config=config, progress=progress)


def _listed(value: Sequence[float] | float) -> tuple[float, ...] | float:
    """Return several numbers as a tuple, and one as it is."""
    return tuple(value) if isinstance(value, Iterable) else value


def _train_config(recipe: str, settings: Mapping[str, Any]) -> TrainConfig:
    from meninx.train.config import TrainConfig

    return config_settings.resolve_recipe(TrainConfig, recipe, (settings, _HERE))
