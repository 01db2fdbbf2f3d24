"""An archive of one file: what people read counts one patient, one file and one image, not "1 files"."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import NAME, image, key_file, save

WRONG = re.compile(
    r"\b1 (?:\w+ )?(?:patients|files|images|studies|instances|lines|checks|values|originals|people|layouts|"
    r"decisions|votes|cases|runs|PatientIDs|findings|dates)\b"
)


def read(*texts: str) -> list[str]:
    """Return what was counted wrong in what people read, HTML aside."""
    plain = (" ".join(re.sub(r"<[^>]*>", " | ", text).split()) for text in texts)
    return [text[max(0, hit.start() - 30) : hit.end() + 30] for text in plain for hit in WRONG.finditer(text)]


def test_a_clean_archive_of_one_file(tmp_path, invoke):
    key, out = key_file(tmp_path), tmp_path / "out"
    save(image(), tmp_path / "in" / "1")
    words = ("deid", tmp_path / "in", out, "--key", key, "--site", "north", "--escrow", "key")
    said = [invoke(*words[:3], *words[3:7], "--dry-run"), invoke(*words)]
    said.append(invoke("registry", key, "--site", "north"))
    said.append(invoke("dicom", "media", out, tmp_path / "medium"))
    said.append(invoke("verify", out, "--verbose"))
    said.append(invoke("verify", tmp_path / "medium", "--verbose"))
    assert [code for code, _, _ in said] == [0] * len(said)
    shown = [text for _, *texts in said for text in texts]
    assert "1 patient" in " ".join(shown)
    assert read(*shown, (out / "statement.html").read_text()) == []


def test_a_check_of_one_file(tmp_path, invoke):
    key, page = key_file(tmp_path), tmp_path / "page.html"
    save(image(), tmp_path / "in" / "1")
    (tmp_path / "names").write_text(NAME.split("^")[0])
    out = tmp_path / "out"
    assert invoke("deid", tmp_path / "in", out, "--key", key, "--site", "north")[0] == 0
    clean = ("verify", out, "--dicom", "--originals", tmp_path / "in", "--page", page)
    crosswalk = ("--crosswalks", out / "private" / "crosswalk_uids.csv")
    code, *told = invoke(*clean, *crosswalk)
    assert code == 0, told
    assert read(*told, page.read_text()) == []
    code, *told = invoke(
        "verify", tmp_path / "in", "--identifiers", tmp_path / "names", "--page", page, "--overwrite"
    )
    assert code == 4
    assert read(*told, page.read_text()) == []
