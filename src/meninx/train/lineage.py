"""The origin of a run's weights: its own lineage, and what is known about its starting weights.

Starting weights from a run of meninx are traced back: the patients behind them, and behind the weights that
those started from, are compared with the patients of the new run. Weights of a run without privacy on the
same patients cannot start a private run; the cost of private runs on the same patients is added to its own.
Whatever cannot be compared is of unknown origin, and the guarantee excludes it explicitly.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.core import artifacts, belonging, files, integrity
from meninx.core.artifacts import (
    Ancestry,
    DataRecord,
    FeatureStatistics,
    Lineage,
    Members,
    RunRecord,
    RunState,
)
from meninx.core.budget import UNPROTECTED_START
from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.core.manifest import Manifest
from meninx.core.run import Run, read_key
from meninx.learn import checkpoint, ledger_file
from meninx.privacy.ledger import Ledger
from meninx.train import identity
from meninx.train.config import PrivacyConfig

LINEAGE = Path(artifacts.place(Lineage)).name
NEAREST = 5  # number of folders above a file of weights that are searched for a run
VALIDATED = (
    "the starting weights come from a private run that used training patients of this run as "
    "validation patients"
)

STATISTICS = (
    "statistics of the dataset {dataset}, computed without privacy as of public images, went into "
    "the starting "
    "weights: nothing is promised to its people"
)
NOT_COMPARED = (
    "whether the dataset {dataset}, by which the features were standardised, holds training "
    "patients could not "
    "be compared"
)
FEDERATED = (
    "the starting weights come from the federated study {study} of {sites} sites: whether patients of the "
    "other sites are among the training patients could not be compared"
)
UNPROTECTED = f"the starting weights come from run {{run}}, {UNPROTECTED_START}: nothing is promised to them"


@dataclass(frozen=True)
class Start:
    """What is known about the starting weights of a new run.

    Attributes:
        ancestry: record for the run and its guarantee; None for random weights.
        parents: lineages of the runs behind the weights.
        patients: pseudonyms of the patients behind them, as far as known.
        images: digests of the images of these patients.
        public: dataset whose statistics standardise the features; None if they are not standardised.
    """

    ancestry: Ancestry | None = None
    parents: tuple[Lineage, ...] = ()
    patients: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    public: Manifest | None = None


def draft(
    run: RunRecord, key: bytes, members: Members, privacy: PrivacyConfig | None, start: Start
) -> Lineage:
    """Return the lineage of a new run, without its ledger.

    Args:
        run: identity of the run.
        key: identity key of the run.
        members: patients that take part.
        privacy: settings of privacy, None without; random digests fill up to a declared number of units.
        start: what is known of its starting weights.
    """
    patients = members.train if privacy else (*members.train, *members.valid)
    digests = {identity.keyed_patient(key, patient) for patient in patients}
    declared = privacy.units_declared or 0 if privacy else 0
    # The lineage is released, and the number of its digests would reveal the exact number of patients. Random
    # digests cannot be told from keyed ones without the key.
    while len(digests) < declared:
        digests.add(secrets.token_hex(32))
    public = (_of_dataset(start.public, key),) if start.public is not None else ()
    return Lineage(
        run=run.id,
        private=privacy is not None,
        unit=str(privacy.unit) if privacy else "",
        key=artifacts.key_name(key),
        data=run.data,
        patients=tuple(sorted(digests)),
        patients_known=members.patients_known,
        deterministic=run.deterministic,
        delta=privacy.delta if privacy else 0.0,
        parents=(*start.parents, *public),
        start=start.ancestry.sha256 if start.ancestry is not None else "",
        unknown_start=start.ancestry is not None and start.ancestry.origin == "unknown",
        study=run.study,
    )


def _of_dataset(public: Manifest, key: bytes) -> Lineage:
    """Return a lineage that stands for a dataset whose statistics went into the weights.

    A later private run on patients of that dataset is then refused, as after a run without privacy.
    """
    digest = identity.data_record(public.root).digest
    return Lineage(
        run=digest[:32],
        private=False,
        unit="",
        key=artifacts.key_name(key),
        data=identity.keyed_data(key, digest),
        patients=tuple(
            sorted(identity.keyed_patient(key, patient) for patient in public.split("train").patients)
        ),
        patients_known=public.info.patients_known,
        statistics_of=public.info.name,
    )


def refuse_shared_people(public: Manifest, members: Members, *, private: bool) -> tuple[str, ...]:
    """Return the caveats of the guarantee for features that are standardised by a public dataset.

    Args:
        public: the public dataset; all its splits are compared.
        members: who takes part in the new run.
        private: whether the run is private; without privacy nothing is compared.

    Raises:
        PrivacyRefusal: the dataset shares training patients or their images with the private run.
    """
    if not private:
        return ()
    dataset = public.info.name
    found = identity.overlap(
        members.train,
        public.patients,
        images=(members.train_images, identity.images_of(public)),
        identifiers=(members.identifiers, identity.identifiers_of(public)),
        known=members.patients_known and public.info.patients_known,
    )
    if found:
        fix = (
            "give a public dataset of other people: statistics of the training patients would not be "
            "protected"
        )
        raise PrivacyRefusal(
            expected("a dataset without training patients", got=found.words(), where="standardize", fix=fix)
        )
    unsure = (NOT_COMPARED.format(dataset=dataset),) if found.doubtful or not found.compared else ()
    return (STATISTICS.format(dataset=dataset), *unsure)


def standardized(
    start: Start, public: Manifest, statistics: FeatureStatistics, caveats: tuple[str, ...]
) -> Start:
    """Return a start whose features are standardised by a public dataset.

    Args:
        start: what is known of the pretrained weights.
        public: the dataset.
        statistics: feature statistics of its training images.
        caveats: result of :func:`refuse_shared_people`.
    """
    known, people = start.ancestry or Ancestry(), public.split("train")
    return replace(
        start,
        ancestry=replace(known, features=statistics, caveats=(*known.caveats, *caveats)),
        patients=tuple(sorted({*start.patients, *people.patients})),
        images=tuple(sorted({*start.images, *identity.images_of(people)})),
        public=public,
    )


def of_run(run: Run) -> Lineage | None:
    """Return the lineage of a run with its current ledger, or None for a run of an older version."""
    found = artifacts.read(run.root, Lineage, private=True)
    if found is None:
        return None
    text = run.ledger_text()
    return replace(found, ledger=tuple(text.split("\n")) if text else ())


def trace(path: Path, members: Members, data: DataRecord, *, unit: str, folders: tuple[Path, ...]) -> Start:
    """Return what is known about a file of weights.

    Args:
        path: the file.
        members: who takes part in the new run.
        data: its dataset.
        unit: privacy unit of the new run; empty without privacy.
        folders: folders of runs whose identity keys may be used to compare patients.

    Raises:
        DataError: the file does not exist, or a record of its run is damaged.
        PrivacyRefusal: the new run is private and the weights were trained on the same patients without
            privacy, or with another privacy unit.
    """
    if not path.is_file():
        raise DataError(expected("a file of pretrained weights", got="no such file", where=str(path)))
    path = path.resolve()
    sha256 = files.digest(path)
    house = _house(folders)
    found = _source(path, sha256, house)
    if found is None:
        return Start(Ancestry(sha256=sha256))
    lineage, run = found.lineage, found.run
    keys = {
        name: key for name, (key, _) in (_house((run.root.parent, run.root.parent.parent)) | house).items()
    }
    ledgers, shared, unknown, caveats = [], False, not found.certain, []
    known = artifacts.read(run.root, Members)
    for node in _with_ancestors(lineage):
        theirs = known if node is lineage else None
        same = _shares(node, theirs, members, data, keys)
        # Every ancestor is examined, because weights keep what they learnt from patients several starts ago.
        unknown |= same is None or node.unknown_start
        shared |= bool(same)
        if same and unit:
            _refuse(node, unit)
            _refuse_without_steps(node)
            ledgers.append(node.ledger)
        if (
            unit and node.study is not None
        ):  # patients of the study's other sites are behind the weights as well
            caveats.append(FEDERATED.format(study=node.study.study, sites=node.study.sites))
        if unit and same is False and (not node.private or node.deterministic):
            text = STATISTICS if node.statistics_of else UNPROTECTED
            caveats.append(text.format(run=node.run[:8], dataset=node.statistics_of))
        if unit and theirs is not None and node.private and set(theirs.valid) & set(members.train):
            caveats.append(VALIDATED)
    ancestry = Ancestry(
        sha256=sha256,
        origin="unknown" if unknown else "run",
        run=lineage.run,
        shared_patients=shared,
        ledgers=tuple(ledgers),
        caveats=tuple(caveats),
    )
    if known is None:
        return Start(ancestry, (lineage,))
    patients = sorted({*known.train, *known.valid, *known.earlier})
    return Start(ancestry, (lineage,), tuple(patients), tuple(sorted({*known.images, *known.earlier_images})))


def _refuse(node: Lineage, unit: str) -> None:
    """Refuse weights of the same patients whose privacy cost the new run's accountant cannot count."""
    if not node.private or node.deterministic:
        why = "a run whose noise came from a seed" if node.private else "a run without privacy"
        if node.statistics_of:
            why = "features standardised by a dataset that holds them"
        fix = "start from weights of other patients, of public data or of a private run, or from random ones"
        raise PrivacyRefusal(
            expected(
                "starting weights that do not hold the same patients without protection",
                got=why,
                where="pretrained",
                fix=fix,
            )
        )
    if node.unit != unit:
        fix = "train with the same privacy unit, or start from other weights"
        got = f"protection per {node.unit}" if node.unit else "a run that names no privacy unit"
        raise PrivacyRefusal(
            expected(f"starting weights protected per {unit}", got=got, where="pretrained", fix=fix)
        )


