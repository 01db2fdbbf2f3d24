"""Text in the pixels, with a reader that finds what the test says."""

from __future__ import annotations

import dicom_check_samples as samples
import pytest

from meninx.deid.burned_in.burned_text import Reader
from meninx.imaging.ocr import Box, Found, Reading
from meninx.verify import dicom_stage
from meninx.verify.check_parts import PIXELS, PartState
from meninx.verify.config import DicomCheckConfig

LINE = Box(1, 1, 20, 7)


def reader(*texts, box=LINE, confidence=0.95):
    """Return a reader that finds these lines below each other."""
    boxes = {Box(box.left, box.top + 8 * n, box.right, box.bottom + 8 * n): t for n, t in enumerate(texts)}
    return Reader(
        lambda picture, search: [Found(box, 0.9) for box in boxes],
        lambda picture, box: Reading(boxes[box], confidence),
        lambda picture, box: False,
    )


def checked(tmp_path, made, content=None, **given):
    """Return the check of one clean file of 24 x 24 pixels against its original."""
    folder = tmp_path / "theirs"
    folder.mkdir(exist_ok=True)
    (folder / "a.dcm").write_bytes(content or samples.clean())
    if not (tmp_path / "archive").is_dir():
        samples.archive(tmp_path / "archive")
    settings = DicomCheckConfig(pixels=True, originals=tmp_path / "archive", workers=1, **given)
    return dicom_stage.run(folder, settings, reader=made)


@pytest.mark.parametrize(
    ("texts", "reasons"),
    [
        ((), {}),
        (("MI 1.2", "L"), {}),  # technical
        (("Quillfeather Marigold",), {"identifier-in-pixels": 1}),
        (("QUILLFEATHER",), {"identifier-in-pixels": 1}),
        (("MI 1.2", "DOB 02.05.1961"), {"identifier-in-pixels": 1}),
        (("MRN-", "5512347"), {"identifier-in-pixels": 1}),
        (("Somebody Else",), {"text-in-pixels": 1}),
    ],
)
def test_identifiers_leak_other_text_is_suspicious_and_technical_text_is_nothing(texts, reasons, tmp_path):
    result = checked(tmp_path, reader(*texts))
    assert result.reasons == reasons
    assert result.exit_code == (4 if "identifier-in-pixels" in reasons else 0)
    assert result.state(PIXELS) is PartState.CHECKED
    assert not any(text in result.to_json() for text in ("QUILLFEATHER", "Somebody", "5512347"))


def test_the_name_of_another_patient_of_the_originals_is_a_leak(tmp_path):
    source = samples.archive(tmp_path / "archive")
    other = samples.original(2)
    other.PatientName, other.PatientID = "Bracegirdley^Ignaceous", "MRN-7712340"
    (source / "other.dcm").write_bytes(samples.saved(other))
    assert checked(tmp_path, reader("BRACEGIRDLEY I")).reasons == {"identifier-in-pixels": 1}


def test_the_outline_of_a_small_picture_is_no_text_unless_it_can_be_read(tmp_path):
    whole = Box(0, 0, 24, 24)
    assert checked(tmp_path, reader("A", box=whole, confidence=0.99)).reasons == {}
    assert checked(tmp_path, reader("Somebody", box=whole, confidence=0.3)).reasons == {}
    assert checked(tmp_path, reader("Somebody", box=whole)).reasons == {"text-in-pixels": 1}


def test_pixels_that_cannot_be_decoded_are_named_and_never_count_as_read(tmp_path):
    def odd(ds):
        ds.PhotometricInterpretation = "NOTHING KNOWN"

    result = checked(tmp_path, reader(), samples.changed(odd))
    assert result.reasons.get("pixel-text-unread") == 1
    assert result.state(PIXELS) is PartState.PARTLY
    assert "0 of 1 image" in result.summary()
