"""Recall of the check: nine kinds of identifiers, each planted once in each of 14 places of a clean file."""

from collections import Counter

import dicom_check_samples as samples
import pytest

from meninx.core.pool import Stop
from meninx.core.progress import SILENT
from meninx.dicomfile.discover import SourceFile
from meninx.verify import dicom_file, originals

KINDS = (
    *(samples.SURNAME, samples.PATIENT_ID, "5512347", "ACC778812", samples.BIRTH, "02.05.1961"),
    *(samples.STUDY_UID, samples.ADDRESS, "BRAMBLETON"),
)


def _even(value):
    return value.encode() + b" " * (len(value) % 2)


def _meta(ds, value):
    ds.file_meta.PrivateInformationCreatorUID = "1.2.3"
    ds.file_meta.PrivateInformation = _even(value)


def _pixels(ds, value):
    ds.PixelData = ds.PixelData[:300] + value.encode() + ds.PixelData[300 + len(value) :]


def _private(vr):
    def add(ds, value):
        content = value if vr == "LO" else _even(value)
        ds.private_block(0x0099, "ACME", create=True).add_new(1, vr, content)

    return add


PLACES = {
    "text": lambda ds, value: setattr(ds, "SeriesDescription", f"AX {value}"),
    "long text": lambda ds, value: setattr(ds, "ImageComments", f"seen {value} today"),
    "short text": lambda ds, value: setattr(ds, "StationName", value),
    "code": lambda ds, value: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", value.upper()]),
    "name": lambda ds, value: setattr(ds, "OperatorsName", value),
    "nested": lambda ds, value: samples.nested(ds, "ImageComments", value, 3),
    "private": _private("LO"),
    "private bytes": _private("UN"),
    "unknown": lambda ds, value: ds.add_new(0x000A1234, "LO", value),
    "bytes": lambda ds, value: ds.add_new(0x00420011, "OB", _even(value)),
    "file meta": _meta,
    "preamble": lambda ds, value: setattr(ds, "preamble", value.encode().ljust(128, b"\0")),
    "pixel data": _pixels,
    "path": None,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # pydicom says that the planted values are too long for their VR
@pytest.mark.parametrize(("known", "leaks", "suspicious"), [(True, 121, 5), (False, 97, 29)])
def test_each_identifier_in_each_place(known, leaks, suspicious, tmp_path):
    source = samples.archive(tmp_path / "archive")
    with Stop() as stop:
        found, values = originals.read(source, None, workers=1, stop=stop, progress=SILENT)
    search = dicom_file.IdentifierSearch(values, found if known else originals.Originals(), source)
    counts = Counter()
    for change in PLACES.values():
        for value in KINDS:
            planted = samples.clean() if change is None else _planted(change, value)
            path = f"{value}/a.dcm" if change is None else "a.dcm"
            place = tmp_path / "theirs" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(planted)
            counts[str(dicom_file.check(search, (str(tmp_path / "theirs"), SourceFile(path))).verdict)] += 1
    assert counts == {"leak": leaks, "suspicious": suspicious}


def _planted(change, value):
    return samples.changed(lambda ds: change(ds, value))
