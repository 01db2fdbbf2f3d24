"""What a check of DICOM files claims: nothing about parts that were not checked, and originals fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dicom_check_samples as samples
import pytest

import meninx
from meninx.core.errors import PrivacyRefusal, UsageError
from meninx.verify import check_parts, dicom_page
from meninx.verify.check_parts import PIXELS, PartState
from meninx.verify.config import DicomCheckConfig
from meninx.verify.dicom_findings import REASONS

GREEN = 'class="card green"'


def theirs(tmp_path, content=None):
    """Return a folder with one file."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(content or samples.clean())
    return folder


def cards(result):
    """Return colour and word of each card, by the first words of its question."""
    return {
        " ".join(card.question.split()[:4]): (card.colour, card.word) for card in dicom_page._cards(result)
    }


def test_what_was_not_checked_is_grey_and_named_in_the_last_line_and_in_json(tmp_path):
    folder = theirs(tmp_path)
    result = meninx.verify(folder, workers=1, page=tmp_path / "page.html")
    assert result.verdicts["nothing found"] == 1
    assert "clean" not in json.loads(result.to_json())["verdicts"]
    assert cards(result) == {
        "Does every file say": ("green", "yes"),
        "Is a known identifier": ("grey", "not checked"),
        "Is there text in": ("grey", "not checked"),
        "Is there something else": ("green", "no"),
        "Was every file read?": ("green", "yes"),
        "Can a face be": ("grey", "not checked"),
    }
    last = result.summary().splitlines()[-1]
    assert last == json.loads(result.to_json())["verdict"]
    for name in ("known identifiers", "text in the pixels", "faces", "conformance", "free text"):
        assert name in last.partition("Not checked: ")[2]
    states = {part["name"]: part["state"] for part in json.loads(result.to_json())["parts"]}
    assert states["headers"] == "checked"
    assert states["text in the pixels"] == states["faces"] == "not checked"
    page = (tmp_path / "page.html").read_text()
    assert page.count(GREEN) == 3
    assert "holds none of the identifiers" not in page


def test_a_file_that_cannot_be_read_takes_the_green_from_what_was_searched_in_it(tmp_path):
    folder, source = theirs(tmp_path), samples.archive(tmp_path / "archive")
    whole = meninx.verify(folder, originals=source, workers=1)
    assert cards(whole)["Is a known identifier"] == ("green", "none found")
    (folder / "b.dcm").write_bytes(samples.clean(2)[:-100])
    torn = meninx.verify(folder, originals=source, workers=1)
    assert cards(torn)["Is a known identifier"] == ("amber", "none found where read")
    assert cards(torn)["Was every file read?"] == ("amber", "no")
    assert "headers (in part)" in torn.verdict


def test_originals_that_were_not_read_are_counted_by_reason_and_named_on_request_only(tmp_path):
    folder, source = theirs(tmp_path), samples.archive(tmp_path / "archive")
    (source / "readme.txt").write_text("how to read the CD")
    plain = meninx.verify(folder, originals=source, workers=1)
    assert plain.originals_unread == {"not-dicom": 1}
    assert plain.state(check_parts.KNOWN) is PartState.CHECKED  # a text is no original
    (source / "torn").write_bytes(samples.saved(samples.original(2))[:-100])
    (source / f"{samples.SURNAME} torn").write_bytes(samples.saved(samples.original(3))[:-100])
    result = meninx.verify(folder, originals=source, workers=1)
    assert result.originals_unread == {"not-dicom": 1, "truncated": 2}
    assert result.state(check_parts.KNOWN) is PartState.PARTLY
    assert "2 x truncated (the file ends early)" in result.summary()
    assert (result.unread_paths, "torn\n" in result.summary()) == ((), False)
    named = meninx.verify(folder, originals=source, workers=1, show_paths=True)
    assert named.unread_paths == ("readme.txt", "torn")  # that with the name is left out


