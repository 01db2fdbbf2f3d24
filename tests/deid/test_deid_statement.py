from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from deid_samples import clean, image, leaks, save

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord, Departure
from meninx.deid.options import Option, method_codes
from meninx.deid.papers import statement
from meninx.dicomfile.refusals import MEANINGS, Reason

RECORD = DeidRecord(
    profile="research", options=("retain-modified-dates",), codes=("113100",), pixels="redact"
)


def test_every_reason_has_a_meaning_and_no_meaning_is_told_twice():
    assert set(MEANINGS) == set(Reason)
    assert len(set(MEANINGS.values())) == len(MEANINGS)


def test_every_code_that_a_file_may_have_has_a_meaning():
    given = method_codes(frozenset(Option), pixels=True, faces=True)
    said = statement.of(replace(RECORD, codes=tuple(code.value for code in given))).codes
    assert said == tuple((code.value, code.meaning) for code in given)
    assert "113102" in dict(said)


def test_the_statement_says_what_the_summary_says_and_holds_no_value(tmp_path):
    save(image(), tmp_path / "in" / "a")
    (tmp_path / "in" / "b").write_text("no image")
    clean(tmp_path, overrides=None, pixels="keep")
    record = artifacts.read(tmp_path / "out", DeidRecord)
    page = (tmp_path / "out" / "statement.html").read_text()
    assert page.encode() == statement.page(record)
    for words in (*(code.value for code in method_codes(frozenset())), "PS3.15", "2026d", record.signer):
        assert words in page
    assert "1 × not-dicom (no DICOM file)" in page
    assert "pixels: keep (usual: redact)" in page
    assert record.checksums in page
    assert record.audit_head in page
    assert not leaks(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "gone", "there"),
    [
        ({"options": ("retain-full-dates",)}, "shifted by whole days", "<td>kept</td>"),
        ({"max_age": 70}, "above 89", "above 70"),
        ({"pixels": "keep", "burned_in_unknown": 7}, "searched; text that", "7 images may show"),
        ({"quarantined": {"video": 3}}, "<td>none</td></tr>\n</table>", "3 × video (a video"),
    ],
)
def test_another_summary_gives_another_statement(change, gone, there):
    before, after = (statement.page(record).decode() for record in (RECORD, replace(RECORD, **change)))
    assert there not in before
    assert there in after
    assert gone in before
    assert gone not in after


def test_a_hostile_summary_stays_text_and_the_page_stays_short():
    evil = "<script>alert(1)</script>\u202e\n"
    record = replace(
        RECORD,
        site=evil,
        version=evil,
        codes=(evil,),
        quarantined={f"{evil}{number}": number for number in range(1000)},
        departures=tuple(
            Departure(kind="override", name=evil * 1000, chosen="K", usual="X") for _ in range(1000)
        ),
    )
    page = statement.page(record).decode()
    assert "<script" not in page
    assert "\u202e" not in page
    assert not re.search(r"https?://|src=", page)
    assert len(page) < 12_000
    assert "and 994 more in deid.json" in page


def test_every_reason_stands_on_the_statement():
    """`duplicate-different` and `zip-damaged` were hidden behind "and 3 more" when they were rare."""
    counts = {str(reason): number for number, reason in enumerate(Reason, start=1)}
    said = dict(statement.of(replace(RECORD, quarantined=counts | {"of-the-future": 7})).checked)
    line = said["Kept out, never copied"]
    for code, number in counts.items():
        assert re.search(rf"\b{number} × {code}\b", line)
    assert line.endswith("7 × reasons unknown to this version")
    few = dict(statement.of(replace(RECORD, quarantined={"zip-damaged": 1, "video": 1})).checked)
    assert few["Kept out, never copied"].count("(") == 3  # all with their meaning


