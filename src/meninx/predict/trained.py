"""The trained model of `meninx predict`, read from a run folder, its ``release/``, or only a bundle."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from meninx.core import artifacts, check, files, integrity, names
from meninx.core import run as runs
from meninx.core.artifacts import BundleRecord, EvaluationRecord, RunRecord, RunState, ThresholdRecord
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.core.run import Run
from meninx.imaging.preprocessing import Preprocessing
from meninx.learn.config import LearnConfig
from meninx.learn.inference import load_bundle, load_model
from meninx.learn.state_digest import weights_digest
from meninx.metrics.estimates import Evaluation

BUNDLE, EVALUATION = "bundle", Path(artifacts.place(EvaluationRecord)).name
BUNDLE_RECORD = artifacts.place(BundleRecord)
THRESHOLDS = artifacts.place(ThresholdRecord)
_READ = (BUNDLE_RECORD, "models/model.pt", THRESHOLDS)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network with everything that is needed to predict new images.

    Attributes:
        network: the network in evaluation mode, on the CPU.
        config: settings of learning that matter for predictions.
        info: description of the training dataset.
        preprocessing: from a decoded to a stored image; None if the training data did not record it.
        weights: SHA-256 of the network's state.
        run: identity of the run, empty if unknown.
        thresholds: label -> operating threshold.
        thresholds_from: source of the thresholds, or why there are none.
    """

    network: nn.Module
    config: LearnConfig
    info: DatasetInfo
    preprocessing: Preprocessing | None
    weights: str
    run: str = ""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    thresholds_from: str = ""


def open_trained(place: Path, *, network: nn.Module | None = None) -> Trained:
    """Return the model in a folder.

    Args:
        place: a run folder, its ``release/``, or the ``bundle/`` in it, or copies of these.
        network: architecture of a run that was given its own network; a copy of it receives the weights.

    Raises:
        UsageError: the folder is none of these, the run is not finished, or a network is missing or not
            needed.
        DataError: something is damaged or was changed since the release.
    """
    record: RunRecord | None = None
    bundle, release = _located(place)
    if release is not None and release.parent.joinpath(artifacts.place(RunRecord)).is_file():
        record = artifacts.read(release.parent, RunRecord)
    if record is not None and record.state is not RunState.RELEASED:
        fix = "finish it with `meninx train DATA --resume RUN`"
        raise UsageError(expected("a finished run", got="one that is not", where=place.name, fix=fix))
    # A copy, because loading the weights would change the caller's network.
    own = copy.deepcopy(network)
    if bundle is None:
        return _of_checkpoint(runs.open_run(place), own)
    _refuse_changed(bundle, release)
    model = load_bundle(bundle, network=own)
    if record is not None and record.weights and record.weights != model.record.weights:
        fix = "restore release/, or train again"
        raise DataError(
            problem("the weights are not those of the release", where=f"{place.name}/bundle", fix=fix)
        )
    found = Trained(
        network=model.network,
        config=model.config,
        info=model.info,
        preprocessing=_preprocessing(model.info),
        weights=weights_digest(model.network),
        run=model.record.run,
    )
    return _with_thresholds(found, release, bundle)


def _located(place: Path) -> tuple[Path | None, Path | None]:
    """Return the bundle (None for a run without one) and its release (None for a single bundle)."""
    if (place / BUNDLE_RECORD).is_file():
        # A copied bundle may lie in any folder: only a list that names the bundle makes the folder its
        # release.
        around = place.resolve().parent
        listed = integrity.read(around) if place.resolve().name == BUNDLE else {}
        return place, around if f"{BUNDLE}/{BUNDLE_RECORD}" in listed else None
    if (place / BUNDLE / BUNDLE_RECORD).is_file():
        return place / BUNDLE, place
    run = Run(place)
    if (run.release / BUNDLE / BUNDLE_RECORD).is_file():
        return run.release / BUNDLE, run.release
    if run.config_path.is_file():
        return None, run.release
    got = "another folder" if place.exists() else "no such folder"
    fix = "give a run folder, its release/ or release/bundle; older bundles: release the run again"
    raise UsageError(expected("a trained model", got=got, where=str(place), fix=fix))


