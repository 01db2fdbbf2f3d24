"""A medium from a clean archive: its files under short names, and a DICOMDIR that lists them.

Everything follows from the files of the archive and its list of digests, so two runs give the same bytes. A
DICOMDIR of the source plays no part: it was never copied into the archive.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Literal, TypedDict

from pydicom.dataset import Dataset
from pydicom.uid import UID

from meninx.core import artifacts, check, clean_archive, files, integrity, staging, workspace
from meninx.core.artifacts import DeidRecord, MediaRecord
from meninx.core.clean_archive import STATEMENT
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.folder_signature import SIGNATURE
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.core.staging import Build
from meninx.core.summaries import number_of, unsearched
from meninx.dicom import copies
from meninx.dicomfile import directory_records
from meninx.dicomfile.directory_file import DirectoryFile
from meninx.dicomfile.directory_records import KEYWORDS, PATIENT, PRIVATE, SERIES, STUDY, StandIns
from meninx.imaging import decode

DIRECTORY, PAPERS = "DICOMDIR", "papers"
SIGNED_PAPERS = (artifacts.place(DeidRecord), integrity.CHECKSUMS, STATEMENT, SIGNATURE)
"""Files of the archive that go with the medium, where the archive has them."""
Way = Literal["copy", "hardlink"]
MOST = 1_000_000  # of patients, of studies of a patient, ...: a name has six digits
_LEVELS = ("PT", "ST", "SE", "IM")
_IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_ORDERING = (*_IDENTIFIERS, "StudyDate", "StudyTime", "SeriesNumber", "InstanceNumber")
_WHOLE = re.compile(r"[+-]?[0-9]{1,12}")
_COUNTED = ("", "StudyID", "SeriesNumber", "InstanceNumber")  # the number of a level, where the file has none


@dataclass(frozen=True, kw_only=True)
class MediaResult(Result):
    """What is on the medium.

    Attributes:
        files: instances.
        patients: distinct patients.
        studies: distinct studies.
        series: distinct series.
        private_records: name of a SOP class -> instances with a private record, because the class has no type
            of record or the file lacks a value that the type requires.
        stand_ins: keyword -> records that got a value that the archive does not have.
        written: files that this run copied or linked.
        signer: fingerprint of the key whose signature fits the archive; empty where none was checked.
        unchecked: why no signature was checked; empty where it was.
        burned_in_unknown: images of the archive that may show text in their pixels, which were not searched.
        dry_run: nothing was written.
    """

    files: int
    patients: int
    studies: int
    series: int
    private_records: dict[str, int] = field(default_factory=dict)
    stand_ins: dict[str, int] = field(default_factory=dict)
    written: int = 0
    signer: str = ""
    unchecked: str = ""
    burned_in_unknown: int = 0
    dry_run: bool = False

    def alerts(self) -> tuple[str, ...]:
        """Return what somebody has to look at before the medium leaves."""
        found = [f"no signature was checked: {self.unchecked}"] if self.unchecked else []
        if not self.burned_in_unknown:
            return tuple(found)
        return (
            *found,
            f"{unsearched(self.burned_in_unknown)}; look at private/review.html of the archive before the "
            "medium leaves",
        )

    def summary(self) -> str:
        """Return what the medium holds, and what its DICOMDIR says that the files do not."""
        lines = [
            f"{number_of(self.files, 'file')} of {number_of(self.patients, 'patient')}, "
            f"{number_of(self.studies, 'study', 'studies')}, {self.series:,} series"
            + (" (dry run: nothing was written)" if self.dry_run else "")
        ]
        lines += [] if self.dry_run else [f"burn or hand over the whole folder: {self.out}"]
        if self.stand_ins:
            counted = ", ".join(f"{name} ({number})" for name, number in self.stand_ins.items())
            lines.append(f"the DICOMDIR has stand-ins for values that the archive leaves empty: {counted}")
        for name, number in self.private_records.items():
            lines.append(
                f"private records, which viewers pass over: {number} of {name or 'an unknown class'}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ListedInstance:
    """One instance.

    Attributes:
        patient: PatientID.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        number: InstanceNumber; 0 without.
        instance: SOPInstanceUID.
        path: relative path of the file.
    """

    patient: str
    study: str
    series: str
    number: int
    instance: str
    path: str


@dataclass(frozen=True, slots=True)
class Placed:
    """An instance under its name on the medium.

    Attributes:
        entry: the instance.
        name: the four components of its File ID.
        level: 0 for the first file of a patient, 1 of a study, 2 of a series, 3 for any other.
    """

    entry: ListedInstance
    name: tuple[str, str, str, str]
    level: int

    @property
    def path(self) -> str:
        """Relative path on the medium."""
        return "/".join(self.name)


def write_medium(
    source: Path, out: Path, *, way: Way = "copy", dry_run: bool = False, progress: Progress = SILENT
) -> MediaResult:
    """Write the files of a clean archive and a DICOMDIR to a new folder, ready to be burned.

    The names are ``PT000000/ST000000/SE000000/IM000000``, numbered in the order of the new identifiers. The
    medium is built aside and moved into place when it is complete; a killed run goes on where it stopped.

    Guarantee: each DICOM file has the bytes that the archive's list of digests names. The DICOMDIR holds
        values of these files and stand-ins, and nothing of the private folder or of the source.

    Args:
        source: folder that `meninx deid` wrote.
        out: new folder, outside the archive.
        way: ``copy``, or ``hardlink`` on the same file system.
        dry_run: read, check and count everything, write nothing.
        progress: advanced by every file.

    Raises:
        DataError: the archive is not complete, or a file differs from its digest or cannot be read.
        PrivacyRefusal: the archive is not the one that its key signed.
        UsageError: ``out`` holds other files, or one folder lies within the other.
        RunLocked: another process writes to ``out``.
        StorageError: the disk refused.
    """
    check.one_of(("copy", "hardlink"), way=way)
    copies.refuse_inside(source, out)
    record, listed = _archive(source)
    signer, unchecked = _signer(source, record)
    medium, uid = placed(planned(source, listed, progress)), file_set_uid(listed.values())
    if dry_run:
        _check_output(source, out, medium, listed, way, progress)
        with tempfile.TemporaryFile() as stream:
            said = write_directory(stream, medium, lambda one: source / one.entry.path, uid, progress)
        return MediaResult(
            out=out,
            **counted(medium),
            private_records=said.private,
            stand_ins=said.stand_ins,
            signer=signer,
            unchecked=unchecked,
            burned_in_unknown=record.burned_in_unknown,
            dry_run=True,
        )
    with copies.building(source, out, record.checksums, way, last=artifacts.place(MediaRecord)) as build:
        _refuse_others(out, {one.path for one in medium})
        written = _copied(source, build, medium, listed, way, progress)
        for name in (name for name in SIGNED_PAPERS if (source / name).is_file()):
            copies.place_file(source / name, build, f"{PAPERS}/{name}", name, way="copy", overwrite=False)
        with files.atomic(build.new(DIRECTORY)) as stream:
            said = write_directory(stream, medium, lambda one: build.existing(one.path), uid, progress)
        summary = MediaRecord(
            **counted(medium),
            private_records=said.private,
            stand_ins=said.stand_ins,
            archive=record.checksums,
            signer=signer,
            checksums=integrity.write(build.staged, _digests(build, medium, listed)),
            software=software(),
        )
        artifacts.write(build.staged, summary)
    return MediaResult(
        out=out,
        **counts_of(summary),
        private_records=summary.private_records,
        stand_ins=summary.stand_ins,
        written=written,
        signer=signer,
        unchecked=unchecked,
        burned_in_unknown=record.burned_in_unknown,
    )


def planned(root: Path, paths: Iterable[str], progress: Progress = SILENT) -> list[ListedInstance]:
    """Return the instances in the order of the DICOMDIR.

    Patients are in the order of their IDs, studies of their dates, series and instances of their numbers.

    Args:
        root: folder of the files.
        paths: relative path of each.
        progress: advanced by every file.

    Raises:
        DataError: there is none, or one is not readable as DICOM, lacks an identifier, or is there twice.
    """
    entries, days, numbers = (
        list[ListedInstance](),
        dict[tuple[str, str], str](),
        dict[tuple[str, str], int](),
    )
    known = list(paths)
    if not known:
        raise DataError(problem("the archive holds no clean images", where=root.name))
    with task(progress, "read headers", len(known)):
        for path in known:
            header = _header(files.below(root, path, where=integrity.CHECKSUMS), path)
            patient, study, series, instance = (header[name] for name in _IDENTIFIERS)
            if not (patient and study and series and instance):
                raise DataError(problem("an identifier of the instance is missing", where=path))
            entries.append(
                ListedInstance(patient, study, series, _number(header["InstanceNumber"]), instance, path)
            )
            day = header["StudyDate"] + header["StudyTime"]
            days[patient, study] = min(day, days.get((patient, study), day))
            number = _number(header["SeriesNumber"])
            numbers[study, series] = min(number, numbers.get((study, series), number))
            progress.advance()
    if len({entry.instance for entry in entries}) < len(entries):
        raise DataError(problem("two files are the same instance", where=root.name))
    entries.sort(
        key=lambda one: (
            one.patient, days[one.patient, one.study], one.study, numbers[one.study, one.series], one.series,
            one.number, one.instance,
        )
    )  # fmt: skip
    return entries


def placed(entries: Iterable[ListedInstance]) -> list[Placed]:
    """Return each instance with its name on the medium.

    Raises:
        DataError: there are more patients, studies of a patient, ... than numbers.
    """
    found, before, numbers = list[Placed](), ("", "", "", ""), [-1, 0, 0, 0]
    for entry in entries:
        keys = (entry.patient, entry.study, entry.series, entry.instance)
        level = next(n for n in range(4) if keys[n] != before[n])
        numbers[level] += 1
        numbers[level + 1 :] = [0] * (3 - level)
        if numbers[level] >= MOST:
            rule, fix = f"at most {MOST:,} in one folder of a medium", "write several media"
            raise DataError(expected(rule, got="more", where=DIRECTORY, fix=fix))
        patient, study, series, instance = (f"{_LEVELS[n]}{numbers[n]:06d}" for n in range(4))
        found.append(Placed(entry, (patient, study, series, instance), level))
        before = keys
    return found


class MediumCounts(TypedDict):
    """Numbers of files, patients, studies and series."""

    files: int
    patients: int
    studies: int
    series: int


def counted(medium: Iterable[Placed]) -> MediumCounts:
    """Return how many files, patients, studies and series a medium holds."""
    levels = [one.level for one in medium]
    return {
        "files": len(levels),
        "patients": levels.count(0),
        "studies": levels.count(0) + levels.count(1),
        "series": len(levels) - levels.count(3),
    }


def counts_of(record: MediaRecord) -> MediumCounts:
    """Return the same numbers as a summary says them."""
    return {
        "files": record.files,
        "patients": record.patients,
        "studies": record.studies,
        "series": record.series,
    }


@dataclass(frozen=True)
class Said:
    """What a DICOMDIR says beside what the files say.

    Attributes:
        private: name of a SOP class -> private records.
        stand_ins: keyword -> records with a stand-in.
    """

    private: dict[str, int]
    stand_ins: dict[str, int]


def write_directory(
    stream: IO[bytes],
    medium: Iterable[Placed],
    find: Callable[[Placed], Path | None],
    uid: str,
    progress: Progress = SILENT,
) -> Said:
    """Write the DICOMDIR of a medium; memory does not depend on the number of records.

    Args:
        stream: empty, open for writing, with ``seek``.
        medium: the instances in order.
        find: instance -> its file.
        uid: UID of the file-set.
        progress: advanced by every file.

    Raises:
        DataError: a file cannot be read, or the DICOMDIR would exceed 4 GiB.
    """
    private, stand_ins, known = Counter[str](), StandIns(), list(medium)
    with DirectoryFile(stream, uid) as directory, task(progress, "write the DICOMDIR", len(known)):
        for one in known:
            try:
                path = find(one) or Path(one.path)
                header = decode.open_dataset(path, pixels=False, keywords=KEYWORDS)
                with decode.quiet():
                    private.update(_add(directory, one, header, stand_ins))
            except DataError:
                raise
            except Exception as error:
                got = f"what no record can say ({type(error).__name__})"
                rule = "a header that a DICOMDIR can list"
                raise DataError(expected(rule, got=got, where=one.entry.path)) from None
            progress.advance()
    return Said(dict(sorted(private.items())), dict(sorted(stand_ins.used.items())))


def _add(directory: DirectoryFile, one: Placed, header: Dataset, stand_ins: StandIns) -> list[str]:
    """Add the records that begin with an instance; return its class where its record is a private one."""
    numbers = {name: int(one.name[n][2:]) + 1 for n, name in enumerate(_COUNTED) if name}
    empty = stand_ins.fill(header, numbers)
    for level, kind in enumerate((PATIENT, STUDY, SERIES)):
        if one.level <= level:
            record = directory_records.entity(kind, header)
            stand_ins.count(record, empty)
            directory.add(level, kind, directory_records.encoded(record))
    kind, record = directory_records.instance(header, one.name)
    stand_ins.count(record, empty)
    directory.add(3, kind, directory_records.encoded(record))
    return [UID(header.SOPClassUID).name] if kind == PRIVATE else []


def file_set_uid(digests: Iterable[str]) -> str:
    """Return the UID of a file-set, a function of the digests of its DICOM files."""
    drawn = hashlib.sha256("\n".join(["meninx file-set", *sorted(digests)]).encode()).digest()[:16]
    return f"2.25.{uuid.UUID(bytes=drawn, version=4).int}"


def software() -> str:
    """Return the programs whose versions the bytes of a DICOMDIR can depend on."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("meninx", "pydicom"))


