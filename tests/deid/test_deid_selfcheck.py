from __future__ import annotations

import io
import zlib
from pathlib import Path

import pydicom
import pytest
from deid_samples import clean, image, save

from meninx.deid import selfcheck
from meninx.deid.cleaner import Cleaner
from meninx.deid.config import DeidConfig
from meninx.deid.identifiers import Identifiers
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.dicomfile.refusals import Reason, Refused

WORDS = "SIEMENS MEDICAL SYSTEMS HEALTHCARE GMBH."  # stays as it is


def written(tmp_path: Path, ds, syntax: str = "1.2.840.10008.1.2.1"):
    """Return the output of one data set and what the check needs besides."""
    resolver = Resolver(Pseudonyms(SiteKey(bytes(range(32)), "north")))
    cleaner = Cleaner(profile=DeidConfig().compiled(), resolver=resolver)
    clean = cleaner.clean(save(ds, tmp_path / "a", syntax=syntax).read_bytes())
    return b"".join(clean.chunks()), clean.original, clean.context


def refused(content: bytes, original, context) -> str:
    try:
        selfcheck.check(content, original, context)
    except Refused as refusal:
        return str(refusal.reason)
    return ""


def test_a_clean_file_passes_and_a_touched_one_does_not(tmp_path):
    content, original, context = written(tmp_path, image())
    assert refused(content, original, context) == ""
    assert refused(content.replace(b"ACME", b"ACM\xff"), original, context) == ""
    pixels = content.rindex(bytes(original.pixels[0].value))
    assert (
        refused(content[:pixels] + b"\1" + content[pixels + 1 :], original, context) == Reason.PIXELS_CHANGED
    )
    assert refused(b"x" + content[1:], original, context) == Reason.PROCESSING_FAILED
    assert refused(content[:200], original, context) == Reason.PROCESSING_FAILED
    assert refused(b"", original, context) == Reason.PROCESSING_FAILED


def test_pixels_that_no_search_reads_to_the_end_are_compared_all_the_same(tmp_path, monkeypatch):
    """A search may stop early, or read nothing where no identifier was collected."""
    content, original, context = written(tmp_path, image())
    monkeypatch.setattr(Identifiers, "found_in_bytes", lambda self, content, *kind: False)
    assert refused(content, original, context) == ""
    pixels = content.rindex(bytes(original.pixels[0].value))
    touched = content[:pixels] + b"\1" + content[pixels + 1 :]
    assert refused(touched, original, context) == Reason.PIXELS_CHANGED


@pytest.mark.parametrize(
    ("keyword", "stays", "leak"),
    [
        ("SliceThickness", "2.718281", "55123470"),
        ("InstanceNumber", "31415926", "55123470"),
        ("AcquisitionTime", "101112.131415", "55123470"),
    ],
)
def test_an_identifier_in_a_number_or_a_time_is_seen_in_the_raw_header(tmp_path, keyword, stays, leak):
    """The walk through decoded texts leaves DS, IS, AS and TM out, so the raw search alone finds it."""
    ds = image(PatientID=leak, **{keyword: stays})
    content, original, context = written(tmp_path, ds)
    value = str(pydicom.dcmread(io.BytesIO(content))[keyword].value).encode()
    assert content.count(value) == 1
    touched = content.replace(value, leak.encode().ljust(len(value)))
    assert refused(content, original, context) == ""
    assert refused(touched, original, context) == Reason.RESIDUAL_IDENTIFIER


@pytest.mark.parametrize("place", [0, 7, (1 << 18) - 1, 1 << 18, (1 << 18) + 40, -1])
@pytest.mark.parametrize("identifiers", [True, False])
def test_every_changed_byte_of_the_pixels_is_seen_whether_anything_is_searched(tmp_path, place, identifiers):
    context = written(tmp_path, image())[2]
    value = bytes(300 * 1024)
    file = value[:place] + b"\1" + value[place:][1:] if place >= 0 else value[:-1] + b"\1"
    for found, wrong in ((value, False), (file, True)):
        both = selfcheck.ComparedBytes(b"head" + found + b"tail", 4, value, len)
        seen = False
        try:
            if identifiers:
                assert not context.found.found_in_bytes(both)
            both.finish()
        except Refused as refusal:
            seen = refusal.reason == Reason.PIXELS_CHANGED
        assert seen == wrong


