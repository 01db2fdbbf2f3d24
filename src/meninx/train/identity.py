"""Identity of a run's dataset and patients: digests, the run's key for them, and comparisons.

Outside ``private/``, datasets and patients appear only as digests keyed with the run's identity key. Without
the key, an attacker cannot test whether a known person took part by hashing the person's identifier. The key
stays in ``private/keys``.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from meninx.core import artifacts, belonging, files, provenance
from meninx.core.artifacts import DataRecord, Lineage, Members, Origin, RunRecord
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.manifest import SOURCES_NAME, Manifest, dataset_digest
from meninx.core.run import IDENTITY, Run, read_key
from meninx.core.run import keyed_data as keyed_data

KEY = IDENTITY  # name of the key file in private/keys


def data_record(root: Path) -> DataRecord:
    """Return the digest of a dataset, over its manifest, description and images.

    Images are included if the dataset has a list of their digests.
    """
    found = dataset_digest(root)
    return DataRecord(dataset=str(root.resolve()), digest=found.digest, images=found.images)


def same_data(known: DataRecord, root: Path) -> bool:
    """Return whether a folder contains the dataset of a record.

    A record without image digests is compared by the tables only.
    """
    return dataset_digest(root, images=known.images).digest == known.digest


def own_data(run: Run, root: Path) -> str:
    """Return the keyed digest of a dataset folder, as in ``run.json``, if it is the run's own dataset.

    The text is empty for another dataset.

    The folder itself is hashed, because ``private/data.json`` could have been edited.

    Raises:
        DataError: the run's identity key is gone, or a file of the dataset cannot be read.
    """
    record = run.record
    if record is None:
        return ""
    key = read_key(run.key_path(KEY))
    # Older runs recorded the digest without images.
    digests = (dataset_digest(root, images=images).digest for images in (True, False))
    return next((record.data for digest in digests if keyed_data(key, digest) == record.data), "")


def is_own(run: Run, root: Path) -> bool:
    """Return whether a folder contains the dataset that a run was trained on.

    Runs of older versions are compared with ``private/data.json``.
    """
    if run.record is not None:
        return bool(own_data(run, root))
    known = artifacts.read(run.root, DataRecord)
    return known is not None and same_data(known, root)


def refuse_changed_secrets(run: Run) -> None:
    """Refuse a run whose private records of patients, dataset or start differ from those at its creation.

    The patients are also compared with the keyed digests of the lineage, which is part of the release.

    Raises:
        PrivacyRefusal: of a private run.
        DataError: of another one, or the run's identity key is gone.
    """
    record = run.record
    if record is None:
        return
    changed = next(belonging.secrets_changed(run.root, record), "")
    if not changed and not all(_names_members(run, record, private) for private in (True, False)):
        changed = artifacts.place(Members)
    if changed:
        kind = PrivacyRefusal if record.private else DataError
        fix = "restore the folder from a backup, or start a new run"
        raise kind(
            problem(
                f"a private record of the run was changed or is missing: {changed}", where=run.name, fix=fix
            )
        )


def _names_members(run: Run, record: RunRecord, private: bool) -> bool:
    """Return whether the lineage (the private or the released one) names all patients of members.json."""
    members, known = artifacts.read(run.root, Members), artifacts.read(run.root, Lineage, private=private)
    if members is None or known is None:
        return True
    key = read_key(run.key_path(KEY))
    patients = members.train if record.private else (*members.train, *members.valid)
    # A subset, not equality: the lineage also contains random digests up to the declared number of units.
    return {keyed_patient(key, patient) for patient in patients} <= set(known.patients)


def contents(data: Manifest) -> str:
    """Return the digest of the files that training reads, for a dataset without a list of digests.

    With a list the text is empty.
    """
    if data.checksums:
        return (
            ""  # the dataset's digest includes the list, and every file is compared with it when it is read
        )
    names = sorted({name for case in data.split("train").cases for name in (case.image, case.mask) if name})
    there = [
        name for name in names if (data.root / name).is_file()
    ]  # the reader of a missing file reports its row
    text = "".join(f"{name}\0{files.digest(data.root / name)}\n" for name in there)
    return hashlib.sha256(text.encode()).hexdigest()


def keyed_patient(key: bytes, patient: str) -> str:
    """Return the keyed digest that stands for a patient in a lineage."""
    return artifacts.keyed(key, "patient", patient)


def members_of(data: Manifest) -> Members:
    """Return the patients, images and identifiers that take part in training on a dataset."""
    training, validation = data.split("train"), data.split("valid")
    return Members(
        train=training.patients,
        valid=validation.patients,
        patients_known=data.info.patients_known,
        images=images_of(training, validation),
        train_images=images_of(training),
        identifiers=identifiers_of(training, validation),
        source_files=source_files_of(training, validation),
    )


def images_of(*parts: Manifest) -> tuple[str, ...]:
    """Return the SHA-256 of the images of some cases, sorted; empty for a dataset without checksums.

    Raises:
        DataError: the dataset's list of checksums lacks an image.
    """
    return tuple(sorted({digest for part in parts for digest in part.image_digests().values()}))


def identifiers_of(*parts: Manifest) -> tuple[str, ...]:
    """Return the SHA-256 of the identifiers that the patients of some cases have in the source, sorted.

    Empty if unknown.
    """
    known = _sources(parts[0].root, "patient_id", "patient")
    return tuple(sorted({known[patient] for part in parts for patient in part.patients if patient in known}))


def source_files_of(*parts: Manifest) -> tuple[str, ...]:
    """Return the SHA-256 of the names that the images of some cases have in the source, sorted.

    Empty if unknown.
    """
    known = _sources(parts[0].root, "case_id", "key")
    cases = (case.case_id for part in parts for case in part.cases)
    return tuple(sorted({known[case] for case in cases if case in known}))


def _sources(root: Path, pseudonym: str, identifier: str) -> dict[str, str]:
    """Return pseudonym -> SHA-256 of the identifier in the source, from two columns of the private table.

    The map is empty if the dataset has no such table.
    """
    path = root / SOURCES_NAME
    if not path.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(files.read_text(path, limit=1 << 30)))
    if not {pseudonym, identifier} <= set(rows.fieldnames or ()):
        return {}
    return {
        row[pseudonym]: hashlib.sha256(str(row[identifier]).encode()).hexdigest()
        for row in rows
        if row[identifier]
    }


MOST_BY_CHANCE = 3
"""Largest number of equal source identifiers that may be a coincidence between two hospitals."""


@dataclass(frozen=True)
class Overlap:
    """The overlap of two groups of patients, as far as it can be determined.

    Attributes:
        patients: pseudonyms that are in both groups.
        images: image files that are in both groups.
        compared: the comparison is meaningful: both sides name patients, or both have image digests.
        identifiers: identifiers of the source in both: of patients, or of image files where one side does not
            name its patients. Pseudonyms depend on the name of the dataset, these do not.
        of_identifiers: all identifiers of the first group.
    """

    patients: int
    images: int
    compared: bool
    identifiers: int = 0
    of_identifiers: int = 0

    @property
    def doubtful(self) -> bool:
        """Whether source identifiers are equal although pseudonyms differ.

        These are the same people under another dataset name, or a coincidence between two hospitals.
        """
        return bool(self.identifiers) and not self.patients

    @property
    def probable(self) -> bool:
        """Whether more identifiers are equal than by coincidence.

        This means more than :data:`MOST_BY_CHANCE`, or at least half of the first group.
        """
        half = self.of_identifiers / 2
        return self.identifiers > MOST_BY_CHANCE or self.identifiers >= max(1, half)

    def __bool__(self) -> bool:
        return bool(self.patients or self.images)

    def words(self) -> str:
        """Return the counts as a text."""
        parts = [
            f"{count} {name}{'' if count == 1 else 's'}"
            for count, name in ((self.patients, "patient"), (self.images, "image"))
            if count
        ]
        return " and ".join(parts) or "none"


def overlap(
    here: Iterable[str],
    there: Iterable[str],
    *,
    images: tuple[Iterable[str], Iterable[str]] = ((), ()),
    identifiers: tuple[Iterable[str], Iterable[str]] = ((), ()),
    source_files: tuple[Iterable[str], Iterable[str]] = ((), ()),
    known: bool = True,
) -> Overlap:
    """Return the overlap of two groups of patients.

    Args:
        here: pseudonyms of one group.
        there: pseudonyms of the other group.
        images: digests of the image files of both.
        identifiers: digests of the source's identifiers of both.
        source_files: digests of the names of the image files in the source of both, which are compared where
            one side does not name its patients.
        known: both sources name their patients; otherwise equal pseudonyms are meaningless if the images
            differ.
    """
    own, other = set(images[0]), set(images[1])
    patients = set(here) & set(there)
    named, theirs = map(set, identifiers if known else source_files)
    return Overlap(
        patients=len(patients),
        images=len(own & other),
        compared=known or bool(own and other),
        identifiers=len(named & theirs),
        of_identifiers=len(named),
    )


def dataset_folder(run: Run) -> Path:
    """Return the dataset folder that a run was trained on.

    Raises:
        UsageError: the run does not record it.
        DataError: ``private/data.json`` is damaged.
    """
    known = artifacts.read(run.root, DataRecord)
    if known is None:
        fix = "give the dataset folder with --data"
        got = f"no {artifacts.place(DataRecord)}"
        raise UsageError(expected("a run that knows its dataset", got=got, where=run.name, fix=fix))
    return Path(known.dataset)


def origin(
    run: Run, *, weights: str, step: int, split: str = "", data: str | None = None, dataset: str | None = None
) -> Origin:
    """Return the origin record for a number that was measured on a run.

    Args:
        run: the run; one of an older version has no identity.
        weights: digest of the weights.
        step: optimiser step of the weights.
        split: split that was measured.
        data: keyed digest of the measured dataset; the run's own by default.
        dataset: short name of the measured dataset; the run's own by default.
    """
    record, made_by = run.record, provenance.environment()
    own = (record.data, record.dataset) if record else ("", "")
    return Origin(
        run=record.id if record else "",
        data=data if data is not None else own[0],
        dataset=dataset if dataset is not None else own[1],
        weights=weights,
        step=step,
        split=split,
        made=artifacts.now(),
        command=made_by.command,
        versions=made_by.packages,
    )
