"""Checks whether a dataset may be used to measure a run: the same task, and no training patients."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meninx.core import artifacts
from meninx.core.artifacts import DataRecord, Members, RunRecord, RunState
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import SOURCES_NAME, Manifest, TaskKind
from meninx.core.run import Run
from meninx.train import identity
from meninx.train.external import LabelMatch

EARLIER = "this run was made by an earlier version of meninx"
NO_GUARANTEE = f"{EARLIER}: the epsilon that it states does not hold, see docs/sharp-edges.md"


@dataclass(frozen=True)
class Standing:
    """The relation of a dataset to a run.

    Attributes:
        external: whether it is another dataset than the run's own.
        compared: its measured patients were compared with those of training and validation, and none is
            shared.
        data: keyed digest of the dataset.
        equal_identifiers: number of measured source identifiers that training or validation patients also
            have.
        measured_identifiers: number of all measured source identifiers.
        own: the run's own dataset if it is unchanged; thresholds are fitted on its validation split.
    """

    external: bool
    compared: bool
    data: str
    own: Manifest | None
    equal_identifiers: int = 0
    measured_identifiers: int = 0

    def notes(self) -> list[str]:
        """Return caveats about the patients of the measured dataset, for result, record and report."""
        if not self.equal_identifiers:
            return []
        equal = f"{self.equal_identifiers} of the {self.measured_identifiers} measured identifiers"
        return [
            f"{equal} of the source are identifiers of the training or validation, too: "
            "whether they are the same people could not be compared"
        ]

    @property
    def short(self) -> str:
        """Return the name of another dataset for file names; empty for the run's own dataset."""
        return self.data[:8] if self.external else ""


def finished(run: Run) -> list[str]:
    """Return the caveats of a finished run.

    Raises:
        UsageError: the run is not finished.
        PrivacyRefusal, DataError: its private records were changed.
    """
    record = run.record
    if record is None:
        return [NO_GUARANTEE if run.ledger_path.is_file() else EARLIER]
    if record.state is not RunState.RELEASED:
        fix = f"finish it with `meninx train DATA --resume {run.name}`"
        raise UsageError(expected("a finished run", got="one that is not", where=run.name, fix=fix))
    identity.refuse_changed_secrets(run)
    return []


def check_weights(run: Run, weights: str) -> None:
    """Raise DataError if the checkpoint does not contain the released weights."""
    record = run.record
    if record is not None and record.weights != weights:
        fix = "restore private/checkpoints, or train again"
        raise DataError(problem("the checkpoint does not hold the released weights", where=run.name, fix=fix))


def empty_split(dataset: Manifest, wanted: str) -> str:
    """Return the message about a split without cases, with the number of cases of the other splits."""
    counts = Counter(case.split for case in dataset.cases)
    found = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none at all"
    other = "" if wanted == "train" else "give one of these as --split, or "
    fix = f"the dataset has {found}: {other}prepare it with other fractions"
    words = {"train": "training split", "valid": "validation split", "test": "test split"}
    return problem(f"the {words.get(wanted, 'dataset')} has no cases", where="manifest.csv", fix=fix)


def check_truth(match: LabelMatch, chosen: Manifest) -> None:
    """Raise DataError if the cases to measure have no truth to compare with."""
    masks = chosen.info.task is TaskKind.SEGMENTATION
    if masks:
        known = any(case.mask for case in chosen.cases)
    else:
        columns = match.targets(chosen)[:, match.columns]
        known = bool(np.isfinite(columns).any())
    if not known:
        what = "mask" if masks else "label"
        fix = "prepare the dataset with a table or masks that name these cases"
        raise DataError(problem(f"no case of the measured split has a {what}", where="manifest.csv", fix=fix))


def standing(
    run: Run, dataset: Manifest, chosen: Manifest, *, given: bool, other_patients: bool = False
) -> Standing:
    """Return the relation of a dataset to a run.

    Args:
        run: a finished run.
        dataset: the dataset.
        chosen: its cases to measure.
        given: the user named the dataset; otherwise it was found at the path of the run's own dataset.
        other_patients: the user states that equal source identifiers belong to different people.

    Raises:
        UsageError: ``other_patients`` is given but no identifier is equal.
        DataError: measured patients or images took part in training or validation, or in that of the starting
            weights; or the run's own dataset was replaced.
    """
    known = artifacts.read(run.root, DataRecord)
    external = not identity.is_own(run, dataset.root)
    members = artifacts.read(run.root, Members)
    own = dataset if not external else _as_it_was(run, known)
    if members is None and own is not None:
        members = identity.members_of(own)
    found = _refuse_overlap(members, dataset, chosen, external=external, other_patients=other_patients)
    equal = found.identifiers if found is not None else 0
    if other_patients and not equal:
        got = "no identifier of the source that is equal"
        raise UsageError(problem(f"other_patients has no effect with {got}; leave it out"))
    if external and not given:
        fix = "restore it, or name the folder with --data to measure the run on it as on another dataset"
        raise DataError(
            problem("the dataset that the run was trained on was changed", where="manifest.csv", fix=fix)
        )
    data = _keyed(run, identity.data_record(dataset.root).digest) if external else _own_name(run, dataset)
    return Standing(
        external=external,
        compared=found is not None
        and not found.doubtful
        and (not external or (found.compared and _comparable(run, dataset, members, found))),
        data=data,
        own=own,
        equal_identifiers=equal,
        measured_identifiers=found.of_identifiers if found is not None else 0,
    )


