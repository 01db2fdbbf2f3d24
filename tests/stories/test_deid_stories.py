"""Stories of de-identification: a hospital's archive in, an archive without patients' identities out."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import (
    KEY,
    NAME,
    PATIENT_ID,
    ROOT,
    clean,
    image,
    images,
    item,
    key_file,
    leaks,
    nested,
    one,
    save,
    tree,
)

from meninx.core.errors import DataError, Interrupted, PrivacyRefusal, RunLocked, StorageError, UsageError
from meninx.core.progress import Silent
from meninx.core.workspace import locked
from meninx.deid import actions, stage, worker
from meninx.deid.config import DeidConfig
from meninx.deid.identity.keys import make_key
from meninx.deid.options import Option
from meninx.dicom.export import survey
from meninx.imaging.decode import quiet
from meninx.imaging.tags import NOT_REVIEWED
from meninx.prepare.readers import clean_dicom
from meninx.synthetic import PhantomConfig, write_archives


def test_an_archive_comes_out_without_its_patients(tmp_path):
    for number in (1, 2):
        save(image(number), tmp_path / "in" / "2019" / NAME / f"IM{number}")
    result = clean(tmp_path)
    assert (result.files_read, result.files_written, result.patients, result.studies, result.series) == (
        2,
        2,
        1,
        1,
        1,
    )
    assert not leaks(tmp_path / "out")
    ds = pydicom.dcmread(images(tmp_path / "out")[0])
    assert ds.PatientIdentityRemoved == "YES"
    assert ds.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [code.CodeValue for code in ds.DeidentificationMethodCodeSequence] == sorted(
        ["113100", "113103", "113104", "113105", "113107", "113108", "113111"]
    )
    assert ds.PatientAge == "057Y"
    assert ds.PatientSex == "F"
    assert not ds.PatientBirthDate
    # What was removed leaves a keyed mark, so that two descriptions do not become one.
    assert re.fullmatch(r"CT CHEST #[0-9A-Z]{5}", ds.StudyDescription)
    assert ds.SeriesDescription == "Thorax axial"
    assert ds.Manufacturer == "ACME"
    assert ds.pixel_array.tobytes() == image().PixelData


def test_identifiers_planted_at_every_depth_and_in_every_kind_of_element_are_gone(tmp_path):
    ds = image()
    ds.DerivationImageSequence = Sequence(
        [nested(4, item(PatientName=NAME, ContentDate="20190314", TextString="Marigold"))]
    )
    ds.OriginalAttributesSequence = Sequence(
        [item(ModifiedAttributesSequence=Sequence([item(PatientName=NAME)]))]
    )
    ds.RetrieveURL = f"http://willowmere.example/{PATIENT_ID}"
    ds.ImageComments = f"Seen with {NAME}"
    ds.add_new(0x00091001, "LO", "Quillfeather")  # private, without a creator
    block = ds.private_block(0x0011, "ACME HOSPITAL", create=True)
    block.add_new(0x01, "SQ", Sequence([item(PatientName=NAME)]))
    ds.add_new(0x00189999, "UT", "Marigold Quillfeather")  # even group, unknown
    ds.add_new(0x00080070, "LO", "ACME for Quillfeather")  # an element that stays, with a name in it
    ds.add_new(0x00180015, "CS", "MARIGOLD")
    ds.add_new(0x60003000, "OW", bytes(8))
    ds.add_new(0x60004000, "LT", "Marigold")
    ds.add_new(0xFFFCFFFC, "OB", b"Marigold")
    save(
        ds,
        tmp_path / "in" / "a",
        preamble=b"Marigold".ljust(128, b"!"),
        SourceApplicationEntityTitle="WILLOWMERE",
    )
    assert clean(tmp_path).files_written == 1
    out = images(tmp_path / "out")[0]
    assert not leaks(tmp_path / "out")
    assert out.read_bytes()[:128] == bytes(128)
    read = pydicom.dcmread(out)
    assert set(read.file_meta.keys()) == {Tag(0x00020000 + n) for n in (0, 1, 2, 3, 0x10, 0x12, 0x13)}
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID
    assert not [e.tag for e in read if e.tag.is_private or (e.tag.group >= 0x6000 and e.tag.group < 0x7000)]
    assert "OriginalAttributesSequence" not in read
    assert read.Manufacturer == "ACME for"


@pytest.mark.parametrize("implicit", [True, False])
def test_a_sequence_hidden_in_an_unknown_value_is_walked(tmp_path, implicit):
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_sequence

    inner = DicomBytesIO()
    inner.is_implicit_VR, inner.is_little_endian = implicit, True
    hidden = item(PatientName=NAME, SliceThickness="2.5", ReferencedSOPInstanceUID=f"{ROOT}.3.1.1.1")
    write_sequence(inner, DataElement(0x00089215, "SQ", Sequence([hidden])), ["iso8859"])
    ds = image()
    content = inner.getvalue()
    ds._dict[Tag(0x00089215)] = RawDataElement(Tag(0x00089215), "UN", len(content), content, 0, False, True)
    new = one(tmp_path, ds)
    assert not leaks(tmp_path / "out")
    assert new.DerivationCodeSequence[0].SliceThickness == 2.5
    assert new.DerivationCodeSequence[0].ReferencedSOPInstanceUID == new.SOPInstanceUID


def test_safe_private_elements_stay_and_their_neighbours_go(tmp_path):
    ds = image()
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0F, "SH", "Quillfeather")
    new = one(tmp_path, ds)
    assert new[0x0019100C].value == 1000
    assert new[0x00190010].value == "SIEMENS MR HEADER"
    assert 0x0019100F not in new
    assert not [e for e in one(tmp_path, ds, out="basic", profile="basic") if e.tag.is_private]


def test_intervals_between_two_studies_and_times_of_day_stay(tmp_path):
    save(image(study=1), tmp_path / "in" / "a")
    save(
        image(study=2, StudyDate="20190622", AcquisitionDateTime="20190622101500.5+0100"),
        tmp_path / "in" / "b",
    )
    clean(tmp_path)
    first, second = sorted(
        (pydicom.dcmread(path) for path in images(tmp_path / "out")), key=lambda ds: ds.StudyDate
    )

    def day(text):
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))

    assert (day(second.StudyDate) - day(first.StudyDate)).days == 100
    assert first.StudyTime == "101500.25"
    assert second.AcquisitionDateTime[8:] == "101500.5+0100"
    assert second.AcquisitionDateTime[:8] == second.StudyDate
    assert -3650 <= (day(first.StudyDate) - date(2019, 3, 14)).days <= -365


def test_references_between_files_still_point_to_each_other(tmp_path):
    save(image(1), tmp_path / "in" / "a")
    save(
        image(
            2,
            ReferencedImageSequence=Sequence(
                [
                    item(
                        ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2",
                        ReferencedSOPInstanceUID=f"{ROOT}.3.1.1.1",
                    )
                ]
            ),
        ),
        tmp_path / "in" / "b",
    )
    clean(tmp_path)
    files = {ds.InstanceNumber: ds for ds in map(pydicom.dcmread, images(tmp_path / "out"))}
    reference = files[2].ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == files[1].SOPInstanceUID
    assert reference.ReferencedSOPClassUID == files[1].SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert files[1].StudyInstanceUID == files[2].StudyInstanceUID
    assert UID(files[1].SOPInstanceUID).is_valid


def test_the_same_number_at_two_hospitals_is_two_patients_and_a_padded_one_is_the_same(tmp_path):
    save(image(1), tmp_path / "in" / "a")
    save(image(2, PatientID="  0000123 "), tmp_path / "in" / "b")
    save(image(3, PatientID="123"), tmp_path / "in" / "c")
    save(image(4, IssuerOfPatientID="SOUTH"), tmp_path / "in" / "d")
    assert (
        clean(tmp_path, out="before").patients == 2
    )  # leading zeros tell people apart, blanks and one issuer do not
    save(image(5, IssuerOfPatientID="EAST"), tmp_path / "in" / "e")
    merged = clean(tmp_path)  # a second issuer gave out the number: its file is kept out, nothing is merged
    assert (merged.patients, merged.quarantined) == (2, {"issuer-conflict": 1})
    rule = {"issuers": "separate", "registry": tmp_path / "apart.registry"}
    assert clean(tmp_path, out="apart", **rule).patients == 4
    apart = {pydicom.dcmread(path).PatientID for path in images(tmp_path / "apart")}
    north = {pydicom.dcmread(path).PatientID for path in images(tmp_path / "out")}
    assert north < apart  # whom the policy does not concern, it does not rename
    clean(tmp_path, out="south", site="south")
    south = {pydicom.dcmread(path).PatientID for path in images(tmp_path / "south")}
    assert not apart & south
    assert len(apart | south) == 6


def test_empty_accession_numbers_merge_nobody(tmp_path):
    for number, patient in enumerate(("P1", "P2", "P2"), start=1):
        save(
            image(number, study=number, PatientID=patient, AccessionNumber=""), tmp_path / "in" / str(number)
        )
    assert clean(tmp_path).patients == 2
    assert all(pydicom.dcmread(path).AccessionNumber == "" for path in images(tmp_path / "out"))


def test_files_without_a_patient_id_are_never_merged_across_studies(tmp_path):
    for number in (1, 2):
        save(image(number, study=number, PatientID=""), tmp_path / "in" / str(number))
    assert clean(tmp_path).patients == 2


def test_workers_order_and_folder_names_leave_no_trace(tmp_path):
    for number in range(6):
        save(image(number, series=number % 2), tmp_path / "in" / f"f{number}")
    clean(tmp_path, out="one", workers=1)
    clean(tmp_path, out="two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_second_run_does_no_work(tmp_path, monkeypatch):
    for number in range(3):
        save(image(number), tmp_path / "in" / f"f{number}")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    save(image(0), tmp_path / "in" / "zz_again")
    first = clean(tmp_path)
    before = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "out").rglob("*.*")
        if path.suffix in (".dcm", ".csv", ".html")
    }
    monkeypatch.setattr(worker, "_deidentified", None)
    second = clean(tmp_path)
    assert second.files_resumed == 5
    assert replace(second, files_resumed=0) == first
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(before) >= 8


def test_a_run_cut_anywhere_ends_in_the_same_tree(tmp_path):
    for number in range(4):
        save(image(number), tmp_path / "in" / f"f{number}")
    save(image(0), tmp_path / "in" / "z_duplicate")
    clean(tmp_path, out="whole")
    journal = (tmp_path / "whole" / "private" / "journal.jsonl").read_bytes()
    for cut in (0, 10, len(journal) // 3, len(journal) // 2, len(journal) - 5):
        out = tmp_path / f"cut{cut}"
        clean(tmp_path, out=out.name)
        staging = out / "private" / "staging"
        staging.mkdir()
        for name in ("images", "deid.json", "audit.jsonl", "checksums.sha256"):
            (out / name).rename(staging / name)
        marker = out / "private" / "workspace.json"
        fingerprint = json.loads(marker.read_text())["published"]
        marker.write_text(json.dumps({"stage": "deid", "building": fingerprint}))
        (out / "private" / "journal.jsonl").unlink()
        (staging / "journal.jsonl").write_bytes(journal[:cut])
        (staging / "waiting").mkdir()
        (staging / "waiting" / "half.dcm").write_bytes(b"half")
        assert clean(tmp_path, out=out.name).files_resumed == journal[:cut].count(b"\n")
        assert tree(out) == tree(tmp_path / "whole")


def test_a_changed_output_of_the_same_size_is_made_again(tmp_path):
    for number in range(3):
        save(image(number), tmp_path / "in" / f"f{number}")
    clean(tmp_path)
    whole = tree(tmp_path / "out")
    path = images(tmp_path / "out")[1]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert clean(tmp_path).files_resumed == 2
    assert tree(tmp_path / "out") == whole


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_kill_minus_nine_and_run_again(tmp_path, kind):
    for number in range(30):
        save(image(number), tmp_path / "in" / f"f{number:02d}")
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "in")
        shutil.rmtree(tmp_path / "in")
        (tmp_path / "in").mkdir()
        (tmp_path / "packed.zip").rename(tmp_path / "in" / "delivery")
    script = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from meninx.deid import worker, stage
        from meninx.deid.config import DeidConfig
        real = worker._deidentified
        def slow(*given):
            time.sleep(0.02)
            return real(*given)
        worker._deidentified = slow
        here = Path({str(tmp_path)!r})
        config = DeidConfig(key=here / {key_file(tmp_path).name!r}, site="north", workers=1)
        stage.run(config, here / "in", here / "out")
        """
    )
    started = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").rglob("*.dcm"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "out" / "deid.json").exists()
    resumed = clean(tmp_path)
    assert 0 < resumed.files_resumed < 30
    assert resumed.files_written == 30
    clean(tmp_path, out="whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_ctrl_c_saves_what_is_done(tmp_path):
    for number in range(4):
        save(image(number), tmp_path / "in" / f"f{number}")

    class Impatient(Silent):
        def advance(self, count=1, **fields):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        stage.run(
            DeidConfig(key=key_file(tmp_path), site="north", workers=1),
            tmp_path / "in",
            tmp_path / "out",
            progress=Impatient(),
        )
    assert clean(tmp_path).files_resumed == 1
    clean(tmp_path, out="whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_nothing_happens_without_a_key(tmp_path):
    save(image(), tmp_path / "in" / "a")
    for key in (None, tmp_path / "absent", key_file(tmp_path, b"x" * 31, "short")):
        with pytest.raises(PrivacyRefusal):
            clean(tmp_path, key=key)
    assert not (tmp_path / "out").exists()
    made = make_key(tmp_path / "keys" / "new.key")
    assert made.stat().st_mode & 0o777 == 0o600
    assert len(made.read_bytes()) >= 32
    with pytest.raises(PrivacyRefusal):
        make_key(made)
    assert clean(tmp_path, key=made).files_written == 1


def test_one_bit_of_the_key_changes_every_replacement(tmp_path):
    flipped = key_file(tmp_path, bytes([KEY[0] ^ 1]) + KEY[1:], "flipped")
    a, b = one(tmp_path, image(), out="a"), one(tmp_path, image(), out="b", key=flipped)
    for keyword in (
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "StudyDate",
    ):
        assert a[keyword].value != b[keyword].value, keyword


def test_the_self_check_keeps_a_leaking_file_out(tmp_path, monkeypatch):
    save(image(), tmp_path / "in" / "a")
    real = actions._replacement
    monkeypatch.setattr(
        actions,
        "_replacement",
        lambda action, tag, vr, text, context: (
            text if tag == actions.PATIENT_NAME else real(action, tag, vr, text, context)
        ),
    )
    result = clean(tmp_path)
    assert result.files_written == 0
    assert result.residual_findings == 1
    assert result.quarantined == {"residual-identifier": 1}
    assert not (tmp_path / "out" / "images").exists()
    assert not list((tmp_path / "out").rglob("*.dcm"))


@pytest.mark.parametrize("place", ["PatientID", "dates", "uids", "accession"])
def test_the_self_check_sees_every_kind_of_identifier(tmp_path, monkeypatch, place):
    save(image(), tmp_path / "in" / "a")
    if place == "uids":
        monkeypatch.setattr(actions, "_uids", lambda action, tag, text, context: text)
    elif place == "dates":
        monkeypatch.setattr(actions, "_dates", lambda tag, vr, values, days, context: "\\".join(values))
    else:
        tag = actions.PATIENT_ID if place == "PatientID" else actions.ACCESSION
        real = actions._replacement
        monkeypatch.setattr(
            actions, "_replacement", lambda a, t, vr, text, c: text if t == tag else real(a, t, vr, text, c)
        )
    assert clean(tmp_path).quarantined == {"invalid-uid" if place == "uids" else "residual-identifier": 1}


def test_a_dry_run_tells_and_writes_nothing(tmp_path):
    save(image(), tmp_path / "in" / "a")
    result = clean(tmp_path, dry_run=True)
    assert result.files_written == 0
    assert result.patients == 1
    assert not (tmp_path / "out").exists()
    assert result.actions["PatientName"] == {"Z": 1}
    assert result.actions["StudyDate"] == {"C": 1}
    assert "Quillfeather" not in result.to_json()
    assert "nothing was written" in result.summary()


def test_the_hospital_brings_its_own_pseudonyms_and_gets_them_back(tmp_path):
    for number, patient in enumerate(("A,1", "B 2", "C3"), start=1):
        save(
            image(number, study=number, PatientID=patient, AccessionNumber=f"{number}00,77"),
            tmp_path / "in" / str(number),
        )
    table = tmp_path / "lookup.csv"
    columns = "old_patient_id,new_patient_id,old_accession_number,new_accession_number"
    table.write_text(f'{columns}\n"A,1",TRIAL-001,"100,77",ACC-1\n"b 2",TRIAL-002,,\n')
    clean(tmp_path, lookup=table, lookup_out=True)
    new = {ds.StudyDate and ds.PatientID: ds for ds in map(pydicom.dcmread, images(tmp_path / "out"))}
    assert {"TRIAL-001", "TRIAL-002"} < set(new)
    assert new["TRIAL-001"].AccessionNumber == "ACC-1"
    with (tmp_path / "out" / "private" / "lookup.csv").open(newline="") as stream:
        rows = {row["old_patient_id"]: row for row in csv.DictReader(stream)}
    assert rows["A,1"]["new_patient_id"] == "TRIAL-001"
    assert rows["A,1"]["old_accession_number"] == "100,77"
    clean(tmp_path, out="again", lookup=tmp_path / "out" / "private" / "lookup.csv")
    assert {p.name for p in images(tmp_path / "again")} == {p.name for p in images(tmp_path / "out")}
    strict = clean(tmp_path, out="strict", lookup=table, missing_lookup="quarantine")
    assert strict.quarantined == {"not-in-lookup": 1}
    assert strict.files_written == 2


def test_what_cannot_be_cleaned_is_named_and_never_copied(tmp_path):
    source = tmp_path / "in"
    whole = save(image(), source / "good")
    (source / "report.pdf").write_bytes(b"%PDF-1.7 Marigold")
    (source / "empty").write_bytes(b"")
    (source / "old.zip").write_bytes(b"PK\x03\x04Marigold")
    (source / "cut").write_bytes(whole.read_bytes()[:-40])
    (source / "cut_header").write_bytes(whole.read_bytes()[:700])
    save(image(2, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1"), source / "pdf")
    save(image(3, SOPClassUID="1.2.3.4.5.6.7.8.9"), source / "unknown_class")
    save(image(4, PixelData=None), source / "video", syntax="1.2.840.10008.1.2.4.102")
    save(image(5, SOPClassUID="1.2.840.10008.1.3.10"), source / "DICOMDIR")
    save(image(6, StudyInstanceUID=None), source / "no_study")
    save(image(1, InstanceNumber="9"), source / "same_instance")
    save(image(8, PixelData=None), source / "strange_syntax", syntax="1.2.3.4")
    save(image(9), tmp_path / "elsewhere" / "a")
    (source / "link").symlink_to(tmp_path / "elsewhere" / "a")
    (source / "linked_folder").symlink_to(tmp_path / "elsewhere")
    result = clean(tmp_path)
    assert result.files_written == 1
    with (tmp_path / "out" / "private" / "quarantine.csv").open(newline="") as stream:
        told = {row["path"]: row["reason"] for row in csv.DictReader(stream)}
    assert told == {
        **{
            "report.pdf": "not-dicom",
            "empty": "not-dicom",
            "old.zip": "zip-damaged",
            "cut": "truncated",
            "cut_header": "truncated",
        },
        **{
            "pdf": "encapsulated-pdf",
            "unknown_class": "unsupported-sop-class",
            "video": "video",
            "DICOMDIR": "dicomdir",
        },
        **{"no_study": "missing-identity", "same_instance": "duplicate-different", "link": "symlink-outside"},
        **{"linked_folder": "symlink-outside", "strange_syntax": "unsupported-transfer-syntax"},
    }
    assert not leaks(tmp_path / "out", ("Marigold", "same_instance", "report.pdf", "cut_header"))
    assert json.loads((tmp_path / "out" / "deid.json").read_text())["quarantined"]["truncated"] == 2


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, "1.2.840.10008.1.2.1.99"])
def test_every_uncompressed_syntax_is_kept(tmp_path, syntax):
    ds = image()
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = np.arange(64, dtype=">u2").tobytes()
    new = one(tmp_path, ds, syntax=syntax)
    assert new.file_meta.TransferSyntaxUID == syntax
    assert new.PixelData == ds.PixelData
    assert np.array_equal(new.pixel_array.ravel(), np.arange(64))
    assert not leaks(tmp_path / "out")


def test_a_file_without_preamble_and_meta_is_read(tmp_path):
    save(image(), tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bare").write_bytes(data[data.index(b"\x08\0\5\0CS") :])
    assert clean(tmp_path).files_written == 1
    assert not leaks(tmp_path / "out")


def test_the_oldest_patients_become_ninety(tmp_path):
    new = one(tmp_path, image(PatientBirthDate="19200101", PatientAge="099Y"))
    assert new.PatientAge == "090Y"
    assert not new.PatientBirthDate
    assert "PatientAge" not in one(tmp_path, image(PatientAge="099Y"), out="basic", profile="basic")


@pytest.mark.parametrize(
    ("charset", "name", "parts"),
    [
        ("ISO_IR 192", "Müller-Lüdenscheidt^Jürgen=山田^太郎", ("Lüdenscheidt", "Jürgen", "山田", "太郎")),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", ("Yamada", "山田", "やまだ")),
        ("GB18030", "Wang^XiaoDong=王^小东", ("XiaoDong", "小东")),
    ],
)
def test_names_in_other_scripts_are_removed_everywhere(tmp_path, charset, name, parts):
    new = one(
        tmp_path,
        image(
            SpecificCharacterSet=charset,
            PatientName=name,
            Manufacturer=f"ACME {name.split('^')[0].split('=')[-1]}",
        ),
    )
    content = b"".join(
        data for path, data in tree(tmp_path / "out").items() if not path.startswith("private/")
    )
    for part in parts:
        assert all(part.encode(coding) not in content for coding in ("utf-8", "gb18030"))
    assert str(new.PatientName).isascii()
    assert new.Manufacturer.startswith("ACME")


def test_dates_may_be_kept_or_removed_instead(tmp_path):
    kept = one(tmp_path, image(), out="full", options=(Option.RETAIN_FULL_DATES,))
    assert kept.StudyDate == "20190314"
    assert kept.LongitudinalTemporalInformationModified == "UNMODIFIED"
    assert not kept.PatientBirthDate
    assert "113106" in [code.CodeValue for code in kept.DeidentificationMethodCodeSequence]
    removed = one(tmp_path, image(), out="basic", profile="basic")
    assert removed.StudyDate == ""
    assert removed.LongitudinalTemporalInformationModified == "REMOVED"
    assert [code.CodeValue for code in removed.DeidentificationMethodCodeSequence] == ["113100"]


def test_what_an_option_keeps_is_no_leak(tmp_path):
    new = one(
        tmp_path,
        image(StationName="CT-ROOM-77"),
        options=(Option.RETAIN_INSTITUTION, Option.RETAIN_DEVICE, Option.RETAIN_UIDS),
    )
    assert new.InstitutionName == "Willowmere Infirmary"
    assert new.StationName == "CT-ROOM-77"
    assert new.SOPInstanceUID == image().SOPInstanceUID
    assert not leaks(tmp_path / "out", ("Quillfeather", "0000123"))


def test_overrides_come_first_but_cannot_keep_the_identity(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('PatientSex = "X"\nSeriesDescription = "X"\n')
    new = one(tmp_path, image(), overrides=rules)
    assert "PatientSex" not in new
    assert "SeriesDescription" not in new
    assert "rules of the site" in str(new.DeidentificationMethod)
    for rule in ('PatientName = "K"\n', 'StudyDate = "K"\n', '"0008,002A" = "K"\n'):
        rules.write_text(rule)  # a date that stays tells the shift of those beside it
        with pytest.raises(PrivacyRefusal):
            clean(tmp_path, out="kept", overrides=rules)
    dated = one(tmp_path, image(), out="dated", overrides=rules, profile="basic")
    assert str(dated.LongitudinalTemporalInformationModified) == "REMOVED"


def test_without_renaming_the_folders_keep_their_shape_and_lose_their_names(tmp_path):
    for name in ("Marigold/day1/a", "Marigold/day2/a"):
        save(image(len(name), study=int(name[12])), tmp_path / "in" / name)
    clean(tmp_path, rename=False)
    first, second = (path.relative_to(tmp_path / "out" / "images") for path in images(tmp_path / "out"))
    assert len(first.parts) == 3
    assert first.parts[0] == second.parts[0]
    assert first.parts[1] != second.parts[1]
    assert not leaks(tmp_path / "out")


def test_the_public_papers_hold_nothing_original_and_the_private_room_is_closed(tmp_path):
    save(image(), tmp_path / "in" / "Marigold.dcm")
    clean(tmp_path, lookup_out=True)
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "audit.jsonl",
        "checksums.sha256",
        "deid.json",
        "images",
        "private",
        "signature.json",
        "statement.html",
    ]
    assert (out / "private").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (out / "private").iterdir())
    with (out / "private" / "crosswalk_patients.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["id_old"], row["id_new"]) for row in rows] == [
        (PATIENT_ID, pydicom.dcmread(images(out)[0]).PatientID)
    ]
    with (out / "private" / "crosswalk_uids.csv").open(newline="") as stream:
        uids = {row["id_old"]: row["id_new"] for row in csv.DictReader(stream)}
    assert uids[f"{ROOT}.3.1.1.1"] == images(out)[0].stem
    assert ROOT not in (out / "audit.jsonl").read_text() + (out / "deid.json").read_text()


def test_images_that_may_show_text_are_counted_and_named(tmp_path):
    save(
        image(1, Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", BurnedInAnnotation="NO"),
        tmp_path / "in" / "us",
    )
    save(image(2, BurnedInAnnotation="YES"), tmp_path / "in" / "burned")
    save(image(3), tmp_path / "in" / "ct")
    strict = clean(tmp_path, out="strict", pixels="quarantine")
    assert strict.quarantined == {"burned-in-declared": 1, "text-in-pixels-possible": 1}
    result = clean(tmp_path, pixels="keep")
    assert result.burned_in_unknown == 2
    private = tmp_path / "strict" / "private"
    assert not [name for name in ("review.csv", "review.html") if (private / name).exists()]
    assert "NOT checked: 2 images" in result.summary()
    assert "review.html" in result.summary()
    marks = {
        str(ds.PatientIdentityRemoved) + str(ds.get("BurnedInAnnotation")): ds
        for ds in map(pydicom.dcmread, images(tmp_path / "out"))
    }
    assert set(marks) == {"NONone", "NOYES", "YESNone"}  # the NO of the device is not repeated
    assert [
        len(ds.DeidentificationMethod) == 2 and ds.DeidentificationMethod[1] == NOT_REVIEWED
        for ds in (marks["NONone"], marks["NOYES"])
    ]
    rows = (tmp_path / "out" / "private" / "review.csv").read_text().splitlines()
    assert len(rows) == 3
    page = (tmp_path / "out" / "private" / "review.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "kind of device that writes text" in page
    assert sorted(str(pydicom.dcmread(p).get("BurnedInAnnotation")) for p in images(tmp_path / "out")) == [
        "None",
        "None",
        "YES",
    ]


def test_the_output_folder_is_guarded(tmp_path):
    save(image(), tmp_path / "in" / "a")
    for out in ("in", "in/out", "."):
        with pytest.raises(UsageError):
            clean(tmp_path, out=out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UsageError):
            clean(tmp_path, out="mine", overwrite=overwrite)
    clean(tmp_path)
    with pytest.raises(UsageError):
        clean(tmp_path, site="elsewhere")
    with pytest.raises(UsageError):
        clean(tmp_path, resume=False)
    with locked(tmp_path / "out"), pytest.raises(RunLocked):
        clean(tmp_path)
    with pytest.raises(PrivacyRefusal):
        clean(tmp_path, out="fresh", key=key_file(tmp_path / "fresh"))
    assert clean(tmp_path, site="elsewhere", overwrite=True).files_written == 1
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_full_disk_is_told_and_finished_files_stay(tmp_path, monkeypatch):
    for number in range(3):
        save(image(number), tmp_path / "in" / f"f{number}")
    real, calls = worker.files.atomic, []

    def full(path, **given):
        calls.append(path.suffix)
        if calls.count(".dcm") == 2:
            raise StorageError("expected a writable folder, got no space left")
        return real(path, **given)

    monkeypatch.setattr(worker.files, "atomic", full)
    with pytest.raises(StorageError):
        clean(tmp_path)
    monkeypatch.undo()
    assert clean(tmp_path).files_resumed == 1


def test_raw_rubbish_in_numeric_text_is_not_kept(tmp_path):
    ds = image()
    ds._dict[Tag(0x00180050)] = RawDataElement(Tag(0x00180050), "DS", 10, b"Rosalind  ", 0, False, True)
    new = one(tmp_path, ds)
    assert new.SliceThickness is None  # empty, which a Type 2 attribute may be
    assert not leaks(tmp_path / "out", ("Rosalind",))


def test_nothing_planted_in_a_hospitals_archive_survives(tmp_path):
    key = write_archives(
        PhantomConfig(patients=4, hospitals=("north",), seed=3, size=64, ct_patients=1, ct_size=(16, 16, 8)),
        tmp_path / "phantom",
    )
    result = clean(tmp_path, source="phantom/north/archive")
    assert result.residual_findings == 0
    kept_out = {
        "dicomdir",
        "duplicate-identical",
        "encapsulated-pdf",
        "not-dicom",
        "truncated",
        "burned-in-declared",
    }
    assert set(result.quarantined) <= kept_out
    content = b""
    for path in [*images(tmp_path / "out"), tmp_path / "out" / "audit.jsonl", tmp_path / "out" / "deid.json"]:
        ds = pydicom.dcmread(path) if path.suffix == ".dcm" else None
        data = path.read_bytes()
        content += (
            data.replace(bytes(ds.get("PixelData", b"")) or b"\0\0", b"") if ds else data
        ) + path.name.encode()
    content = content.lower()
    planted = {plant.value for plant in key.plants if plant.kind not in ("age", "burned_in", "bitmap")}
    assert len(planted) > 100
    ways = {text.encode(coding, "ignore").lower() for text in planted for coding in ("utf-8", "latin-1")}
    assert not [way for way in ways if len(way) >= 3 and way in content]


def test_images_that_nobody_looked_at_are_used_by_choice_only(tmp_path):
    save(image(1, Modality="US"), tmp_path / "in" / "us")
    save(image(2), tmp_path / "in" / "ct")
    clean(tmp_path, pixels="keep")
    folder = tmp_path / "out" / "images"
    entries, failed, _ = survey(folder)
    assert (len(entries), len(failed)) == (1, 1)
    assert "may show text" in failed[0][1]
    entries, failed, _ = survey(folder, trusted=True)
    assert (len(entries), failed) == (2, [])
    headers, _ = clean_dicom._headers(tmp_path / "out")
    clean_dicom._refuse_identified(headers, trusted=False)
    kept, left = clean_dicom._reviewed(headers)
    assert [ds["Modality"] for ds in kept.values()] == ["CT"]
    assert [why for why, _ in left] == ["pixels that nobody has reviewed"]
    with pytest.raises(PrivacyRefusal, match=r"review\.html"):
        clean_dicom._reviewed({path: header for path, header in headers.items() if path not in kept})


HOSTILE = [
    "../../../escaped_dir\t",
    f"{ROOT}.5512347.19570314\t",
    f"{ROOT}.7\n",
    f"{ROOT}.7\0.8",
    "\u202e1.2.3",
    "1." * 5000 + "1",
    ".",
    "/etc/x",
]


@pytest.mark.parametrize("rename", [True, False])
@pytest.mark.parametrize("uid", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_no_uid_leads_out_of_the_output_or_into_its_names(tmp_path, keyword, uid, rename):
    source = tmp_path / "deep" / "er" / "in"
    ds = image()
    value = uid.encode("utf-8")
    ds._dict[Tag(keyword)] = RawDataElement(Tag(keyword), "UI", len(value), value, 0, False, True)
    with quiet():
        save(image(2), source / "good")
        bare = pydicom.filewriter.DicomBytesIO()
        bare.is_little_endian, bare.is_implicit_VR = True, False
        pydicom.filewriter.write_dataset(bare, ds)
    (source / "bad").write_bytes(bare.getvalue())
    before = {path for path in tmp_path.rglob("*") if "in" in path.parts}
    result = stage.run(
        DeidConfig(key=key_file(tmp_path), site="north", workers=1, rename=rename),
        source,
        tmp_path / "deep" / "er" / "out",
    )
    assert result.files_read == 2
    assert result.files_written + sum(result.quarantined.values()) == 2
    assert result.files_written >= 1
    out = tmp_path / "deep" / "er" / "out"
    strange = (
        {p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(out)}
        - before
        - set(tmp_path.glob("site.key*"))  # the key, and the registry beside it
    )
    assert not strange
    written = sorted(path.relative_to(out) for path in images(out))
    assert all(
        re.fullmatch(r"(P\w{15}/2\.25\.\d+/2\.25\.\d+/2\.25\.\d+|F\w{15})\.dcm", str(p.relative_to("images")))
        for p in written
    )
    public = (out / "audit.jsonl").read_text() + (out / "deid.json").read_text() + " ".join(map(str, written))
    assert not [part for part in ("19570314", "5512347", "escaped", ROOT) if part in public]


@pytest.mark.parametrize("new", ["../../x", "..", "a/b", "CON/..", "x\\y"])
def test_a_lookup_table_cannot_lead_out_of_the_output(tmp_path, new):
    save(image(), tmp_path / "in" / "a")
    (tmp_path / "lookup.csv").write_text(f"old_patient_id,new_patient_id\n{PATIENT_ID},{new}\n")
    try:
        clean(tmp_path, lookup=tmp_path / "lookup.csv")
    except DataError:
        return
    (path,) = images(tmp_path / "out")
    assert re.fullmatch(r"F\w{15}", path.relative_to(tmp_path / "out" / "images").parts[0])


def test_a_link_planted_in_the_output_is_not_followed(tmp_path):
    for number in range(2):
        save(image(number), tmp_path / "in" / f"f{number}")
    clean(tmp_path)
    (patient,) = (tmp_path / "out" / "images").iterdir()
    patient.rename(tmp_path / "elsewhere")
    patient.symlink_to(tmp_path / "elsewhere")
    save(image(7), tmp_path / "in" / "f7")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    with pytest.raises(StorageError, match="link"):
        clean(tmp_path)
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


def test_whatever_goes_wrong_while_publishing_is_the_files_own(tmp_path, monkeypatch):
    for number in range(3):
        save(image(number), tmp_path / "in" / f"f{number}")
    real, calls = stage.output.publish, []

    def broken(out, relative, waiting):
        calls.append(relative)
        if len(calls) == 2:
            raise ValueError("embedded null byte")
        real(out, relative, waiting)

    monkeypatch.setattr(stage.output, "publish", broken)
    result = clean(tmp_path)
    assert (result.files_written, result.quarantined) == (2, {"processing-failed": 1})


def test_files_obey_the_umask_and_private_ones_are_the_owners(tmp_path):
    save(image(1, Modality="US"), tmp_path / "in" / "a")
    for mask, public in ((0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            clean(tmp_path, out=f"out{mask}", lookup_out=True)
        finally:
            os.umask(before)
        for path in (tmp_path / f"out{mask}").rglob("*"):
            if path.is_file():
                assert path.stat().st_mode & 0o777 == (0o600 if "private" in path.parts else public), path


@pytest.mark.realdata
def test_the_real_images(tmp_path):
    source = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
    if not source.is_dir():
        pytest.skip("no real images beside the checkout")
    config = DeidConfig(key=key_file(tmp_path), site="north", workers=1, pixels="keep")
    result = stage.run(config, source, tmp_path / "out")
    assert result.files_read == 142
    assert result.quarantined == {}
    assert result.burned_in_unknown == 13  # ultrasound, photographs, secondary captures, the localizer
    assert result.flagged["localizer"] == 1
    assert not leaks(
        tmp_path / "out",
        ("Dumbledore", "PGBM-003", "KILLEEN", "PATIENTFIVE", "CLEVELAND", "STANFORD", "104111149"),
    )
    for new in images(tmp_path / "out")[::7]:
        assert UID(new.stem).is_valid
        assert pydicom.dcmread(new).SOPInstanceUID == new.stem
