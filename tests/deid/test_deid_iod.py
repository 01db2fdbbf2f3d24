import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from meninx.deid.profile import attribute_type, iod_of_sop_class, read_table, resolve

STANDARD = Path(__file__).resolve().parents[2] / "../shared/standard"
CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
CONTENT_DATE = 0x00080023
PATIENT_NAME = 0x00100010

# Modules that edition 2024b renamed, per IOD, since the 2020 edition of our lists.
RENAMED = {"multi-frame-functional-groups", "multi-resolution-navigation"}
# RT Dose lost its structure set and display modules after 2020; ours only makes types stricter.
WITHDRAWN = {
    "rt-dose": {
        "rt-dose-roi",
        "structure-set",
        "roi-contour",
        "multi-frame-overlay",
        "modality-lut",
        "overlay-plane",
    }
}
# Modules added after 2020; all their attributes that our tables cover are Type 3 or stand in a module of ours
# too.
ADDED = {
    "general-acquisition",
    "synchronization",
    "overlay-plane",
    "multi-frame-overlay",
    "frame-of-reference",
    "image-plane",
    "specimen",
    "multi-resolution-pyramid",
    "microscope-slide-layer-tile-organization",
}


def test_types_come_from_the_modules_of_the_class():
    assert attribute_type(CONTENT_DATE, CT) == "2C"
    assert attribute_type(CONTENT_DATE, SEG) == "1"
    assert attribute_type(PATIENT_NAME, CT) == "2"


def test_an_unknown_class_gets_the_strictest_type_of_all():
    assert attribute_type(CONTENT_DATE, "") == attribute_type(CONTENT_DATE, "1.2.3") == "1"


def test_an_attribute_of_no_module_is_type_3():
    assert attribute_type(0x00102180, "1.2.840.10008.5.1.4.1.1.481.3") == "3"
    assert attribute_type(0x00090001, CT) == "3"


def test_nested_attributes_have_types_of_their_own():
    segment_label = 0x00620005
    assert attribute_type(segment_label, SEG) == attribute_type(segment_label, "") == "3"
    assert attribute_type(segment_label, SEG, top_level=False) == "1"


@pytest.mark.parametrize(
    ("code", "letters"),
    [
        ("X", "DXZXX"),
        ("Z", "DDZZZ"),
        ("X/Z", "DDZZX"),
        ("X/D", "DDZZX"),
        ("Z/D", "DDZZZ"),
        ("X/Z/D", "DDZZX"),
        ("X/Z/U*", "UUUUU"),
        ("D", "DDDDD"),
        ("U", "UUUUU"),
        ("K", "KKKKK"),
        ("C", "CCCCC"),
    ],
)
def test_every_code_resolves_by_type(code, letters):
    assert "".join(resolve(code, kind) for kind in ("1", "1C", "2", "2C", "3")) == letters


def test_the_tables_refer_to_each_other():
    iods = {row["iod"] for row in read_table("iods.csv")}
    assert set(iod_of_sop_class().values()) == iods
    assert len(iod_of_sop_class()) >= 140
    for row in read_table("iod_types.csv"):
        assert row["type"] in {"1", "1C", "2", "2C"}
        assert set(row["where"].split()) <= iods | {"nested"}


@pytest.mark.realdata
@pytest.mark.skipif(not STANDARD.exists(), reason="the reference tables are not beside the checkout")
def test_module_lists_agree_with_edition_2024b():
    reference = {row["id"]: row for row in json.loads((STANDARD / "sops_2024b.json").read_text())}
    theirs = defaultdict(set)
    for row in json.loads((STANDARD / "ciod_to_modules_2024b.json").read_text()):
        theirs[row["ciodId"]].add(row["moduleId"])
    ours = {row["iod"]: set(row["modules"].split()) for row in read_table("iods.csv")}
    assert set(iod_of_sop_class()) <= set(reference)
    for uid, iod in iod_of_sop_class().items():
        modules = theirs[re.sub(r"[^a-z0-9]+", "-", reference[uid]["ciod"].lower()).strip("-")]
        assert modules, uid
        assert ours[iod] - modules <= RENAMED | WITHDRAWN.get(iod, set()), iod
        extra = {name for name in modules - ours[iod] if not name.endswith("multi-frame-functional-groups")}
        assert extra <= ADDED, iod