def _comparable(run: Run, dataset: Manifest, members: Members | None, found: identity.Overlap) -> bool:
    """Return whether the comparison would find a patient who is in both datasets.

    Pseudonyms are equal under the same dataset name, unless one side is a release, which has its own.
    Otherwise both sides need identifiers of the source, which a copy without ``private/`` lacks.
    """
    released = bool(dataset.info.obfuscated or (run.record is not None and run.record.obfuscated))
    same_name = not released and run.record is not None and run.record.dataset == dataset.info.name
    return same_name or bool(found.of_identifiers and members is not None and members.identifiers)


def _refuse_overlap(
    members: Members | None,
    dataset: Manifest,
    chosen: Manifest,
    *,
    external: bool,
    other_patients: bool = False,
) -> identity.Overlap | None:
    """Refuse measured patients that took part in training.

    Pseudonyms depend on the name of a dataset and image digests on how it was prepared. So another dataset is
    also refused if more than three of its measured source identifiers, or at least half of them, are
    those of training or validation patients. Hospitals that number their patients 1, 2, 3 have equal
    identifiers as well: the user then states that they are different people, and their number stays a caveat
    of the result. Fewer equal identifiers are a caveat without a question.

    Args:
        members: patients that took part; None if the run has no such record.
        dataset: the measured dataset.
        chosen: its cases to measure.
        external: whether it is another dataset than the run's own.
        other_patients: the user states that equal source identifiers belong to different people.

    Returns:
        The overlap; None if nothing was compared.

    Raises:
        DataError: measured patients took part in training.
    """
    if members is None:
        return None
    measured = identity.images_of(chosen)
    split = {case.split for case in chosen.cases}
    before = identity.overlap(chosen.patients, members.earlier, images=(measured, members.earlier_images))
    patients, images = (*members.train, *members.valid), members.images
    if not external and split & {"train", "valid"}:
        patients, images = (), ()  # the user asked to measure training patients
        before = identity.overlap((), ())
    elif not external:
        images = ()  # splits of a manifest share no patient; `prepare` reports equal files
    found = identity.overlap(
        chosen.patients,
        patients,
        images=(measured, images),
        identifiers=(identity.identifiers_of(chosen), members.identifiers if external else ()),
        source_files=(identity.source_files_of(chosen), members.source_files if external else ()),
        known=members.patients_known and dataset.info.patients_known,
    )
    for overlap, part in (
        (found, "training or validation of the run"),
        (before, "the training of its starting weights"),
    ):
        if overlap:
            fix = "measure on patients that took no part"
            raise DataError(
                expected(
                    f"patients who took no part in {part}", got=overlap.words(), where="manifest.csv", fix=fix
                )
            )
    if found.doubtful and found.probable and not other_patients:
        got = f"{found.identifiers} of {found.of_identifiers} identifiers of the source that are equal"
        fix = (
            "measure on other patients, or state that they are, with `--other-patients` (other_patients=True)"
        )
        rule = "patients who took no part in training or validation of the run"
        raise DataError(expected(rule, got=got, where=SOURCES_NAME, fix=fix))
    return found if patients else None


def _as_it_was(run: Run, known: DataRecord | None) -> Manifest | None:
    """Return the run's own dataset if its folder still contains it unchanged."""
    if known is None:
        return None
    root = Path(known.dataset)
    try:
        return Manifest.read(root) if identity.is_own(run, root) else None
    except (DataError, OSError):
        return None


def _own_name(run: Run, dataset: Manifest) -> str:
    record = run.record
    if record is not None:
        return record.data
    return _keyed(run, identity.data_record(dataset.root).digest)


def _keyed(run: Run, digest: str) -> str:
    return identity.keyed_data(run.key(identity.KEY), digest)


def refuse_trained_on(run: Run, chosen: Manifest, dataset: Manifest, *, other_patients: bool = False) -> None:
    """Raise DataError if measured patients are training patients of a run that is only the baseline."""
    members = artifacts.read(run.root, Members)
    external = not identity.is_own(run, dataset.root)
    if members is not None:
        _refuse_overlap(members, dataset, chosen, external=external, other_patients=other_patients)


def is_private(run: Run) -> bool:
    """Return whether a run was trained with differential privacy."""
    record: RunRecord | None = run.record
    return record.private if record is not None else run.ledger_path.is_file()