@pytest.mark.slow
def test_the_statement_prints_on_one_page(tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium here")
    reasons = {str(reason): 12_345 for reason in Reason}
    longest = Departure(kind="override", name="X" * 60, chosen="K", usual="X", files=12_345)
    record = replace(
        RECORD,
        site="The hospital of the north",
        codes=tuple(code.value for code in method_codes(frozenset(Option), pixels=True, faces=True)),
        quarantined=reasons,
        departures=(longest,) * 20,
        burned_in_unknown=5,
        contradicting=12_345,
        deidentified_before=12_345,
        directories={"named": 12_345, "missing": 12, "outside": 1},
        signer="a" * 64,
        checksums="b" * 64,
        audit_head="c" * 64,
    )
    (tmp_path / "page.html").write_bytes(statement.page(record))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--no-pdf-header-footer", f"--user-data-dir={tmp_path / 'user'}")  # fmt: skip
    subprocess.run(
        [chromium, *options, f"--print-to-pdf={tmp_path / 'page.pdf'}", f"file://{tmp_path / 'page.html'}"],
        check=True,
        capture_output=True,
        timeout=120,
    )
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())
    assert len(pages) == 1


def test_each_number_of_the_summary_stands_in_its_place():
    record = replace(
        RECORD, files_read=97, files_written=83, patients=3, studies=5, series=7, residual_findings=2,
        images=58, code_files={"113100": 83},
        pixels_searched=41, pixels_redacted=29, layouts=11, burned_in_unknown=13,
        quarantined={"not-dicom": 14},
    )  # fmt: skip
    said = dict(statement.of(record).checked)
    assert said["Files"] == "97 read, 83 written: 3 patients, 5 studies, 7 series"
    assert "2 files in which one was found were kept out" in said["Every written file"]
    assert said["Pixels"].startswith(
        "41 images searched for text, 29 redacted, 11 layouts; 17 of 58 images were not"
    )
    assert "13 images may show text in their pixels" in said["Pixels"]
    assert dict(statement.of(record).codes) == {
        "113100": "Basic Application Confidentiality Profile in 83 files"
    }
    assert "17 of 58 images were not searched for text, because the header" in statement.page(record).decode()
    assert said["Kept out, never copied"] == "14 × not-dicom (no DICOM file)"


@pytest.mark.parametrize(
    ("pixels", "said", "by_header"),
    [
        ("redact", "images that may hold text by their header were searched; text that is not technical was "
         "filled", True),
        ("quarantine", "images that may hold text by their header were kept out", False),
        ("keep", "NOT searched; images that may hold text are in the archive", False),
        ("", "not stated", False),
    ],
)  # fmt: skip
def test_each_treatment_of_pixels_is_told_as_it_was(pixels, said, by_header):
    record = replace(RECORD, pixels=pixels, images=7, pixels_searched=2 if pixels == "redact" else 0)
    found = statement.of(record)
    assert dict(found.actions)["Pixels"] == said
    assert any("misses some" in sentence for sentence in found.remains) == by_header
    left = "5 of 7" if pixels == "redact" else "7 of 7"
    assert f"{left} images were not searched for text" in dict(found.checked)["Pixels"]


@pytest.mark.parametrize("reason", ["refused-in-review", "review-undecided", "text-remains"])
def test_an_image_that_was_kept_out_after_the_search_was_searched(reason):
    record = replace(RECORD, images=58, pixels_searched=41, pixels_redacted=29, layouts=11)
    said = dict(statement.of(replace(record, quarantined={reason: 3, "video": 2})).checked)["Pixels"]
    assert said == (
        "44 images searched for text, 29 redacted, 3 kept out, 11 layouts; "
        "17 of 61 images were not searched for text"
    )
    none = replace(record, pixels_searched=0, pixels_redacted=0, layouts=0)
    applied = (
        dict(statement.of(replace(none, quarantined={key: 3})).actions)["Pixels"] for key in (reason, "video")
    )
    assert ["none of them was written" in words for words in applied] == [True, False]


def test_one_of_each_is_told_in_the_singular():
    record = replace(
        RECORD, patients=1, studies=1, series=1, contradicting=1, deidentified_before=1, images=1, layouts=1,
        code_files={"113100": 1},
    )  # fmt: skip
    page = statement.page(record).decode()
    assert "1 patient, 1 study, 1 series" in page
    assert "1 of 1 image was not searched" in page
    assert "Profile in 1 file\n" in page
    assert not re.search(r"\b1 (patients|studies|images|layouts|files)\b", page)