def _refuse_changed(bundle: Path, release: Path | None) -> None:
    """Compare the files read from a bundle with its own list, and with the list of the release around it.

    The file of thresholds may be missing; the model then has none.

    Raises:
        DataError: a file differs from its list, or there is no list.
    """
    around = integrity.read(release) if release is not None else {}
    within = {name.removeprefix(f"{BUNDLE}/"): value for name, value in around.items()}
    lists = [found for found in (within if around else {}, integrity.read(bundle)) if found]
    if not lists:
        fix = "copy the whole bundle, or release the run again with this version of meninx"
        raise DataError(problem("the list of digests is missing", where=integrity.CHECKSUMS, fix=fix))
    for name in _READ:
        path = bundle / name
        digest = files.digest(path) if path.is_file() or name != THRESHOLDS else None
        if digest is not None and any(found.get(name) != digest for found in lists):
            fix = "copy the release again from where it was made"
            raise DataError(
                problem("the file was changed since the release", where=f"{BUNDLE}/{name}", fix=fix)
            )


def _of_checkpoint(run: Run, network: nn.Module | None) -> Trained:
    """Return the model of a run without a bundle, from its private checkpoint."""
    model, config, info = load_model(run, network=network)
    record, weights = run.record, weights_digest(model)
    if record is not None and record.weights and record.weights != weights:
        fix = "restore private/checkpoints, or train again"
        raise DataError(problem("the checkpoint does not hold the released weights", where=run.name, fix=fix))
    found = Trained(
        network=model,
        config=config,
        info=info,
        preprocessing=_preprocessing(info),
        weights=weights,
        run=record.id if record is not None else "",
    )
    return _with_thresholds(found, run.release, None)


def _preprocessing(info: DatasetInfo) -> Preprocessing | None:
    return Preprocessing.from_table(info.preprocessing) if info.preprocessing else None


def _with_thresholds(model: Trained, release: Path | None, bundle: Path | None) -> Trained:
    """Return the model with the operating thresholds of its evaluation, or the reason why it has none."""
    if model.info.task is TaskKind.SEGMENTATION:
        return model
    listed = bundle is None or (release is not None and (release / integrity.CHECKSUMS).is_file())
    evaluated = release is not None and (release / EVALUATION).is_file() and listed
    thresholds, origin = (
        _of_bundle(model, bundle) if bundle and not evaluated else _thresholds(model, release)
    )
    return replace(model, thresholds=thresholds, thresholds_from=origin)


def _thresholds(model: Trained, release: Path | None) -> tuple[dict[str, float], str]:
    if release is None or not (release / EVALUATION).is_file():
        return {}, "none: no evaluation.json lies beside the bundle"
    listed = integrity.read(release)
    if listed and listed.get(EVALUATION) != files.digest(release / EVALUATION):
        return {}, "none: evaluation.json is not the one in the list of the release"
    record = artifacts.read_file(release / EVALUATION, EvaluationRecord)
    if record is None or record.origin is None or record.origin.weights != model.weights:
        return {}, "none: evaluation.json was measured on other weights"
    found = Evaluation.from_table(record.evaluation).thresholds
    labels = set(model.info.labels)
    _refuse_improbable((item.value for item in found), EVALUATION)
    fitted = {
        item.label: float(item.value) for item in found if item.label in labels and item.split == "valid"
    }
    if not fitted:
        return {}, "none: the evaluation fitted none on validation"
    rules = ", ".join(sorted({names.printable(str(item.rule)) for item in found}))
    return fitted, f"{rules} on the split {names.printable(record.thresholds_from or 'valid')}"


def _of_bundle(model: Trained, bundle: Path) -> tuple[dict[str, float], str]:
    """Return the thresholds that `meninx evaluate` wrote into a bundle, for a bundle without its release."""
    record = artifacts.read(bundle, ThresholdRecord)
    if record is None:
        return {}, "none: the bundle holds no thresholds, and no evaluation.json lies beside it"
    if record.weights != model.weights:
        return {}, "none: the thresholds of the bundle were fitted for other weights"
    labels = set(model.info.labels)
    _refuse_improbable(record.thresholds.values(), THRESHOLDS)
    fitted = {label: float(value) for label, value in record.thresholds.items() if label in labels}
    return fitted, f"fitted on the split {names.printable(record.source or 'valid')}"


def _refuse_improbable(thresholds: Iterable[object], where: str) -> None:
    """Refuse thresholds of probabilities that are not numbers from 0 to 1."""
    if not all(map(check.is_probability, thresholds)):
        fix = "evaluate the run again"
        raise DataError(problem("a threshold is not a number from 0 to 1", where=where, fix=fix))