def change(**values):
    """Return an original with other values; None deletes an attribute."""
    ds = samples.original()
    for keyword, value in values.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return samples.saved(ds)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"PatientBirthDate": None},
        {"PatientName": "Quillfeather"},
        {"PatientName": "", "PatientBirthDate": "19610502"},
        {"PatientName": "青山花子", "PatientBirthDate": None, "SpecificCharacterSet": "ISO_IR 192"},
        {  # the name alone
            "PatientName": "O'Sullibane^Eberhardus",
            "PatientBirthDate": "",
            "ReferringPhysicianName": "",
            "InstitutionName": "",
        },
    ],
)
def test_an_original_fails_without_any_list(values, tmp_path):
    result = meninx.verify(theirs(tmp_path, change(**values)), workers=1)
    assert result.reasons.get("not-deidentified") == 1
    assert result.exit_code == 4
    with pytest.raises(PrivacyRefusal, match="not de-identified"):
        result.raise_if_failed()
    assert cards(result)["Does every file say"] == ("red", "no")
    assert cards(result)["Is there something else"] == ("amber", "yes")  # in files that are leaks, too


@pytest.mark.parametrize(
    "values",
    [
        {"PatientIdentityRemoved": "YES"},  # the name may be invented
        {"DeidentificationMethod": "DICOGNITO"},
        {"PatientName": "ANONYMIZED"},
        {"PatientName": "9881265497", "PatientBirthDate": "19610502"},
        {"PatientName": "MRN-5512347"},  # that of the PatientID
        {"PatientName": "", "PatientBirthDate": "00010101"},
        {"PatientName": "ANON^PATIENT", "PatientBirthDate": "19610101"},
    ],
)
def test_the_output_of_other_tools_is_no_leak_by_its_form(values, tmp_path):
    bare = {"ReferringPhysicianName": "", "InstitutionName": ""}
    result = meninx.verify(theirs(tmp_path, change(**{**bare, **values})), workers=1)
    assert "not-deidentified" not in result.reasons
    assert (result.exit_code, result.verdicts["suspicious"]) == (0, 1)


def test_a_name_beside_a_marker_is_suspicious(tmp_path):
    named = samples.changed(lambda ds: setattr(ds, "PatientName", "Somebody^Else"))
    result = meninx.verify(theirs(tmp_path, named), workers=1)
    assert result.reasons == {"patient-name": 1}


def test_a_signer_beside_dicom_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "deid.json").write_text("{}")
    with pytest.raises(UsageError, match="run it once with --signer, and once without it"):
        meninx.verify(tmp_path, signer="0" * 64, dicom=True)


@pytest.mark.parametrize("place", ["theirs", "theirs/1.dcm"])
def test_dicom_is_refused_where_it_changes_nothing(tmp_path, place):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"no DICOM")
    with pytest.raises(UsageError, match=r"no effect.*leave --dicom out"):
        meninx.verify(tmp_path / place, dicom=True)


def test_pixels_without_the_models_are_refused_and_no_part_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr("meninx.imaging.ocr.is_available", lambda: False)
    with pytest.raises(UsageError, match="rapidocr"):
        meninx.verify(theirs(tmp_path), pixels=True, workers=1)
    counts = check_parts.CheckCounts(
        dicom=2, unreadable=0, images=2, unread_images=1, matched=0, values=0, originals_unread={}, untested=0
    )
    parts = {part.name: part for part in check_parts.parts_of(DicomCheckConfig(pixels=True), counts)}
    assert parts[PIXELS].state is PartState.PARTLY
    assert "1 of 2 images" in parts[PIXELS].what


def test_every_code_stands_in_the_documentation_with_its_weight_and_meaning():
    page = Path(__file__).parents[2] / "docs" / "how-to" / "check-somebody-elses-dicom.md"
    lines = page.read_text().splitlines()
    rows = [f"| `{code}` | {weight} | {meaning} |" for code, (weight, meaning) in REASONS.items()]
    first = lines.index(rows[0])
    assert lines[first : first + len(rows) + 1] == [*rows, ""]


def test_files_that_are_no_dicom_are_in_no_count_of_markers_or_images(tmp_path):
    folder = theirs(tmp_path)
    for number in range(3):
        (folder / f"{number}.txt").write_text("how to read the CD")
    result = meninx.verify(folder, workers=1)
    assert (result.files, result.dicom, result.images) == (4, 1, 1)
    values = {card.question: card.value for card in dicom_page._cards(result)}
    assert values["Does every file say that it is de-identified?"] == "0 of 1 DICOM file without marker"
    result = replace(result, parts=tuple(replace(part, state=PartState.CHECKED) for part in result.parts))
    values = {card.question: card.value for card in dicom_page._cards(result)}
    assert values["Is there text in the pixels?"] == "0 of 1 image"
