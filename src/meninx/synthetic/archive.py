"""DICOM archives of invented hospitals: images, unusual files, label tables, masks and the answer key."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from meninx.core import files
from meninx.core.errors import UsageError, expected
from meninx.core.progress import SILENT, Progress, task
from meninx.core.randomness import child
from meninx.synthetic import abdomen, dataset, decoys, instances, plants
from meninx.synthetic.cohort import PADDED, CohortMember, PhantomConfig, members, study_of, visit
from meninx.synthetic.dataset import write_nifti, write_png
from meninx.synthetic.instances import NATIVE, TURNS, HeaderWriter, Visit, encode
from meninx.synthetic.key import AnswerKey, PlantedFile
from meninx.synthetic.people import FINDINGS, plain_letters

IN_TURN = plants.IN_TURN + plants.PRIVATE_IN_TURN
COLUMNS = ("SOPInstanceUID", "SeriesInstanceUID", "PatientID", *FINDINGS, "mask")
TILTS = ((0.0, 0.0), (12.0, -7.0), (0.0, 0.0))
CT_SYNTAXES = (TURNS[0], TURNS[1], TURNS[5])


def write_archives(
    config: PhantomConfig, out: Path, *, overwrite: bool = False, progress: Progress = SILENT
) -> AnswerKey:
    """Write the hospitals' archives and return the answer key.

    Writes ``out/<hospital>/archive/**`` (DICOM and other files), ``out/<hospital>/labels.csv`` and
    ``out/<hospital>/masks/*`` (by original identifiers), and ``out/answer_key.json``.

    Args:
        config: settings of the cohort; the same settings give the same bytes.
        out: folder to write.
        overwrite: write even if the folder already contains a cohort.
        progress: shows one unit per patient.

    Raises:
        UsageError: the folder is not empty and ``overwrite`` is False.
    """
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise UsageError(
            expected(
                "an empty folder", got="one with files", where=str(out), fix="choose another or overwrite"
            )
        )
    everyone = members(config)
    shelves = {key: HospitalFolder(config, out, key) for key in config.hospitals}
    with task(progress, "phantom", len(everyone)):
        for position, member in enumerate(everyone):
            shelf = shelves[member.home.key]
            shelf.radiographs(member)
            if position < config.ct_patients:
                shelf.series(member, position)
            progress.advance()
    for shelf in shelves.values():
        if config.planted:
            shelf.oddities([member for member in everyone if member.home.key == shelf.hospital])
        shelf.close()
    truths = tuple(member.truth(ct=position < config.ct_patients) for position, member in enumerate(everyone))
    key = AnswerKey(tuple(one for shelf in shelves.values() for one in shelf.written), truths)
    key.write(out)
    return key


class HospitalFolder:
    """Writer of one hospital's folder."""

    def __init__(self, config: PhantomConfig, out: Path, hospital: str) -> None:
        self.config = config
        self.root = out / hospital
        self.hospital = hospital
        self.written: list[PlantedFile] = []
        self.labels: list[Sequence[str]] = []
        self.images = 0

    def radiographs(self, member: CohortMember) -> None:
        """Write all radiographs of a patient with masks and label rows."""
        config = self.config
        # One image of the padded patient has the padding and one does not: both must get the same pseudonym.
        for number, flags in enumerate(member.subject.images):
            where = visit(
                member,
                config.seed,
                study_of(number),
                f"dx{number}",
                plain_id=not (member.number == PADDED and number == 0),
            )
            drawn = dataset.render(
                member.subject,
                number,
                config.size,
                config.seed,
                contrast=config.contrast,
                disparity=config.disparity,
            )
            mask = f"masks/{_opaque(where.sop_uid)}.png"
            write_png(self.root / mask, drawn.mask)
            self.labels.append(
                (
                    where.sop_uid,
                    where.series_uid,
                    member.who.patient_id,
                    *(str(int(flag)) for flag in flags),
                    mask,
                )
            )
            self._radiograph(member, where, drawn.array)
            self.images += 1

    def _radiograph(self, member: CohortMember, where: Visit, array: dataset.Pixels) -> None:
        """Write one DX file; burned-in text, planted attributes, encoding and name vary by rotation."""
        n, record = self.images, HeaderWriter()
        draw = child(self.config.seed, "burn", self.hospital, n).random()
        burned = draw < self.config.burned_in_fraction or (n == 4 and self.config.burned_in_fraction > 0)
        boxes: tuple[plants.TextBox, ...] = ()
        if burned:
            lines = _burned_lines(member)
            array, boxes = plants.burn(array, lines, 4095)
            record.note("PixelData", "burned_in", *lines)
        # Every fifth image is inverted, so that a reader that ignores MONOCHROME1 is noticed.
        data = instances.dx(where, record, array, inverted=n % 5 == 3, burned=burned)
        syntax = TURNS[n % len(TURNS)]
        if self.config.planted:
            self._plant(data, where, record, n)
            if n == 2 and syntax in NATIVE:
                plants.spare_bits(data, where, record)
        container = self.config.planted and n % 4 < 2
        content = encode(data, syntax, visit=where if container else None, record=record)
        self._store(
            content,
            where,
            record,
            "dx",
            syntax=syntax,
            boxes=boxes,
            telling=self.config.planted and n % 6 == 2,
        )
        # The same instance a second time: a de-identifier must pass on at most one of them.
        if self.config.planted and n == 3:
            self._store(content, where, record, "dx", syntax=syntax, boxes=boxes, quarantine="duplicate")

    def _plant(self, data: Dataset, where: Visit, record: HeaderWriter, n: int) -> None:
        """Plant identifiers in one image: some kinds always, a quarter of the others (all in the first)."""
        for planter in plants.EVERYWHERE:
            planter(data, where, record)
        for turn, planter in enumerate(IN_TURN):
            if n == 0 or (n + turn) % 4 == 0:
                planter(data, where, record)

    def series(self, member: CohortMember, position: int) -> None:
        """Write one CT series, straight, oblique or last slice first, with its label map and label row."""
        study = study_of(len(member.subject.images) - 1) + 1
        volume = abdomen.volume(self.config.seed, member.subject.index, self.config.ct_size)
        stack = abdomen.slices(volume, tilt=TILTS[position % 3])
        count = len(stack.places)
        for k, place in enumerate(stack.places):
            # In every third series the instance numbers run against the positions; slices must be sorted by
            # position.
            number = count - k if position % 3 == 2 else k + 1
            where = replace(
                visit(member, self.config.seed, study, "ct", instance=k + 1), instance_number=number
            )
            record = HeaderWriter()
            data = instances.ct(where, record, stack.slices[k], place)
            if self.config.planted:
                plants.demographics(data, where, record)
                plants.staff(data, where, record)
            syntax = CT_SYNTAXES[position % 3]
            self._store(encode(data, syntax), where, record, "ct", syntax=syntax)
        mask = f"masks/{_opaque(where.series_uid)}.nii.gz"
        write_nifti(self.root / mask, stack.labels, stack.affine)
        self.labels.append(("", where.series_uid, member.who.patient_id, "", "", "", mask))

    def oddities(self, patients: Sequence[CohortMember]) -> None:
        """Write the report, the presentation state, the PDF, the DICOMDIR, the text and the broken files."""
        member, seed = patients[-1], self.config.seed
        image = visit(member, seed, 0, "dx0")
        dx_class = str(DigitalXRayImageStorageForPresentation)
        for form, build, reason in (
            ("sr", lambda where, record: decoys.report(where, record, image, dx_class), ""),
            ("gsps", lambda where, record: decoys.presentation(where, record, image, dx_class), ""),
            ("pdf", decoys.pdf, "encapsulated"),
        ):
            where, record = visit(member, seed, 0, form), HeaderWriter()
            self._store(encode(build(where, record), visit=None), where, record, form, quarantine=reason)
        record = HeaderWriter()
        where = visit(member, seed, 0, "dicomdir")
        self._store(
            encode(decoys.directory(where, record)),
            where,
            record,
            "dicomdir",
            quarantine="dicomdir",
            name="DICOMDIR",
        )
        record = HeaderWriter()
        self._store(
            decoys.worklist(where, record), where, record, "text", quarantine="not_dicom", name="worklist.csv"
        )
        array = dataset.render(member.subject, 0, self.config.size, seed).array
        for reason in ("truncated", "no_preamble"):
            where, record = visit(member, seed, 0, reason), HeaderWriter()
            data = instances.dx(where, record, array)
            plants.demographics(data, where, record)
            content = (
                decoys.bare(data) if reason == "no_preamble" else encode(data)[: -data.Rows * data.Columns]
            )
            self._store(content, where, record, "dx", quarantine=reason)

    def _store(
        self,
        content: bytes,
        where: Visit,
        record: HeaderWriter,
        form: str,
        *,
        syntax: str = ExplicitVRLittleEndian,
        boxes: tuple[plants.TextBox, ...] = (),
        quarantine: str = "",
        telling: bool = False,
        name: str = "",
    ) -> None:
        """Write a file under its name and add its record to the key."""
        planted = list(record.plants)
        opaque = _opaque(f"{where.sop_uid}/{quarantine}")
        ending = (".dcm", "", "")[len(self.written) % 3]
        file = f"archive/{opaque[:2]}/{opaque[2:]}{ending}"
        if telling:
            file = f"archive/{where.who.family}, {where.who.given}/{where.who.other_id}_{where.day}{ending}"
            planted += [
                ("file name", "file_name", part)
                for part in (where.who.family, where.who.given, where.who.other_id)
            ]
        if name:
            file = f"archive/{name}"
        files.write_bytes(self.root / file, content)
        has_uids = form not in ("text", "dicomdir")
        self.written.append(
            PlantedFile(
                hospital=self.hospital,
                file=file,
                form=form,
                patient=where.patient,
                study_uid=where.study_uid if has_uids else "",
                series_uid=where.series_uid if has_uids else "",
                sop_uid=where.sop_uid if has_uids else "",
                transfer_syntax="" if form == "text" else str(syntax),
                quarantine=quarantine,
                boxes=boxes,
                plants=tuple(dict.fromkeys(planted)),
                safe=tuple(record.safe),
            )
        )

    def close(self) -> None:
        """Write the label table."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(self.labels)
        files.write_text(self.root / "labels.csv", buffer.getvalue())


def _burned_lines(member: CohortMember) -> list[str]:
    """Return the lines that are burned into the pixels: the name and the birth date.

    A name in another script is replaced by the patient's number.
    """
    name = plain_letters(member.who.family)
    name = name if name.isascii() else member.who.patient_id
    return [name, f"DOB {member.who.birth_date.strftime('%d.%m.%Y')}"]


def _opaque(name: str) -> str:
    """Return a file name that contains no identifier."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]
