"""Each fault that a file can show without its original is found, and only that one."""

from __future__ import annotations

from io import BytesIO

import dicom_check_samples as samples
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import CTImageStorage, MRImageStorage, RLELossless

from meninx.deid.options import CODES, Option
from meninx.dicomfile import instance
from meninx.verify import dicom_checks


def findings(content):
    """Return reason and place of all findings of one file."""
    one, head = instance.parsed(content)
    return {
        (found.reason, found.place) for found in dicom_checks.check(one, instance.meta_elements(head), head)
    }


def _foreign_class(content):
    """Return the file with another SOP class in its file meta, which stands before that of the data set."""
    return content.replace(CTImageStorage.encode() + b"\0", MRImageStorage.encode() + b"\0", 1)


def _behind_the_frame(ds, more):
    ds.compress(RLELossless, generate_instance_uid=False)
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame + more])
    ds["PixelData"].is_undefined_length = True


def _two_rules_for_dates(ds):
    for option in (Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = CODES[option].value, "DCM"
        code.CodeMeaning = CODES[option].meaning
        ds.DeidentificationMethodCodeSequence.append(code)


FAULTS = {
    "a curve": (
        lambda ds: ds.add_new(0x50003000, "OW", bytes(8)),
        {("overlay", "group 5000")},
    ),
    "who sent the file": (
        lambda ds: setattr(ds.file_meta, "SourceApplicationEntityTitle", "CT_ROOM_7"),
        {("not-removed", "SourceApplicationEntityTitle")},
    ),
    "private file meta with its creator": (
        lambda ds: setattr(ds.file_meta, "PrivateInformationCreatorUID", "1.2.3"),
        {("private-attribute", "PrivateInformation")},
    ),
    "private file meta without a creator": (
        lambda ds: setattr(ds.file_meta, "PrivateInformation", b"anything"),
        {("private-attribute", "PrivateInformation")},
    ),
    "a text in an attribute that no dictionary knows": (
        lambda ds: ds.add_new(0x00189998, "LO", "some words of somebody"),
        {("not-removed", "(0018,9998)")},
    ),
    "four bytes behind a compressed frame": (
        lambda ds: _behind_the_frame(ds, b"\1\2\3\4"),
        {("hidden-bytes", "PixelData")},
    ),
    "codes of two rules for dates": (
        _two_rules_for_dates,
        {("marker-contradicted", "LongitudinalTemporalInformationModified")},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_no_other(fault):
    change, expected = FAULTS[fault]
    ds = pydicom.dcmread(BytesIO(samples.clean()))
    assert findings(samples.saved(ds)) == set()
    change(ds)
    assert findings(samples.saved(ds)) == expected


def test_a_file_meta_of_another_sop_class_is_found():
    content = _foreign_class(samples.clean())
    assert findings(content) == {("uid-disagrees", "MediaStorageSOPInstanceUID")}


def test_two_bytes_behind_a_compressed_frame_are_padding():
    content = samples.changed(lambda ds: _behind_the_frame(ds, b"\1\2"))
    assert findings(content) == set()
