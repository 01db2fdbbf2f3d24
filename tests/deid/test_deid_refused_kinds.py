"""Documents, models and videos are refused by a reason of their own, and none of their bytes is copied."""

from __future__ import annotations

import pytest
from deid_samples import clean, image, images, leaks, one, save
from pydicom.encaps import encapsulate
from pydicom.uid import UID_dictionary

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.deid.papers.statement import page
from meninx.dicomfile.refusals import REFUSED_KINDS, Reason, meaning

DOCUMENTS = {
    "1.2.840.10008.5.1.4.1.1.104.1": "encapsulated-pdf",
    "1.2.840.10008.5.1.4.1.1.104.2": "encapsulated-cda",
    "1.2.840.10008.5.1.4.1.1.104.3": "encapsulated-model",
    "1.2.840.10008.5.1.4.1.1.104.4": "encapsulated-model",
    "1.2.840.10008.5.1.4.1.1.104.5": "encapsulated-model",
    "1.2.840.10008.5.1.4.1.1.77.1.1.1": "video",
}
VIDEOS = sorted(uid for uid, row in UID_dictionary.items() if "MPEG" in row[0] or "HEVC" in row[0])


def test_the_standard_names_no_other_document():
    rows = [(uid, row[0]) for uid, row in UID_dictionary.items() if row[1] == "SOP Class"]
    every = {uid for uid, name in rows if name.startswith("Encapsulated ")}
    assert every == {uid for uid, reason in DOCUMENTS.items() if reason.startswith("encapsulated")}


@pytest.mark.parametrize(("sop_class", "reason"), DOCUMENTS.items())
def test_a_document_is_refused_with_words_that_say_what_to_do(tmp_path, sop_class, reason):
    save(image(SOPClassUID=sop_class, EncapsulatedDocument=b"%PDF Marigold"), tmp_path / "in" / "a")
    save(image(2), tmp_path / "in" / "b")
    result = clean(tmp_path)
    assert result.quarantined == {reason: 1}
    assert f"1 x {reason} ({meaning(reason)})" in result.summary()
    assert meaning(reason).encode() in page(artifacts.read(tmp_path / "out", DeidRecord))
    assert not leaks(tmp_path / "out")


def test_every_video_transfer_syntax_is_refused_whatever_the_class_says(tmp_path):
    assert len(VIDEOS) >= 14
    for number, syntax in enumerate(VIDEOS):
        ds = image(number, PixelData=encapsulate([b"Marigold"]))
        save(ds, tmp_path / "in" / str(number), syntax=syntax)
    result = clean(tmp_path)
    assert (result.files_written, result.quarantined) == (0, {"video": len(VIDEOS)})


def test_a_document_inside_an_image_is_replaced_by_a_dummy(tmp_path):
    """What could be a way around: an image of an accepted class that carries a document beside its pixels."""
    ds = image(EncapsulatedDocument=b"%PDF Marigold ", MIMETypeOfEncapsulatedDocument="application/pdf")
    new = one(tmp_path, ds)
    assert not bytes(new.EncapsulatedDocument).strip(b"\0")  # the profile's dummy value
    assert not leaks(tmp_path / "out")
    assert b"%PDF" not in images(tmp_path / "out")[0].read_bytes()


def test_the_kinds_that_no_setting_lets_through_are_those_of_the_table():
    assert {*DOCUMENTS.values(), Reason.ENCAPSULATED_DOCUMENT} == set(REFUSED_KINDS)
