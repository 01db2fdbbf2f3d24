"""Search for folders that meninx wrote, and their common checks: digests, completion, file modes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from meninx.core import artifacts, csv_table, integrity, workspace
from meninx.core.artifacts import (
    DeidRecord,
    Lineage,
    MediaRecord,
    ObfuscationRecord,
    PredictRecord,
    PrepareRecord,
    RunRecord,
    SweepRecord,
)
from meninx.core.clean_archive import IMAGES
from meninx.core.dossier_records import DossierRecord
from meninx.core.errors import DataError
from meninx.core.folder_signature import SIGNATURE
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, DatasetInfo, Manifest
from meninx.core.progress import Progress
from meninx.core.summaries import number_of
from meninx.deid.papers.audit_chain import AUDIT_LOG
from meninx.obfuscate.sealed_release import NOT_SEALED
from meninx.report import obfuscated_datasets
from meninx.verify import archive_papers, medium_checks
from meninx.verify.check_list import CheckList, Expected, damaged, some

RUN, DATASET, ARCHIVE, RELEASE, SWEEP = "run", "dataset", "clean archive", "release", "sweep"
PREDICTIONS, DOSSIER, FEATURES, MEDIUM = "predictions", "dossier", "features", "medium"
_DEPTH = 4  # a sweep keeps its runs in cells/<epsilon>/<seed>/<run>
_OWN_PAPERS = (  # they hold the digest of the list, or are written after it
    "deid.json",
    "prepare.json",
    "predict.json",
    "obfuscation.json",
    "release_audit.json",
    "release_audit.sha256",
    "report.html",
)
_CACHE = re.compile(r"((?:bundle/)?scripts/(?:[^/]+/)*)__pycache__/([^/.]+)\.[a-z]+-[0-9]+\.pyc")
_TENSORBOARD = "events.out.tfevents"


def kind_of(folder: Path) -> str:
    """Return what a folder is; empty for none of meninx's."""
    if (folder / artifacts.place(DossierRecord)).is_file():
        return DOSSIER
    if (folder / artifacts.place(RunRecord)).is_file() or (
        (folder / "config.toml").is_file() and (folder / "private").is_dir()
    ):
        return RUN
    if (folder / artifacts.place(SweepRecord)).is_file():
        return SWEEP
    if (folder / artifacts.place(DeidRecord)).is_file():
        return ARCHIVE
    if (folder / artifacts.place(MediaRecord)).is_file():
        return MEDIUM
    if (folder / artifacts.place(PredictRecord)).is_file():
        return PREDICTIONS
    if (folder / MANIFEST_NAME).is_file() and (folder / INFO_NAME).is_file():
        return DATASET
    if (folder / artifacts.place(ObfuscationRecord)).is_file():
        return FEATURES
    if (folder / Path(artifacts.place(Lineage)).name).is_file() or _is_bundle(folder):
        return RELEASE
    return _kind_without_record(folder)


def _kind_without_record(folder: Path) -> str:
    """Return what a folder is that lacks the record of its stage; empty for none of meninx's."""
    marker = folder / workspace.PRIVATE / workspace.MARKER
    kinds = {"deid": ARCHIVE, "prepare": DATASET, "predict": PREDICTIONS, "obfuscate": DATASET}
    kinds["obfuscate-features"] = FEATURES
    if not marker.is_file() and _is_archive(folder):
        return ARCHIVE
    return kinds.get(_stage(folder), "") if marker.is_file() else ""


def _is_archive(folder: Path) -> bool:
    """Return whether a folder without a summary and a private room is what is left of a clean archive."""
    papers = (integrity.CHECKSUMS, AUDIT_LOG, SIGNATURE)
    return (folder / IMAGES).is_dir() and any((folder / name).is_file() for name in papers)


def found(folder: Path, depth: int = _DEPTH) -> Iterator[tuple[Path, str]]:
    """Yield the folders of meninx in a place, with their kinds; links are not followed below it."""
    kind = kind_of(folder)
    if kind:
        yield folder, kind
    if depth and kind in ("", SWEEP):
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
                yield from found(entry, _DEPTH if kind else depth - 1)