def _refuse_without_steps(node: Lineage) -> None:
    """Refuse weights of a private run whose ledger has no steps, because their cost is unknown."""
    if not Ledger.parse("\n".join(node.ledger)).accounts:
        fix = "restore private/ledger.jsonl of that run, or start from other weights"
        what = f"the ledger of run {node.run[:8]}, from which the starting weights come, contains no step"
        raise PrivacyRefusal(problem(what, where="pretrained", fix=fix))


@dataclass(frozen=True)
class _Source:
    """The run from which a file of weights comes.

    Attributes:
        lineage: lineage of the run.
        run: its folder.
        certain: the run's records name the file. Otherwise it only has the path of a checkpoint of the run:
            its origin is unknown, but shared patients still count against it.
    """

    lineage: Lineage
    run: Run
    certain: bool = True


def _source(path: Path, sha256: str, house: dict[str, tuple[bytes, Run]]) -> _Source | None:
    """Return the run to which a file of weights belongs, or None if it is unknown here.

    A copied release names its run by the name of its key; its other claims are not trusted, as it may be
    edited.

    Raises:
        PrivacyRefusal: the records of that run were edited.
    """
    for folder in list(path.parents)[:NEAREST]:
        if (folder / artifacts.place(RunRecord)).is_file() and (folder / "private").is_dir():
            run = Run(folder)
            lineage = _own_lineage(run)
            return _in_run_folder(path, sha256, run, lineage) if lineage is not None else None
    for folder in list(path.parents)[:NEAREST]:
        if (folder / LINEAGE).is_file():
            claimed = artifacts.read_file(folder / LINEAGE, Lineage)
            if claimed is None or claimed.key not in house:
                return None
            _, run = house[claimed.key]
            lineage = _own_lineage(run)
            listed = lineage is not None and sha256 in _listed(run).values()
            return _Source(lineage, run) if lineage is not None and listed else None
    return None


