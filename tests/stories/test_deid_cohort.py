"""Three hospitals' archives with planted identifiers, de-identified and checked by separate code."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, UID_dictionary

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import tree

from meninx.deid.config import DeidConfig
from meninx.deid.deid_result import DeidResult
from meninx.deid.output import PUBLIC_FILES
from meninx.deid.stage import run
from meninx.imaging.decode import quiet
from meninx.synthetic.key import COMMON, NOT_BYTES, PlantedFile, encodings

REASONS = {
    **{"truncated": "truncated", "not_dicom": "not-dicom", "dicomdir": "dicomdir"},
    **{"encapsulated": "encapsulated-pdf", "duplicate": "duplicate-identical"},
}
PICTURES = {"PixelData", "PixelData bit 15"}


@dataclass(frozen=True)
class Cleaned:
    """One hospital: its result, the output of every file, and who is who."""

    out: Path
    result: DeidResult
    outputs: dict[str, Path]
    refused: dict[str, str]
    uids: dict[str, str]


def deidentify(cohort, hospital: str, folder: Path, *, flip: int = 0, workers: int = 1) -> Cleaned:
    key = folder / f"{hospital}.key"
    folder.mkdir(parents=True, exist_ok=True)
    key.write_bytes(bytes(sign ^ flip for sign in hashlib.sha256(hospital.encode()).digest()))
    key.chmod(0o600)
    source, out = cohort.root / hospital / "archive", folder / hospital
    result = run(DeidConfig(key=key, site=hospital, workers=workers, pixels="keep"), source, out)
    lines = (out / "private" / "journal.jsonl").read_text().splitlines()
    outputs = {
        f"archive/{e['path']}": out / e["output"] for e in map(json.loads, lines) if e["status"] == "written"
    }
    refused = {f"archive/{row['path']}": row["reason"] for row in table(out, "quarantine.csv")}
    return Cleaned(
        out,
        result,
        outputs,
        refused,
        {row["id_old"]: row["id_new"] for row in table(out, "crosswalk_uids.csv")},
    )


def table(out: Path, name: str) -> list[dict[str, str]]:
    with (out / "private" / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def clean(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    return {hospital: deidentify(cohort, hospital, folder) for hospital in cohort.config.hospitals}


@pytest.fixture(scope="module")
def pairs(cohort, clean) -> list[tuple[PlantedFile, Dataset, Dataset]]:
    """Every written file: what was planted, the original, the output."""
    found = []
    for planted in cohort.key.files:
        output = clean[planted.hospital].outputs.get(planted.file)
        if output is not None:
            original = pydicom.dcmread(cohort.root / planted.hospital / planted.file, force=True)
            with quiet():  # originals are full of what pydicom warns of; outputs are not
                list(elements(original))
            found.append((planted, original, pydicom.dcmread(output)))
    return found


def elements(data: Dataset, path: str = "") -> Iterator[tuple[str, int, str, object]]:
    """Yield (path, tag, VR, value) of every element of every depth.

    What no parser understands as its bytes.
    """
    for tag in list(data.keys()):
        try:
            element = data[tag]
        except BytesLengthException:
            yield f"{path}{tag}", int(tag), "UN", bytes(data.get_item(tag).value)
            continue
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from elements(item, f"{path}{tag}[{number}]/")
        else:
            yield f"{path}{tag}", int(tag), element.VR, element.value


def values(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]


def public_bytes(out: Path) -> Iterator[tuple[str, bytes]]:
    """Yield everything that leaves the hospital: names, raw bytes, inflated bytes, decoded elements."""
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if name.split("/")[0] == "private":
            continue
        yield f"name of {name}", name.encode()
        if path.is_file():
            yield name, path.read_bytes()
        if path.suffix == ".dcm":
            data = pydicom.dcmread(path)
            if data.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
                raw = path.read_bytes()
                end = 144 + int.from_bytes(raw[140:144], "little")
                yield f"{name}, inflated", zlib.decompressobj(-15).decompress(raw[end:])
            texts = [
                str(value)
                for where, _, _, value in (*elements(data), *elements(data.file_meta))
                if "7fe0" not in where
            ]
            yield f"{name}, decoded", "\n".join(texts).encode()


def leaked(content: Iterator[tuple[str, bytes]], needles: set[bytes]) -> set[tuple[str, bytes]]:
    """Return (place, string) of every planted string found, in any case."""
    found = set()
    lower = sorted({needle.lower() for needle in needles})
    for place, data in content:
        text = data.lower()
        found |= {(place, needle) for needle in lower if needle in text}
    return found


def test_no_planted_string_is_in_anything_public(cohort, clean):
    needles = cohort.key.needles()
    assert len(needles) > 500
    for cleaned in clean.values():
        assert not leaked(public_bytes(cleaned.out), needles)
        said = cleaned.result.summary() + cleaned.result.to_json()
        assert not leaked(iter([("result", said.encode())]), needles)


def test_the_judge_finds_every_plant_in_the_originals(cohort):
    """What finds nothing in the outputs must find everything in the inputs."""
    for planted in cohort.key.files:
        raw = (cohort.root / planted.hospital / planted.file).read_bytes()
        content = [raw]
        if planted.transfer_syntax == DeflatedExplicitVRLittleEndian:
            end = 144 + int.from_bytes(raw[140:144], "little")
            content.append(zlib.decompressobj(-15).decompress(raw[end:]))
        if planted.form == "pdf":
            assert b"FlateDecode" in raw
            continue
        for path, kind, value in planted.plants:
            if kind in COMMON | NOT_BYTES:
                continue
            assert any(form in data for form in encodings(value) for data in content), (
                planted.file,
                path,
                kind,
            )


def test_a_leak_of_any_kind_is_seen(cohort, clean, tmp_path):
    """Plant one string in each public place of a copy: the judge sees each of them."""
    name = next(iter(cohort.key.strings()))
    for place in ("deid.json", "audit.jsonl", "images/new.txt"):
        copy = tmp_path / place.replace("/", "_")
        shutil.copytree(clean["north"].out, copy)
        with (copy / place).open("a", encoding="utf-8") as stream:
            stream.write(name)
        assert leaked(public_bytes(copy), cohort.key.needles())
    copy = tmp_path / "element"
    shutil.copytree(clean["north"].out, copy)
    for path in sorted(copy.rglob("*.dcm")):
        data = pydicom.dcmread(path)
        if data.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
            data.Manufacturer = "Quellbrunn"
            data.save_as(path)
            break
    assert {place.rpartition(", ")[2] for place, _ in leaked(public_bytes(copy), {b"Quellbrunn"})} == {
        "inflated",
        "decoded",
    }


def test_every_file_is_written_or_kept_out_for_the_right_reason(cohort, clean):
    for planted in cohort.key.files:
        cleaned = clean[planted.hospital]
        twins = [one.file for one in cohort.key.files if planted.sop_uid and one.sop_uid == planted.sop_uid]
        if planted.quarantine in ("", "no_preamble") and len(twins) < 2:
            assert planted.file in cleaned.outputs, planted.file
        elif len(twins) == 2:
            assert [cleaned.refused.get(file, "") for file in sorted(twins)] == ["", "duplicate-identical"]
        else:
            assert cleaned.refused[planted.file] == REASONS[planted.quarantine]
            assert planted.file not in cleaned.outputs
    for cleaned in clean.values():
        written = {path for path in cleaned.out.rglob("*") if path.is_file() and "private" not in path.parts}
        assert written == {
            *cleaned.outputs.values(),
            *(cleaned.out / name for name in PUBLIC_FILES),
        }
        assert cleaned.result.residual_findings == 0
        assert len(cleaned.outputs) + len(cleaned.refused) == cleaned.result.files_read


def test_text_in_pixels_is_counted_and_nothing_else_is(cohort, clean):
    """Pixels are carried as they are: the one documented exception, told in numbers."""
    for hospital, cleaned in clean.items():
        files = [one for one in cohort.key.files if one.hospital == hospital and one.file in cleaned.outputs]
        pictures = [one for one in files if any(path in PICTURES for path, _, _ in one.plants)]
        assert cleaned.result.burned_in_unknown == len(pictures) > 0
        assert f"NOT checked: {len(pictures)} images" in cleaned.result.summary()
        assert json.loads((cleaned.out / "deid.json").read_text())["burned_in_unknown"] == len(pictures)


def test_plain_pixels_are_carried_byte_by_byte_and_compressed_ones_look_the_same(pairs):
    """A picture in an unused bit is cleared, and the pixels beside it stay."""
    compressed = cleared = 0
    for planted, original, new in pairs:
        if any(path == "PixelData bit 15" for path, _, _ in planted.plants):
            cleared += 1
            words = np.frombuffer(original.PixelData, dtype="<u2") & 0x0FFF
            assert np.array_equal(np.frombuffer(new.PixelData, dtype="<u2"), words), planted.file
            continue
        if "PixelData" in original and original["PixelData"].is_undefined_length:
            compressed += 1
            assert np.array_equal(new.pixel_array, original.pixel_array), planted.file
        else:
            assert new.get("PixelData") == original.get("PixelData"), planted.file
    assert compressed
    assert cleared


def test_safe_private_elements_and_numbers_of_reports_stay(pairs):
    kept = 0
    for planted, original, new in pairs:
        for path, kind, value in planted.safe:
            if kind != "safe_private":
                continue
            place, creator = path.split(" ", 1)
            group, offset = int(place[1:5], 16), int(place[8:10], 16)
            tag = new.private_block(group, creator).get_tag(offset)
            before = original.private_block(group, creator).get_tag(offset)
            assert decoded(new, tag) == decoded(original, before)
            told = decoded(new, tag)
            assert value in (told if isinstance(told, list) else [told]), path
            kept += 1
        blocks = [tag for tag in list(new.keys()) if tag.is_private and not tag.is_private_creator]
        assert len(blocks) == len({path for path, kind, _ in planted.safe if kind == "safe_private"}), (
            planted.file
        )
    assert kept > 100
    reports = [new for planted, _, new in pairs if planted.form == "sr"]
    assert [str(ds.ContentSequence[2].MeasuredValueSequence[0].NumericValue) for ds in reports] == [
        "0.48"
    ] * 3
    assert all("no effusion" in ds.ContentSequence[1].TextValue for ds in reports)


def decoded(data: Dataset, tag) -> str | list[str]:
    """Return the text of a private value, whichever VR the file and the dictionary give it."""
    try:
        value = data[tag].value
    except BytesLengthException:
        value = bytes(data.get_item(tag).value).decode().strip()
    return [str(one) for one in values(value)] if len(values(value)) > 1 else str(value)


def test_patient_characteristics_stay_and_the_oldest_are_ninety(cohort, pairs):
    capped = 0
    for planted, original, new in pairs:
        for keyword in ("PatientSex", "PatientSize", "PatientWeight", "SmokingStatus"):
            assert new.get(keyword) == original.get(keyword), keyword
        age = int(original.PatientAge[:3])
        assert new.PatientAge == (f"{age:03d}Y" if age < 90 else "090Y")
        capped += age > 89
        assert new.PatientBirthDate in ("", None), planted.file
    assert capped


def day(text: str) -> date | None:
    found = re.match(r"(\d{4})(\d{2})(\d{2})", text)
    return date(*map(int, found.groups())) if found else None


def test_all_dates_of_a_patient_move_by_one_shift_and_times_stay(pairs):
    shifts: dict[str, set[int]] = defaultdict(set)
    kept = 0
    for planted, original, new in pairs:
        before = {path: value for path, tag, vr, value in elements(original) if not tag >> 16 & 1}
        for path, _, vr, value in elements(new):
            if vr in ("DA", "DT") and value:
                old, moved = day(str(before[path])), day(str(value))
                assert old, path
                assert moved, path
                shifts[planted.patient].add((moved - old).days)
                assert str(value)[8:] == str(before[path])[8:]
                kept += 1
            if vr == "TM" and value:
                assert str(value) == str(before[path])
        assert new.StudyDate, planted.file
        assert new.StudyTime == original.StudyTime
    assert kept > 350
    assert all(len(days) == 1 for days in shifts.values()), "one shift a patient"
    assert len({min(days) for days in shifts.values()}) == len(shifts) == 18, "different shifts"


def test_intervals_between_studies_are_exact(cohort, pairs):
    told: dict[str, set[date]] = defaultdict(set)
    for planted, _, new in pairs:
        told[planted.patient].add(day(new.StudyDate))
    for truth in cohort.key.patients:
        before = [day(text) for text in truth.study_dates]
        after = sorted(told[truth.patient])
        assert [(b - after[0]).days for b in after] == [(b - before[0]).days for b in before]


def test_uids_are_valid_consistent_and_injective_and_references_hold(pairs, clean):
    for cleaned in clean.values():
        assert len(set(cleaned.uids.values())) == len(cleaned.uids)
    everyone = [new for cleaned in clean.values() for new in cleaned.uids.values()]
    assert len(everyone) == len(set(everyone)), "no UID is shared between hospitals"
    for planted, original, new in pairs:
        uids = clean[planted.hospital].uids
        before = {path: value for path, _, _, value in elements(original)}
        for path, _, vr, value in elements(new):
            for old, one in (
                zip(values(before.get(path)), values(value), strict=True) if vr == "UI" and value else ()
            ):
                assert UID(str(one)).is_valid
                assert str(one) == (str(old) if str(old) in UID_dictionary else uids[str(old)]), path
        assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID == uids[planted.sop_uid]
        assert new.file_meta.MediaStorageSOPClassUID == new.SOPClassUID == original.SOPClassUID
        syntax = ImplicitVRLittleEndian if planted.quarantine == "no_preamble" else planted.transfer_syntax
        assert new.file_meta.TransferSyntaxUID == syntax
    written = {str(new.SOPInstanceUID) for _, _, new in pairs}
    for planted, _, new in pairs:
        if planted.form == "sr":
            assert new.ContentSequence[3].ReferencedSOPSequence[0].ReferencedSOPInstanceUID in written
        if planted.form == "gsps":
            assert (
                new.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID in written
            )
        if "ReferencedStudySequence" in new:
            assert new.ReferencedStudySequence[0].ReferencedSOPInstanceUID == new.StudyInstanceUID


def test_each_person_has_one_pseudonym_of_their_own(cohort, pairs):
    """Three people called 0000123 at three hospitals, a padded ID, reports that leave the issuer out."""
    names: dict[str, set[str]] = defaultdict(set)
    for planted, _, new in pairs:
        names[planted.patient].add(new.PatientID)
        assert str(new.PatientName) == new.PatientID
    assert {truth.patient for truth in cohort.key.patients} == set(names)
    assert all(len(one) == 1 for one in names.values()), names
    assert len(set.union(*names.values())) == 18
    padded = [
        one
        for one in cohort.key.files
        for path, _, value in one.plants
        if path == "PatientID" and " " in value
    ]
    assert len(padded) > 3
    number = [truth for truth in cohort.key.patients if truth.patient_id == "0000123"]
    assert len(number) == 3


def test_descriptors_keep_their_words(pairs):
    """Written by nobody's hand but the scanner's: body part, view, phase, thickness, kernel."""
    kept = total = 0
    for planted, _, new in pairs:
        for keyword, kind, value in planted.safe:
            if kind == "descriptor" and "/" not in keyword:
                words = value.split()
                total += len(words)
                kept += sum(word in str(new.get(keyword)).split() for word in words)
    assert total > 300
    assert kept / total >= 0.95


def test_the_number_of_workers_leaves_no_trace(cohort, clean, tmp_path):
    again = deidentify(cohort, "north", tmp_path, workers=2)
    assert tree(again.out) == tree(clean["north"].out)


def test_another_key_changes_every_identifier(cohort, clean, tmp_path):
    other, first = deidentify(cohort, "north", tmp_path, flip=1), clean["north"]
    assert set(other.uids) == set(first.uids)
    assert not set(other.uids.values()) & set(first.uids.values())
    shifts = set()
    for file, path in first.outputs.items():
        one, two = (
            pydicom.dcmread(path, stop_before_pixels=True),
            pydicom.dcmread(other.outputs[file], stop_before_pixels=True),
        )
        assert one.PatientID != two.PatientID
        shifts.add(day(one.StudyDate) == day(two.StudyDate))
        assert not one.AccessionNumber or one.AccessionNumber != two.AccessionNumber
    assert shifts == {False}


def test_no_public_attribute_is_left_that_the_table_removes(pairs):
    """The identifying attributes of the cohort are gone or empty, at any depth."""
    gone = re.compile(
        "Physician|Operator|Institution|Address|Telephone|Birth|Insurance|Station|Serial|Issuer|OtherPatient|URL"
    )
    for planted, _, new in pairs:
        for path, tag, _, value in elements(new):
            keyword = pydicom.datadict.keyword_for_tag(tag) if not tag >> 16 & 1 else ""
            assert not (gone.search(keyword) and value), (planted.form, path, keyword)
            assert tag >> 16 & 1 or dictionary_VR(tag)


def test_drawings_thumbnails_and_padding_are_gone(cohort, pairs):
    """Pictures of text in the header: overlays, curves, icons; no byte search sees them."""
    planted = [path for one in cohort.key.files for path, kind, _ in one.plants if kind == "bitmap"]
    assert {"(6000,3000)", "(6002,3000)", "IconImageSequence[0]/PixelData"} <= set(planted)
    for one, _, new in pairs:
        tags = [tag for _, tag, _, _ in elements(new)]
        assert not [tag for tag in tags if tag >> 24 in (0x50, 0x60) or tag >> 16 in (0x0088, 0xFFFC)], (
            one.file
        )
        assert "IconImageSequence" not in new
        assert tags.count(0x7FE00010) <= 1