def digests(
    book: CheckList, root: Path, recorded: str, *, leave_out: tuple[str, ...] = (), progress: Progress
) -> None:
    """Check a folder against its list of digests, and the list against its digest in a record."""
    what = "files against checksums.sha256"
    if not (root / integrity.CHECKSUMS).is_file():
        if recorded:
            book.judge(what, [f"{integrity.CHECKSUMS} is missing"])
        else:
            book.impossible(what, "no digests: an older version wrote this folder")
        return
    listed = integrity.read(root)
    damage = integrity.damage(root, leave_out=leave_out, progress=progress)
    caches = [name for name in damage.unlisted if _source_of(name) in listed]
    wrong = (
        damaged("missing", damage.missing)
        + damaged("changed", damage.changed)
        + damaged("not in the list", tuple(name for name in damage.unlisted if name not in caches))
    )
    book.judge(what, wrong, remark=number_of(len(listed), "file"))
    if caches:
        why = f"{number_of(len(caches), 'file')} that Python writes when it runs scripts/ of a bundle"
        book.impossible("caches of Python", f"{why}; remove the folders __pycache__ of a copy from elsewhere")
    if recorded:
        book.judge(
            "digest of checksums.sha256",
            [] if recorded == integrity.digest_of(root) else ["the list was changed later"],
        )


def _source_of(name: str) -> str:
    """Return the module of which a file is Python's cache, as a path in the list; empty for other files."""
    match = _CACHE.fullmatch(name)
    return f"{match[1]}{match[2]}.py" if match else ""


def completion(book: CheckList, root: Path) -> bool:
    """Check that a stage finished its result; return False where it is known that it did not."""
    marker = workspace.read_marker(root)
    if marker is None:
        book.impossible("completion", "an older version wrote this folder, or its private room is not here")
        return True
    wrong = [] if workspace.is_complete(root) else ["the stage has not finished; run the same command again"]
    remark = "a new result is being built" if marker.building else ""
    return book.judge("completion", wrong, remark=remark)


def modes(book: CheckList, root: Path) -> None:
    """Check that the private room is its owner's alone.

    What a killed stage left there to be published, or to be removed, is as readable as the result itself and
    counts only where it is private in the result, too.
    """
    room, what = root / workspace.PRIVATE, "file modes of private/"
    if os.name != "posix":
        book.impossible(what, "this system has no such modes")
    elif not room.is_dir():
        book.impossible(what, "no private room here")
    else:
        open_room = room.stat().st_mode & 0o077
        wide = [
            path.relative_to(root).as_posix()
            for path in room.rglob("*")
            if _regular(path) and path.lstat().st_mode & 0o077 and _is_secret(path.relative_to(room))
        ]
        wrong = ["others may enter private/"] if open_room else []
        wrong += (
            [f"others may read {number_of(len(wide), 'file')} once copied out: {some(wide)}"] if wide else []
        )
        book.judge(what, wrong, privacy=True)


def _is_secret(path: Path) -> bool:
    """Return whether a file of the private room stays there."""
    passing = (
        path.parts[0] in (workspace.STAGING, workspace.REPLACED) and workspace.PRIVATE not in path.parts[1:-1]
    )
    return not passing and not path.name.startswith(_TENSORBOARD)


def dataset(book: CheckList, root: Path, progress: Progress) -> None:
    """Check a prepared dataset."""
    if not completion(book, root):
        return
    record = artifacts.read(root, PrepareRecord) or artifacts.read(root, ObfuscationRecord)
    if record is None:
        book.impossible("summary prepare.json", "none here")
    digests(
        book,
        root,
        record.checksums if record else "",
        leave_out=(workspace.PRIVATE, *_OWN_PAPERS),
        progress=progress,
    )
    table = Manifest.read(root)
    wrong = []
    if record is not None and (record.cases, record.patients) != (len(table), len(table.patients)):
        wrong = [f"other numbers of cases or patients than {artifacts.place(type(record))} says"]
    if isinstance(record, ObfuscationRecord) and record.sentence() != table.info.obfuscated:
        wrong.append("obfuscation.json says otherwise how the images were changed than dataset.toml")
    book.judge(
        "manifest",
        wrong,
        remark=f"{number_of(len(table), 'case')} of {number_of(len(table.patients), 'patient')}",
    )
    _release(book, root, table.info)
    modes(book, root)