def _own_lineage(run: Run) -> Lineage | None:
    """Return the lineage of a run, compared with the other records of its folder; None for an older run.

    Raises:
        PrivacyRefusal: a record is of another run or was edited, so that its patients are unknown.
    """
    lineage, record = of_run(run), run.record
    if lineage is None or record is None:
        return None
    wrong = next(belonging.secrets_changed(run.root, record), "")
    mine = (record.id, record.private, record.deterministic, record.data, record.study)
    said = (lineage.run, lineage.private, lineage.deterministic, lineage.data, lineage.study)
    if not wrong and said != mine:
        wrong = artifacts.place(Lineage, private=True)
    if not wrong and _listed(run) and artifacts.read(run.root, Lineage) != lineage:
        wrong = artifacts.place(Lineage, private=True)
    if wrong:
        fix = "restore it from a backup, or start from other weights"
        got = f"an edited folder: {wrong} is another or gone"
        raise PrivacyRefusal(
            expected("starting weights from a run as it was written", got=got, where=run.name, fix=fix)
        )
    return lineage


def _in_run_folder(path: Path, sha256: str, run: Run, lineage: Lineage) -> _Source | None:
    """Return the run if a file in its folder is one of its checkpoints or part of its complete release."""
    if path.is_relative_to(run.private):
        name = next((name for name in ("last", "best") if path == checkpoint.path_of(run, name)), "")
        return _Source(lineage, run, certain=_saved_by(run, name, sha256)) if name else None
    listed = path.is_relative_to(run.release) and _listed(run).get(path.relative_to(run.release).as_posix())
    return _Source(lineage, run) if listed == sha256 else None