def _archive(source: Path) -> tuple[DeidRecord, dict[str, str]]:
    """Return the summary of a complete clean archive, and the digests of its images.

    Raises:
        DataError: it is none, it is being changed, or its list is not the one that the summary names.
    """
    record, marker = artifacts.read(source, DeidRecord), workspace.read_marker(source)
    unfinished = marker is not None and not workspace.is_complete(source)  # a delivery has no private room
    if record is None or not record.checksums or unfinished:
        fix = "give the folder that `meninx deid` wrote; if it was interrupted, run the same command again"
        got = "a folder that is not one"
        raise DataError(expected("a complete clean archive", got=got, where=source.name, fix=fix))
    if integrity.digest_of(source) != record.checksums:
        fix = "`meninx verify` says what was changed"
        what = "the list of digests is not the one that deid.json names"
        raise DataError(problem(what, where=integrity.CHECKSUMS, fix=fix))
    listed = {name: value for name, value in integrity.read(source).items() if clean_archive.is_image(name)}
    return record, dict(sorted(listed.items()))


def _signer(source: Path, record: DeidRecord) -> tuple[str, str]:
    """Return the fingerprint of the key that signed an archive, or why none was checked.

    Raises:
        DataError: its signature is none.
        PrivacyRefusal: its signature does not fit.
    """
    if not (source / SIGNATURE).is_file():
        return "", f"the archive has no {SIGNATURE}, and `meninx verify` will refuse a medium that needs one"
    if importlib.util.find_spec("cryptography") is None:
        return "", "cryptography is not installed; pip install cryptography"
    return clean_archive.checked_signer(source, record), ""


