from __future__ import annotations

import csv
import json
from collections import Counter

import pydicom
from deid_samples import clean, image, images, save

from meninx.core import artifacts, integrity


def test_the_summary_says_which_rules_were_in_force(tmp_path):
    save(image(), tmp_path / "in" / "a")
    clean(tmp_path, out="plain")
    table = json.loads((tmp_path / "plain" / "deid.json").read_text())
    assert (table["overrides"], table["max_age"], table["missing_lookup"]) == ([], 89, "pseudonym")
    (tmp_path / "rules.toml").write_text('StudyDescription = "X"\n"0008,103E" = "Z"\n60xx3000 = "K"\n')
    (tmp_path / "lookup.csv").write_text("old_patient_id,new_patient_id\n0000123,X1\n")
    clean(
        tmp_path, overrides=tmp_path / "rules.toml", max_age=80, missing_lookup="quarantine",
        lookup=tmp_path / "lookup.csv",
    )  # fmt: skip
    table = json.loads((tmp_path / "out" / "deid.json").read_text())
    assert table["overrides"] == ["OverlayData=K", "SeriesDescription=Z", "StudyDescription=X"]
    assert (table["max_age"], table["missing_lookup"]) == (80, "quarantine")


def test_measurements_that_stay_and_a_search_of_every_image_are_told(tmp_path):
    save(image(), tmp_path / "in" / "a")
    clean(tmp_path, keep_measurements=True, search_all=True)
    record = artifacts.read(tmp_path / "out", artifacts.DeidRecord)
    assert [(one.name, one.chosen) for one in record.departures] == [("keep_measurements", "on")]
    assert record.search_all
    assert "were not searched" not in (tmp_path / "out" / "statement.html").read_text()
    clean(tmp_path, out="plain")
    assert "1 of 1 image was not searched" in (tmp_path / "plain" / "statement.html").read_text()


def test_departures_from_the_profile_are_told_one_by_one(tmp_path):
    save(image(1), tmp_path / "in" / "a")
    save(image(2, BurnedInAnnotation="YES"), tmp_path / "in" / "b")
    (tmp_path / "rules.toml").write_text('InstitutionName = "K"\n')
    (tmp_path / "lookup.csv").write_text("old_patient_id,new_patient_id\n9,X1\n")
    clean(
        tmp_path,
        overrides=tmp_path / "rules.toml",
        lookup=tmp_path / "lookup.csv",
        pixels="keep",
        options=("retain-device",),
    )
    record = artifacts.read(tmp_path / "out", artifacts.DeidRecord)
    told = [(one.kind, one.name, one.chosen, one.usual, one.files) for one in record.departures]
    assert told == [
        ("override", "InstitutionName", "K", "X", None),
        ("option", "retain-device", "on", "off", None),
        ("pixels", "pixels", "keep", "redact", 1),
        ("lookup", "missing_lookup", "pseudonym", "quarantine", None),
    ]
    assert record.flagged == {"burned-in annotation declared": 1}


def test_the_archive_carries_checksums_that_sha256sum_reads(tmp_path):
    save(image(1), tmp_path / "in" / "a")
    clean(tmp_path)
    out = tmp_path / "out"
    record = artifacts.read(out, artifacts.DeidRecord)
    assert record.checksums == integrity.digest_of(out)
    assert record.departures == ()
    assert not integrity.damage(out, leave_out=("private", "deid.json", "signature.json", "statement.html"))
    written = images(out)[0]
    written.write_bytes(written.read_bytes()[:-1] + b"\x07")
    assert integrity.damage(out, leave_out=("private", "deid.json")).changed == (
        str(written.relative_to(out)),
    )


def test_crosswalks_have_the_columns_that_the_script_of_midi_b_reads(tmp_path):
    """Two tables, ``id_old,id_new``: one row per original, every new value in the files, and back."""
    for number in (1, 2, 3):
        save(image(number, study=number, PatientID=f"00{number}"), tmp_path / "in" / str(number))
    clean(tmp_path)
    written = [pydicom.dcmread(path) for path in (tmp_path / "out" / "images").rglob("*.dcm")]
    for name, keywords in {
        "crosswalk_patients.csv": ("PatientID",),
        "crosswalk_uids.csv": ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    }.items():
        with (tmp_path / "out" / "private" / name).open(newline="", encoding="utf-8") as stream:
            assert stream.readline().replace('"', "") == "id_old,id_new\n"
            rows = list(csv.reader(stream))
        assert all(len(row) == 2 and all(row) for row in rows)
        old, new = zip(*rows, strict=True)
        assert len(set(old)) == len(old) == len(set(new))
        assert not set(old) & set(new)
        assert {ds[keyword].value for ds in written for keyword in keywords} <= set(new)
        originals = [image(number, study=number, PatientID=f"00{number}") for number in (1, 2, 3)]
        assert {ds[keyword].value for ds in originals for keyword in keywords} <= set(old)


def test_pixel_images_and_codes_are_counted_from_the_files(tmp_path):
    for number in (1, 2, 3):
        save(image(number), tmp_path / "in" / str(number))
    bare = image(4)
    for keyword in ("PixelData", "Rows", "Columns"):
        bare.pop(keyword, None)
    save(bare, tmp_path / "in" / "4")
    result = clean(tmp_path)
    record = artifacts.read(tmp_path / "out", artifacts.DeidRecord)
    written = [pydicom.dcmread(path) for path in images(tmp_path / "out")]
    with_pixels = sum("PixelData" in ds for ds in written)
    assert record.images == result.images == with_pixels
    assert f"{with_pixels} of {with_pixels} images were not searched for text" in result.summary()
    assert record.code_files == Counter(
        code.CodeValue for ds in written for code in ds.DeidentificationMethodCodeSequence
    )