def _saved_by(run: Run, name: str, sha256: str) -> bool:
    """Return whether the records of a run confirm that it saved a checkpoint.

    The record of a finished run names its checkpoints. A checkpoint of an unfinished private run contains the
    plan and a line of the run's ledger. An unfinished run without privacy has nothing that confirms a
    checkpoint.
    """
    record = run.record
    if record is None:
        return False
    if record.state is RunState.RELEASED or not record.private:
        return record.checkpoints.get(f"{name}.pt") == sha256
    content = checkpoint.load(run, name)
    lines, head = content["anchor"]
    try:
        ledger = ledger_file.read(run, anchor=(int(lines), str(head)))
    except PrivacyRefusal:
        return False
    return lines > 0 and content["plan"] in {account.first.plan for account in ledger.accounts}


def _listed(run: Run) -> dict[str, str]:
    """Return the digests of the complete release of a run.

    The map is empty if the release is not complete or its list was changed.
    """
    record = run.record
    if (
        record is None
        or record.state is not RunState.RELEASED
        or not record.names_list(integrity.digest_of(run.release))
    ):
        return {}
    return integrity.read(run.release)


def _with_ancestors(lineage: Lineage) -> Iterator[Lineage]:
    yield lineage
    for parent in lineage.parents:
        yield from _with_ancestors(parent)


def _shares(
    node: Lineage, theirs: Members | None, ours: Members, data: DataRecord, keys: dict[str, bytes]
) -> bool | None:
    """Return whether a run was trained on training patients of the new run, or None if that is unknown."""
    key = keys.get(node.key)
    if key is not None and node.data == identity.keyed_data(key, data.digest):
        return True
    known = node.patients_known and ours.patients_known
    if theirs is not None:
        patients = theirs.train if node.private else (*theirs.train, *theirs.valid)
        images = theirs.train_images if node.private else theirs.images
        found = identity.overlap(
            ours.train,
            patients,
            images=(ours.train_images, images),
            identifiers=(ours.identifiers, theirs.identifiers),
            known=known,
        )
        if found:
            return True
        return None if found.doubtful or not found.compared else False
    if key is None:
        return None
    # Only the holder of the key can compare: that is the purpose of keyed digests.
    if {identity.keyed_patient(key, patient) for patient in ours.train} & set(node.patients):
        return True
    return False if known else None


def _house(folders: tuple[Path, ...]) -> dict[str, tuple[bytes, Run]]:
    """Return a map from key name to identity key and run, for the runs and sweep cells in some folders."""
    found: dict[str, tuple[bytes, Run]] = {}
    for folder in dict.fromkeys(folders):
        for pattern in (f"*/private/keys/{identity.KEY}.key", f"cells/*/*/private/keys/{identity.KEY}.key"):
            for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
                key = read_key(path)
                found[artifacts.key_name(key)] = (key, Run(path.resolve().parents[2]))
    return found