def _copied(
    source: Path, build: Build, medium: list[Placed], listed: dict[str, str], way: Way, progress: Progress
) -> int:
    """Copy or link each file, check its digest, and return how many were not there before."""
    count = 0
    with task(progress, "copy to the medium", len(medium)):
        for one in medium:
            path = files.below(source, one.entry.path, where=integrity.CHECKSUMS)
            count += copies.place_file(path, build, one.path, one.entry.path, way=way, overwrite=False)
            _refuse_changed(build.existing(one.path) or path, one, listed)
            progress.advance()
    return count


def _check_output(
    source: Path, out: Path, medium: list[Placed], listed: dict[str, str], way: Way, progress: Progress
) -> None:
    """Refuse what a run that writes would refuse: other files in the output, and files that were changed."""
    papers = {f"{PAPERS}/{name}": source / name for name in SIGNED_PAPERS if (source / name).is_file()}
    names = {one.path for one in medium}
    staging.check(out, [*names, *papers])
    if out.exists():
        _refuse_others(out, names)
    build = Build(out, out / staging.FOLDER)  # nothing is written to it
    with task(progress, "check the files", len(medium)):
        for one in medium:
            path = files.below(source, one.entry.path, where=integrity.CHECKSUMS)
            copies.is_there(path, build, one.path, one.entry.path, way=way, overwrite=False)
            _refuse_changed(path, one, listed)
            progress.advance()
    for name, path in papers.items():
        copies.is_there(path, build, name, path.name, way="copy", overwrite=False)