@pytest.mark.parametrize(
    "leak", [b"Marigold", b"MARIGOLD", b"quillfeather", b"ACC-778812", b"20190314", b"Willowmere Infirmary"]
)
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"])
def test_an_identifier_in_raw_bytes_is_seen(tmp_path, leak, syntax):
    ds = image(Manufacturer=WORDS)
    content, original, context = written(tmp_path, ds, syntax)
    if syntax.endswith(".99"):
        start = 144 + int.from_bytes(content[140:144], "little")
        plain = zlib.decompressobj(-15).decompress(content[start:])
        stream = zlib.compressobj(wbits=-15)
        content = (
            content[:start] + stream.compress(plain.replace(WORDS.encode(), leak.ljust(40))) + stream.flush()
        )
    else:
        content = content.replace(WORDS.encode(), leak.ljust(40))
    assert refused(content, original, context) == Reason.RESIDUAL_IDENTIFIER


def test_text_at_the_edge_of_the_pixels_keeps_the_file_out(tmp_path):
    pixels = image().PixelData
    for number, plain in enumerate((b"Marigold" + pixels[8:], pixels[:-12] + b"QUILLFEATHER")):
        save(image(number, PixelData=plain), tmp_path / "in" / str(number))
    assert clean(tmp_path).quarantined == {"residual-identifier": 2}


GLUED = [
    b"xMarigold",
    b"MARIGOLDx",
    b"QuillfeatherMarigold",
    "Quillfeather".encode("utf-16-le"),
    b"\7" + "Quillfeather".encode("utf-16-be"),
    b"14.03.1957",
    b"1957-03-14",
    b"03/14/1957",
]


@pytest.mark.parametrize("leak", GLUED)
def test_letters_around_an_identifier_mean_nothing_in_pixels_and_other_bytes(tmp_path, leak):
    size = len(image().PixelData)
    noise = bytes(range(120, 136)) * (size // 16 + 1)
    if b"\0" not in leak:  # UTF-16 is not searched in pixels
        pixels = noise[:101] + leak + noise[: size - 101 - len(leak)]
        save(image(1, PatientBirthDate="19570314", PixelData=pixels), tmp_path / "in" / "pixels")
        assert clean(tmp_path).quarantined == {"residual-identifier": 1}
    # The value of a header that is no text goes, so that the file can be written.
    icc = image(1, PatientBirthDate="19570314", ICCProfile=noise[:33] + leak + noise[: 32 - len(leak) % 2])
    content, original, context = written(tmp_path, icc)
    assert leak not in content
    # And the check of the written file sees it on its own.
    lut = image(1, PatientBirthDate="19570314", ICCProfile=noise[:64])
    content, original, context = written(tmp_path, lut)
    assert noise[:64] in content
    touched = content.replace(noise[:64], (noise[:20] + leak + noise)[:64])
    assert refused(touched, original, context) == Reason.RESIDUAL_IDENTIFIER


def test_a_plain_area_is_no_identifier(tmp_path):
    size = len(image().PixelData)
    save(image(1, PatientID="00000000", PixelData=b"0" * size), tmp_path / "in" / "plain")
    assert clean(tmp_path).quarantined == {}


@pytest.mark.parametrize(
    "told", ["P1/2.25.1/QUILLFEATHER.dcm", "x/1.2.826.0.1.3680043.10.999.1.1/y", "0000123"]
)
def test_a_path_or_an_audit_line_with_an_identifier_keeps_the_file_out(tmp_path, told):
    _, _, context = written(tmp_path, image())
    selfcheck.check_public_texts(("P1/2.25.1/2.25.2/2.25.3.dcm", "1.2.840.10008.1.2"), context)
    with pytest.raises(Refused, match="residual-identifier"):
        selfcheck.check_public_texts(("fine", told), context)
