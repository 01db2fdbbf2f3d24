"""From the command line to the page: text in the pixels of somebody's DICOM, read by the real models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deid_samples import NAME, key_file, save
from test_burned_text_stories import capture

from meninx.cli.app import run
from meninx.deid.config import DeidConfig
from meninx.deid.stage import run as deid

pytest.importorskip("rapidocr")
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom" / "presidio_burned_in"


def archive(tmp_path):
    """Return the originals: one capture with its patient's name and birth date burned in."""
    save(capture(), tmp_path / "archive" / "a.dcm")
    return tmp_path / "archive"


def checked(capsys, *words):
    """Return the exit code and the JSON of a check."""
    code = run(["verify", *map(str, words), "--workers", "1", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_burned_name_is_never_green_and_fails_when_the_pixels_are_read(tmp_path, capsys):
    source, page = archive(tmp_path), tmp_path / "page.html"
    config = DeidConfig(key=key_file(tmp_path), site="north", workers=1, pixels="keep")
    deid(config, source, tmp_path / "kept")
    words = (tmp_path / "kept" / "images", "--originals", source, "--page", page)
    code, blind = checked(capsys, *words)
    assert (code, blind["reasons"]) == (0, {"marker-missing": 1})
    assert blind["verdict"].partition("Not checked: ")[2].startswith("text in the pixels")
    assert "the pixels were not read" in page.read_text()
    assert "with an identifier" not in page.read_text()
    code, seen = checked(capsys, *words, "--pixels", "--overwrite")
    assert (code, seen["reasons"].get("identifier-in-pixels")) == (4, 1)
    text = page.read_text()
    assert "with an identifier" in text
    assert "the pixels were not read" not in text
    assert not any(part in text for part in NAME.split("^"))


def test_after_redaction_nothing_is_found_and_the_label_and_the_side_marker_are_no_text(tmp_path, capsys):
    source = archive(tmp_path)
    deid(DeidConfig(key=key_file(tmp_path), site="north", workers=1), source, tmp_path / "clean")
    code, found = checked(capsys, tmp_path / "clean", "--dicom", "--originals", source, "--pixels")
    assert (code, found["reasons"]) == (0, {})
    assert {part["name"]: part["state"] for part in found["parts"]}["text in the pixels"] == "checked"


@pytest.mark.realdata
@pytest.mark.slow
def test_names_in_the_pixels_of_the_public_samples_are_found(tmp_path, capsys):
    if not REAL.is_dir():
        pytest.skip("no real images beside the checkout")
    config = DeidConfig(key=key_file(tmp_path), site="north", workers=1, pixels="keep")
    deid(config, REAL, tmp_path / "kept")
    _, kept = checked(capsys, tmp_path / "kept", "--dicom", "--originals", REAL, "--pixels")
    assert kept["reasons"].get("identifier-in-pixels", 0) >= 1