def _release(book: CheckList, root: Path, info: DatasetInfo | None) -> None:
    """Check that what is said of an obfuscated dataset belongs to it, and follows from its own numbers."""
    wrong = []
    try:
        found = obfuscated_datasets.read(root, root.name, info)
    except DataError as error:
        found, wrong = None, [str(error)]
    if found is not None and found.lost:
        wrong = [found.lost]
    if wrong or found is not None:
        remark = found.finding() if found is not None else ""
        if found is not None and found.record is not None and not found.sealed:
            remark = f"{remark}; {NOT_SEALED}"
        book.judge("records of what hides an attribute", wrong, remark=remark)


def archive(book: CheckList, root: Path, expected: Expected, progress: Progress) -> None:
    """Check a de-identified archive."""
    if not completion(book, root):
        return
    record = artifacts.read(root, DeidRecord)
    if record is None:
        fix = "ask for the whole archive, or run `meninx deid` again"
        book.judge("summary deid.json", ["it is missing"], privacy=True, fix=fix)
    digests(
        book,
        root,
        record.checksums if record else "",
        leave_out=(workspace.PRIVATE, artifacts.place(DeidRecord), *archive_papers.signed_apart(root)),
        progress=progress,
    )
    _empty_folders(book, root)
    if record is not None:
        archive_papers.check(book, root, record, expected)
    modes(book, root)


def _empty_folders(book: CheckList, root: Path) -> None:
    """Refuse folders that no list of files names: a name alone can tell who somebody is."""
    empty = sum(
        path.is_dir() and not any(path.iterdir())
        for path in root.rglob("*")
        if path.relative_to(root).parts[0] != workspace.PRIVATE
    )
    book.judge(
        "empty folders", [f"{number_of(empty, 'folder')} without a file"] if empty else [], privacy=True
    )


def medium(book: CheckList, root: Path, expected: Expected, progress: Progress) -> None:
    """Check a medium with a DICOMDIR."""
    record = artifacts.require(root, MediaRecord, fix="make the medium again from the archive")
    digests(book, root, record.checksums, leave_out=(artifacts.place(MediaRecord),), progress=progress)
    _empty_folders(book, root)
    medium_checks.check(book, root, record, expected, progress)


def predictions(book: CheckList, root: Path, progress: Progress) -> None:
    """Check the output of `meninx predict`."""
    if not completion(book, root):
        return
    record = artifacts.require(root, PredictRecord, fix="predict again")
    digests(book, root, record.checksums, leave_out=(workspace.PRIVATE, *_OWN_PAPERS), progress=progress)
    modes(book, root)


def features(book: CheckList, root: Path, progress: Progress) -> None:
    """Check the output of `meninx obfuscate features`."""
    if not completion(book, root):
        return
    record = artifacts.require(root, ObfuscationRecord, fix="release the features again")
    digests(book, root, record.checksums, leave_out=(workspace.PRIVATE, *_OWN_PAPERS), progress=progress)
    table = csv_table.read_table(root / MANIFEST_NAME, ("case_id", "patient_id", "split"))
    patients = {row.get("patient_id") for row in table}
    wrong = []
    if (record.cases, record.patients) != (len(table), len(patients)):
        wrong.append(f"other numbers of cases or patients than {artifacts.place(ObfuscationRecord)} says")
    if {*table.columns} != {"case_id", "patient_id", "split", *record.published}:
        wrong.append(f"other columns than {artifacts.place(ObfuscationRecord)} says")
    book.judge(
        "manifest",
        wrong,
        remark=f"{number_of(len(table), 'vector')} of {number_of(len(patients), 'patient')}",
    )
    _release(book, root, None)
    modes(book, root)


def release(book: CheckList, root: Path, progress: Progress) -> None:
    """Check a release, or a bundle of one, that lies apart from its run."""
    home = (
        root
        if (root / integrity.CHECKSUMS).is_file() or not (root.parent / integrity.CHECKSUMS).is_file()
        else root.parent
    )
    digests(book, home, "", progress=progress)


def released_files(book: CheckList, root: Path, recorded: str, progress: Progress) -> None:
    """Check the release of a run, with what ``report`` and ``evaluate`` entered into its list."""
    digests(book, root, recorded, progress=progress)


def _regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file() and (folder / "models").is_dir()


def _stage(folder: Path) -> str:
    marker = workspace.read_marker(folder)
    return marker.stage if marker else ""