def _refuse_changed(path: Path, one: Placed, listed: dict[str, str]) -> None:
    if not files.is_file_of(path, listed[one.entry.path]):
        fix = "`meninx verify` says what was changed"
        raise DataError(problem("the file differs from its digest", where=one.entry.path, fix=fix))


def _digests(build: Build, medium: list[Placed], listed: dict[str, str]) -> dict[str, str]:
    """Return the digest of every file of the medium, by its path."""
    papers = [DIRECTORY, *(f"{PAPERS}/{name}" for name in SIGNED_PAPERS)]
    there = {name: path for name in papers if (path := build.existing(name)) is not None}
    return {one.path: listed[one.entry.path] for one in medium} | {
        name: files.digest(path) for name, path in there.items()
    }


def _refuse_others(out: Path, names: set[str]) -> None:
    """Refuse an output folder with files that do not belong to this medium.

    Raises:
        UsageError: it holds one.
    """
    ours = {DIRECTORY, integrity.CHECKSUMS, artifacts.place(MediaRecord), *names}
    ours |= {f"{PAPERS}/{name}" for name in SIGNED_PAPERS}
    for path in out.rglob("*"):
        name = path.relative_to(out)
        if name.parts[0] != staging.FOLDER and not path.is_dir() and name.as_posix() not in ours:
            fix = "choose a new folder"
            raise UsageError(problem("the output folder holds other files", where=out.name, fix=fix))


def _header(path: Path, name: str) -> dict[str, str]:
    """Return the values by which a file is ordered, and its identifiers.

    Raises:
        DataError: it cannot be read, or one of them is malformed; the file is named.
    """
    try:
        return decode.header_texts(decode.open_dataset(path, pixels=False, keywords=_ORDERING), _ORDERING)
    except DataError as error:
        raise DataError(problem(f"the file cannot be read ({error})", where=name)) from None


def _number(text: str) -> int:
    return int(text) if _WHOLE.fullmatch(text) else 0
