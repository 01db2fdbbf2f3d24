"""The answer key: every planted identifier with its place, and the attributes of every patient."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from meninx.core import files
from meninx.core.errors import LayoutError, expected

KEY_NAME: Final = "answer_key.json"
# Kinds whose values are common numbers: a shifted date or a capped age may equal that of another patient, so
# finding one in the output does not prove a leak.
COMMON: Final = frozenset({"date", "age"})
#: kinds that are not text in the file: pictures of text, and names of files
NOT_BYTES: Final = frozenset({"burned_in", "bitmap", "file_name"})
_CODECS: Final = ("utf-8", "latin-1", "iso8859_5", "iso2022_jp")


@dataclass(frozen=True)
class Plant:
    """One planted value at one place.

    Attributes:
        hospital: name of the hospital.
        file: path below the hospital's folder.
        path: place in the file: DICOM keywords or tags with item numbers, ``preamble``, ``file name``,
            ``PixelData``, ...
        kind: ``name``, ``id``, ``phone``, ``email``, ``address``, ``date``, ``age``, ``uid``,
            ``institution``, ``device``, ``physician``, ``url``, ``burned_in``, ``bitmap``, ``file_name``; of
            values that may stay ``safe_private``, ``descriptor``.
        value: the text.
    """

    hospital: str
    file: str
    path: str
    kind: str
    value: str


@dataclass(frozen=True)
class PlantedFile:
    """One file of an archive.

    Attributes:
        hospital: name of the hospital.
        file: path below the hospital's folder.
        form: ``dx``, ``ct``, ``sr``, ``gsps``, ``pdf``, ``dicomdir``, ``text``.
        patient: key of the patient's :class:`Truth`, empty for none.
        study_uid, series_uid, sop_uid: original UIDs, empty if the file has none.
        transfer_syntax: UID of the encoding.
        quarantine: reason why a de-identifier must not pass on the file: ``truncated``, ``not_dicom``,
            ``dicomdir``, ``encapsulated``; ``duplicate`` and ``no_preamble`` may also be accepted (once);
            empty for a file that must be cleaned and passed on.
        boxes: burned-in text as (left, top, right, bottom) pixel boxes, right and bottom exclusive.
        plants: (path, kind, value) of all planted values.
        safe: (path, kind, value) of all values that may stay.
    """

    hospital: str
    file: str
    form: str
    patient: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    transfer_syntax: str = ""
    quarantine: str = ""
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    plants: tuple[tuple[str, str, str], ...] = ()
    safe: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Truth:
    """The true attributes of one invented patient: one row of the truth table.

    Attributes:
        patient: key of the patient, unique over hospitals, e.g. ``north/0``.
        hospital: name of the hospital.
        patient_id: PatientID without padding; two hospitals may use the same one for different people.
        sex, age: as in the header; ``age`` in whole years at the first study.
        birth_date: DICOM date.
        study_dates: DICOM dates of the studies, in time order.
        findings: names of all findings.
    """

    patient: str
    hospital: str
    patient_id: str
    sex: str
    age: int
    birth_date: str
    study_dates: tuple[str, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True)
class AnswerKey:
    """All facts about the archives that an evaluation needs and that a de-identifier must not see."""

    files: tuple[PlantedFile, ...] = ()
    patients: tuple[Truth, ...] = field(default=())

    @property
    def plants(self) -> tuple[Plant, ...]:
        """All planted values at all places."""
        return tuple(Plant(one.hospital, one.file, *plant) for one in self.files for plant in one.plants)

    @property
    def safe(self) -> tuple[Plant, ...]:
        """All values that may stay if the option for it (safe private, clean descriptors) is chosen."""
        return tuple(Plant(one.hospital, one.file, *plant) for one in self.files for plant in one.safe)

    @property
    def quarantine(self) -> dict[tuple[str, str], str]:
        """Quarantine reason by (hospital, file), including ``duplicate`` and ``no_preamble``."""
        return {(one.hospital, one.file): one.quarantine for one in self.files if one.quarantine}

    def of(self, hospital: str, file: str) -> PlantedFile:
        """Return the record of one file, or raise KeyError if there is none."""
        for one in self.files:
            if (one.hospital, one.file) == (hospital, file):
                return one
        raise KeyError((hospital, file))

    def strings(self, *, without: Collection[str] = COMMON) -> set[str]:
        """Return all distinct planted values except those of the kinds ``without``.

        None of them may occur in any output.
        """
        return {value for one in self.files for _, kind, value in one.plants if kind not in without}

    def needles(self, *, without: Collection[str] = COMMON) -> set[bytes]:
        """Return :meth:`strings` in all encodings of the archives, for searches in bytes."""
        return {form for value in self.strings(without=without) for form in encodings(value)}

    def write(self, out: Path) -> None:
        """Write the key as ``answer_key.json`` into a folder."""
        files.write_text(out / KEY_NAME, json.dumps(asdict(self), ensure_ascii=False, sort_keys=True) + "\n")


def read_answer_key(path: Path) -> AnswerKey:
    """Return the key in a file, or in the folder that :func:`write_archives` wrote.

    Raises:
        LayoutError: the file does not exist or is not an answer key.
    """
    path = path / KEY_NAME if path.is_dir() else path
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        planted = tuple(_file(row) for row in table["files"])
        truths = tuple(
            Truth(**{**row, "study_dates": tuple(row["study_dates"]), "findings": tuple(row["findings"])})
            for row in table["patients"]
        )
        return AnswerKey(planted, truths)
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "make it with write_archives"
        raise LayoutError(
            expected("an answer key", got=type(error).__name__, where=str(path), fix=fix)
        ) from error


def encodings(value: str) -> set[bytes]:
    """Return a text as bytes in each encoding of the archives that can represent it."""
    forms: set[bytes] = set()
    for codec in _CODECS:
        try:
            forms.add(value.encode(codec))
        except UnicodeEncodeError:
            continue
    return forms


def _file(row: dict[str, Any]) -> PlantedFile:
    lists = {name: tuple(tuple(item) for item in row[name]) for name in ("boxes", "plants", "safe")}
    return PlantedFile(**{**row, **lists})
