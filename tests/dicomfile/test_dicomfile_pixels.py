"""Frames rebuilt: the same decoded pixels, and nothing else in the file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from deid_samples import PLANTED, clean, image, images, leaks, save
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from meninx.dicomfile import codestreams, instance
from meninx.dicomfile import jp2 as jp2_files
from meninx.dicomfile.refusals import Refused
from meninx.imaging.decode import quiet

OWN, OTHER = b"Marigold Quillfeather", b"Rosalind Featherstonehaugh"


def encoded(syntax: str, *, frames: int = 1, **options) -> pydicom.Dataset:
    """Return a compressed image of 64 x 64 pixels."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 4000, (frames, 64, 64)).astype("<u2")
    ds = image(Rows=64, Columns=64, PixelData=pixels.tobytes(), NumberOfFrames=str(frames))
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.compress(syntax, generate_instance_uid=False, **options)
    return ds


def jpeg_frame() -> bytes:
    """Return a baseline JPEG of 8 bit, made by Pillow."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def grey8(frames: list[bytes], **changes) -> pydicom.Dataset:
    ds = image(
        Rows=16,
        Columns=16,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelData=encapsulate(frames),
        **changes,
    )
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def frames_of(ds: pydicom.Dataset) -> list[bytes]:
    return list(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1)))


def segment(marker: int, text: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(text) + 2).to_bytes(2, "big") + text


def written(
    tmp_path: Path, ds: pydicom.Dataset, syntax: str, before: np.ndarray | None = None
) -> pydicom.Dataset:
    """Return the output of one file, which must hold neither text and must show the same image."""
    save(ds, tmp_path / "in" / "a", syntax=syntax)
    before = pixel_array(tmp_path / "in" / "a") if before is None else before
    result = clean(tmp_path)
    assert result.files_written == 1, result.quarantined
    path = images(tmp_path / "out")[0]
    texts = (*PLANTED, *OTHER.decode().split())
    assert not leaks(tmp_path / "out", texts)
    np.testing.assert_array_equal(pixel_array(path), before)
    return pydicom.dcmread(path)


def quarantined(tmp_path: Path, ds: pydicom.Dataset, syntax: str = "1.2.840.10008.1.2.1") -> str:
    save(ds, tmp_path / "in" / "a", syntax=syntax)
    (reason,) = clean(tmp_path).quarantined
    assert not images(tmp_path / "out")
    return reason


def compressed_samples() -> list[Path]:
    """Return the compressed images among pydicom's installed test files, one of each kind of header."""
    found = {}
    for path in sorted(
        (Path(pydicom.data.__file__).parent / "test_files").rglob("*.dcm")
    ):  # without its downloads
        if path.stat().st_size > 400_000:
            continue
        try:
            original = instance.read(path.read_bytes())
        except Refused:
            continue
        if original.pixels and original.pixels[0].undefined:
            key = original.transfer_syntax, original.text(0x00280004), original.text(0x00280008)
            found.setdefault((*key, path.stat().st_size % 3), path)
    return list(found.values())


@pytest.mark.parametrize("path", compressed_samples(), ids=lambda path: path.stem)
def test_decoded_pixels_of_foreign_files_stay_what_they_were(tmp_path, path):
    original = instance.read(path.read_bytes())
    with quiet():
        before = pydicom.dcmread(path)
        after = pydicom.dcmread(path)
        after.PixelData = bytes(original.pixels[0].value)
        try:
            expected = before.pixel_array
        except Exception:  # what the decoder cannot read it may not read afterwards either
            pytest.skip("not decodable")
        np.testing.assert_array_equal(after.pixel_array, expected)
    again = instance.read(path.read_bytes())
    assert bytes(again.pixels[0].value) == bytes(original.pixels[0].value)


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000]
)
@pytest.mark.parametrize("frames", [1, 3])
def test_every_syntax_is_rebuilt_without_the_text_behind_its_frames(tmp_path, syntax, frames):
    options = {JPEGLSNearLossless: {"jls_error": 2}, JPEG2000: {"j2k_cr": [2]}}.get(syntax, {})
    ds = encoded(syntax, frames=frames, **options)
    plain, before = frames_of(ds), ds.pixel_array
    for text in (OWN, OTHER):
        ds.PixelData = encapsulate([frame + text + b"\0" * (len(text) % 2) for frame in plain])
        ds["PixelData"].is_undefined_length = True
        new = written(tmp_path / text[:4].decode(), ds, syntax, before)
        assert len(frames_of(new)) == frames


@pytest.mark.parametrize("text", [OWN, OTHER])
@pytest.mark.parametrize(
    "place", ["behind", "second fragment", "behind the scan", "comment", "application", "offsets"]
)
def test_no_text_survives_in_a_jpeg(tmp_path, text, place):
    frame = jpeg_frame()
    end = frame.rindex(b"\xff\xd9")
    made = {
        "behind": [frame + text],
        "second fragment": [frame, text + b"\0" * (len(text) % 2)],
        "behind the scan": [frame[:end] + segment(0xFE, text) + frame[end:]],
        "comment": [frame[:2] + segment(0xFE, text) + frame[2:]],
        "application": [
            frame[:2] + segment(0xE1, b"Exif\0\0" + text) + segment(0xE0, b"JFXX\0" + text) + frame[2:]
        ],
        "offsets": [frame],
    }[place]
    if place == "second fragment":
        ds = grey8([frame])
        table, fragments = b"\xfe\xff\0\xe0\0\0\0\0", b""
        for part in made:
            part += b"\0" * (len(part) % 2)
            fragments += b"\xfe\xff\0\xe0" + struct.pack("<L", len(part)) + part
        ds.PixelData = table + fragments
    elif place == "offsets":
        ds = grey8([frame])
        padded = text.ljust(28)
        item = frame + b"\0" * (len(frame) % 2)
        ds.PixelData = b"\xfe\xff\0\xe0" + struct.pack("<L", 28) + padded
        ds.PixelData += b"\xfe\xff\0\xe0" + struct.pack("<L", len(item)) + item
    else:
        ds = grey8(made)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    if place == "offsets":  # pydicom cannot read such a table
        save(ds, tmp_path / "in" / "a", syntax=JPEGBaseline8Bit)
        assert clean(tmp_path).files_written == 1
        assert not leaks(tmp_path / "out", (*PLANTED, *OTHER.decode().split()))
        return
    written(tmp_path, ds, JPEGBaseline8Bit)


@pytest.mark.parametrize("text", [OWN, OTHER])
def test_no_text_survives_in_extended_offsets_or_a_jfif_thumbnail(tmp_path, text):
    frame = jpeg_frame()
    jfif = segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\1\7" + text.ljust(21)[:21])
    ds = grey8([frame[:2] + jfif + frame[frame.index(b"\xff\xdb") :]])
    save(ds, tmp_path / "plain", syntax=JPEGBaseline8Bit)
    before = pixel_array(tmp_path / "plain")
    ds.ExtendedOffsetTable = text.ljust(32)
    ds.ExtendedOffsetTableLengths = text.ljust(32)
    new = written(tmp_path, ds, JPEGBaseline8Bit, before)
    assert "ExtendedOffsetTable" not in new
    assert b"JFIF" in new.PixelData


@pytest.mark.parametrize("text", [OWN, OTHER])
def test_no_text_survives_in_a_jpeg2000_comment_or_a_jp2_box(tmp_path, text):
    (stream,) = frames_of(encoded(JPEG2000Lossless))
    size = stream.index(b"\xff\x51")
    after_size = size + 2 + int.from_bytes(stream[size + 2 : size + 4], "big")
    tile = stream.index(b"\xff\x90")
    comment = segment(0x64, b"\0\1" + text)
    length = int.from_bytes(stream[tile + 6 : tile + 10], "big") + len(comment)
    part = (
        stream[tile : tile + 6]
        + length.to_bytes(4, "big")
        + stream[tile + 10 : tile + 12]
        + comment
        + stream[tile + 12 :]
    )
    for name, frame in {
        "main": stream[:after_size] + comment + stream[after_size:],
        "tile": stream[:tile] + part,
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n"
        + struct.pack(">L4s", 8 + len(text), b"xml ")
        + text
        + struct.pack(">L4s", 8 + len(stream), b"jp2c")
        + stream,
    }.items():
        ds = encoded(JPEG2000Lossless)
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].is_undefined_length = True
        if name == "jp2":
            save(ds, tmp_path / name / "in" / "a", syntax=JPEG2000Lossless)
            assert clean(tmp_path / name).files_written == 1
            new = pydicom.dcmread(images(tmp_path / name / "out")[0])
            assert not leaks(tmp_path / name / "out", (*PLANTED, *OTHER.decode().split()))
            np.testing.assert_array_equal(new.pixel_array, encoded(JPEG2000Lossless).pixel_array)
        else:
            written(tmp_path / name, ds, JPEG2000Lossless)


@pytest.mark.parametrize("text", [OWN, OTHER])
def test_no_text_survives_behind_the_runs_of_rle_or_in_its_header(tmp_path, text):
    ds = encoded(RLELossless)
    before = ds.pixel_array
    (frame,) = frames_of(ds)
    _, first, second = struct.unpack_from("<3L", frame)
    padded = text + b"\0" * (len(text) % 2)
    moved = struct.pack("<3L", 2, 64, second + len(padded)) + padded.ljust(52, b"\0")[:52]
    ds.PixelData = encapsulate([moved + frame[first:second] + padded + frame[second:] + padded])
    ds["PixelData"].is_undefined_length = True
    written(tmp_path, ds, RLELossless, before)


def test_the_last_run_of_an_rle_plane_does_not_reach_beyond_it():
    from meninx.dicomfile.codestreams import rle

    header = struct.pack("<16L", 1, 64, *[0] * 14)
    assert rle(header + b"\x03ABCDEFGH", 2, 1)[64:] == b"\x01AB\0"
    assert rle(header + b"\xf0A", 3, 1)[64:] == b"\xfeA"
    assert rle(header + b"\xf0A", 1, 1)[64:] == b"\x00A"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 0}, "pixel-size-missing"),
        ({"Columns": None}, "pixel-size-missing"),
        ({"PixelData": image().PixelData + OTHER}, "pixel-data-too-long"),
        ({"PixelData": image().PixelData * 3}, "pixel-data-too-long"),
        ({"PixelData": image().PixelData[:-2]}, "truncated"),
        ({"PixelData": image().PixelData * 3, "NumberOfFrames": "2"}, "pixel-data-too-long"),
        ({"PixelData": image().PixelData * 3, "NumberOfFrames": "4"}, "truncated"),
        ({"PixelData": image().PixelData * 3 + b"ab", "NumberOfFrames": ""}, "frames-disagree"),
    ],
)
def test_native_pixels_that_their_header_does_not_describe_are_kept_out(tmp_path, changes, reason):
    assert quarantined(tmp_path, image(**changes)) == reason


@pytest.mark.parametrize("number", ["+3", "3 ", " 3", "3.0", "", "three", "0", "-3", "3\\3"])
def test_no_frame_is_lost(tmp_path, number):
    frames = b"".join(bytes([value]) * 128 for value in (1, 2, 3))
    ds = image(PixelData=frames)
    ds._dict[pydicom.tag.Tag(0x00280008)] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(0x00280008), "IS", len(number), number.encode(), 0, False, True
    )
    with quiet():
        save(ds, tmp_path / "in" / "a")
    result = clean(tmp_path)
    assert result.files_written == 1, result.quarantined
    with quiet():
        new = pydicom.dcmread(images(tmp_path / "out")[0])
    assert new.PixelData == frames
    assert int(new.NumberOfFrames) == 3
    assert new.pixel_array.shape == (3, 8, 8)


def test_no_frame_of_a_compressed_file_is_lost(tmp_path):
    frame = jpeg_frame()
    three = [frame] * 3
    assert (
        len(frames_of(written(tmp_path / "three", grey8(three, NumberOfFrames="3"), JPEGBaseline8Bit))) == 3
    )
    for number, wanted in enumerate(("2", "4")):
        assert (
            quarantined(tmp_path / str(number), grey8(three, NumberOfFrames=wanted), JPEGBaseline8Bit)
            == "frames-disagree"
        )
    assert quarantined(tmp_path / "absent", grey8(three), JPEGBaseline8Bit) == "frames-disagree"
    assert quarantined(tmp_path / "inside", grey8([frame + frame]), JPEGBaseline8Bit) == "frames-disagree"
    save(grey8(three, NumberOfFrames=""), tmp_path / "empty" / "in" / "a", syntax=JPEGBaseline8Bit)
    assert clean(tmp_path / "empty").files_written == 1
    new = pydicom.dcmread(images(tmp_path / "empty" / "out")[0])
    assert new.NumberOfFrames == 3
    assert new.pixel_array.shape == (3, 16, 16)


def test_frames_in_several_fragments_are_joined(tmp_path):
    frame = jpeg_frame() + b"\0" * (len(jpeg_frame()) % 2)
    for bot in (True, False):
        ds = grey8([frame])
        ds.PixelData = encapsulate([frame, frame], fragments_per_frame=3, has_bot=bot)
        ds.NumberOfFrames = "2"
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        new = written(tmp_path / str(bot), ds, JPEGBaseline8Bit)
        offsets, fragments = pydicom.encaps.parse_basic_offsets(new.PixelData), frames_of(new)
        assert len(fragments) == 2
        assert offsets == ([0, 8 + len(fragments[0])] if bot else [])


@pytest.mark.parametrize("text", [OWN, OTHER])
def test_float_pixels_are_as_long_as_the_image(tmp_path, text):
    plain = np.linspace(0, 1, 64, dtype="<f4").tobytes()
    for keyword, content, reason in (
        ("FloatPixelData", plain + text, "pixel-data-too-long"),
        ("DoubleFloatPixelData", plain * 2 + text, "pixel-data-too-long"),
        ("FloatPixelData", plain[:-4], "truncated"),
    ):
        ds = image(PixelData=None)
        ds.add_new(
            keyword, "OF" if keyword == "FloatPixelData" else "OD", content + b"\0" * (len(content) % 2)
        )
        assert quarantined(tmp_path / f"{keyword}{len(content)}", ds) == reason
    ds = image(PixelData=None)
    ds.add_new("FloatPixelData", "OF", plain)
    save(ds, tmp_path / "fits" / "in" / "a")
    assert clean(tmp_path / "fits").files_written == 1


def test_the_own_name_in_the_middle_of_plain_pixels_keeps_the_file_out(tmp_path):
    pixels = bytearray(bytes(512 * 512))
    pixels[100_000 : 100_000 + len(OWN)] = OWN
    ds = image(Rows=512, Columns=512, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes(pixels))
    assert quarantined(tmp_path, ds) == "residual-identifier"


@pytest.mark.parametrize(
    ("syntax", "frame", "reason"),
    [
        (JPEGBaseline8Bit, b"Rosalind", "pixels-unreadable"),
        (JPEGBaseline8Bit, jpeg_frame()[:-2], "truncated"),
        (JPEGBaseline8Bit, jpeg_frame()[:40], "truncated"),
        (JPEGBaseline8Bit, b"\xff\xd8" + segment(0xF0, OTHER) + jpeg_frame()[2:], "pixels-unreadable"),
        (
            JPEGBaseline8Bit,
            b"\xff\xd8" + segment(0xDB, b"\0" + OTHER) + jpeg_frame()[2:],
            "pixels-unreadable",
        ),
        (JPEG2000Lossless, b"\xff\x4f\xff\x51Rosalind", "truncated"),
        (RLELossless, bytes(64), "pixels-unreadable"),
        (RLELossless, struct.pack("<16L", 1, 64, *[0] * 14) + b"\xffA\xffA", "truncated"),
        (JPEGLosslessSV1, b"", "frames-disagree"),
        (JPEGLossless, b"\xff\xd8\xff\xd9", "pixels-unreadable"),
    ],
)
def test_streams_that_cannot_be_parsed_are_kept_out(tmp_path, syntax, frame, reason):
    frame += b"\0" * (len(frame) % 2)
    assert quarantined(tmp_path, grey8([frame] if frame else []), syntax) == reason


def test_native_pixels_in_fragments_are_written_as_one_value(tmp_path):
    path = save(image(), tmp_path / "in" / "a")
    content = path.read_bytes()
    at = content.rindex(b"\xe0\x7f\x10\0OW\0\0") + 8
    items = b"\xfe\xff\0\xe0" + bytes(4) + b"\xfe\xff\0\xe0" + content[at:] + b"\xfe\xff\xdd\xe0" + bytes(4)
    path.write_bytes(content[:at] + b"\xff" * 4 + items)
    assert not clean(tmp_path).quarantined
    new = pydicom.dcmread(images(tmp_path / "out")[0])
    assert new.PixelData == image().PixelData
    assert not new["PixelData"].is_undefined_length


HIDDEN = OTHER.ljust(64, b" ")
JFIF_END = 2 + 18  # start of image and the JFIF header that Pillow writes


@pytest.mark.parametrize(
    "added",
    [
        segment(0xDB, b"\3" + HIDDEN),
        segment(0xC4, b"\x13" + bytes([0] * 7 + [len(OTHER)] + [0] * 8) + OTHER),
        segment(0xDB, b"\0" + HIDDEN),  # the table of the image follows and takes its place
        segment(0xCC, OTHER),
        segment(0xDD, b"Ro") + segment(0xDD, b"sa") + segment(0xDD, b"\0\0"),
        segment(0xF8, b"\2\1\1" + OTHER),
        segment(0xE0, b"JFIF\0Rosalind\0"),
        segment(0xE0, b"JFIF\0\1\2\0Rosa\0\0") + segment(0xE0, b"JFIF\0\1\2\0lind\0\0"),
    ],
)
def test_segments_that_no_scan_of_a_jpeg_uses_are_left_out(tmp_path, added):
    frame = jpeg_frame()
    before = pixel_array(save(grey8([frame]), tmp_path / "plain", syntax=JPEGBaseline8Bit))
    new = written(tmp_path, grey8([frame[:JFIF_END] + added + frame[JFIF_END:]]), JPEGBaseline8Bit, before)
    (kept,) = frames_of(new)
    assert not [part for part in (b"Rosa", b"lind", b"Feather") if part in kept]
    assert len(kept) <= len(frame) + 7  # a restart interval may come in


def progressive_frame() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=90, progressive=True, subsampling=0)
    return stream.getvalue()


def test_a_progressive_jpeg_keeps_every_table_that_its_scans_use():
    from meninx.dicomfile import codestreams

    frame = progressive_frame()
    size = codestreams.Size(16, 16, 3)
    kept = codestreams.jpeg(frame, size)
    assert kept[kept.index(b"\xff\xdb") :] == frame[frame.index(b"\xff\xdb") :]
    assert codestreams.jpeg(kept, size) == kept


def test_a_scan_that_comes_twice_keeps_the_file_out(tmp_path):
    frame = jpeg_frame()
    scan = frame[frame.index(b"\xff\xda") : -2]
    text = scan[:10] + OTHER
    for number, again in enumerate((scan, text)):
        ds = grey8([frame[:-2] + again + b"\xff\xd9"])
        assert quarantined(tmp_path / str(number), ds, JPEGBaseline8Bit) == "pixels-unreadable"
    from meninx.dicomfile import codestreams

    late = progressive_frame()
    last = late[late.rindex(b"\xff\xda") : -2]
    with pytest.raises(codestreams.Unparsable):
        codestreams.jpeg(late[:-2] + last + b"\xff\xd9", codestreams.Size(16, 16, 3))


@pytest.mark.parametrize(
    ("syntax", "options"),
    [(JPEGBaseline8Bit, {}), (JPEGLSLossless, {}), (JPEG2000Lossless, {}), (JPEG2000, {"j2k_cr": [2]})],
)
@pytest.mark.parametrize(
    "changes", [{"Rows": 16, "Columns": 16}, {"Rows": 128}, {"Columns": 63}, {"SamplesPerPixel": 3}]
)
def test_a_stream_of_another_size_than_its_header_keeps_the_file_out(tmp_path, syntax, options, changes):
    if syntax == JPEGBaseline8Bit:
        ds = grey8([jpeg_frame()])
        changes = {key: 8 if value == 16 else value for key, value in changes.items()}
    else:
        ds = encoded(syntax, **options)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    assert quarantined(tmp_path, ds, syntax) == "size-disagrees"


@pytest.mark.parametrize("marker", [0x63, 0x59, 0x58])
def test_segments_that_a_jpeg2000_decoder_ignores_are_left_out(tmp_path, marker):
    ds = encoded(JPEG2000Lossless)
    before, (stream,) = ds.pixel_array, frames_of(ds)
    tile = stream.index(b"\xff\x90")
    added = segment(marker, b"\0" + OTHER)
    if marker == 0x58:
        length = int.from_bytes(stream[tile + 6 : tile + 10], "big") + len(added)
        frame = (
            stream[: tile + 6]
            + length.to_bytes(4, "big")
            + stream[tile + 10 : tile + 12]
            + added
            + stream[tile + 12 :]
        )
    else:
        frame = stream[:tile] + added + stream[tile:]
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    written(tmp_path, ds, JPEG2000Lossless, before)


def test_a_jpeg2000_tile_or_header_that_a_decoder_ignores_keeps_the_file_out(tmp_path):
    (stream,) = frames_of(encoded(JPEG2000Lossless))
    tile, end = stream.index(b"\xff\x90"), stream.rindex(b"\xff\xd9")
    qcd = stream.index(b"\xff\x5c")
    another = b"\xff\x90\0\x0a\0\7" + (14 + len(OTHER)).to_bytes(4, "big") + b"\0\1\xff\x93" + OTHER
    repeated = stream[tile:end]
    for number, frame in enumerate(
        (
            stream[:end] + another + stream[end:],
            stream[:end] + repeated + stream[end:],
            stream[:qcd] + segment(0x5D, b"\5\0" + OTHER) + stream[qcd:],
            stream[:qcd] + segment(0x5C, b"\0" + OTHER) + stream[qcd:],
        )
    ):
        ds = encoded(JPEG2000Lossless)
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].is_undefined_length = True
        assert quarantined(tmp_path / str(number), ds, JPEG2000Lossless) == "pixels-unreadable"


def _with_j2k_text(stream: bytes, place: str) -> bytes:
    """Return a JPEG 2000 stream of one tile with a text in a segment that a decoder may ignore."""
    tile, qcd = stream.index(b"\xff\x90"), stream.index(b"\xff\x5c")
    steps = stream[qcd + 4 : qcd + 2 + int.from_bytes(stream[qcd + 2 : qcd + 4], "big")]
    text = OTHER.ljust(14, b" ")
    unused = segment(0x5C, b"\x42" + (text * 3)[:32])
    if place in ("PPT", "tile QCD"):
        added = segment(0x61, b"\0" + text) if place == "PPT" else segment(0x5C, steps)
        length = int.from_bytes(stream[tile + 6 : tile + 10], "big") + len(added)
        frame = stream[: tile + 6] + length.to_bytes(4, "big") + stream[tile + 10 : tile + 12]
        frame += added + stream[tile + 12 :]
        return frame if place == "PPT" else frame.replace(segment(0x5C, steps), unused, 1)
    if place == "offset":  # and the image begins there
        size = b"".join((int.from_bytes(text[at : at + 4], "big") + 64).to_bytes(4, "big") for at in (0, 4))
        origin = text[:8]
        return stream[:8] + size + origin + size + origin + stream[40:]
    added = {
        "PPM": segment(0x60, b"\0" + len(text).to_bytes(4, "big") + text),
        "CAP": segment(0x50, b"\0\0\0\x7f" + text),
        "POC": segment(0x5F, text),
        "QCC": segment(0x5D, b"\0" + steps),
    }
    if place == "QCC":  # the only component has its own quantization, so the common one is not used
        return (
            stream[:qcd]
            + segment(0x5C, b"\x42" + (text * 3)[:32])
            + added["QCC"]
            + stream[qcd + 4 + len(steps) :]
        )
    if place == "long QCD":
        return stream[:qcd] + segment(0x5C, steps + text) + stream[qcd + 4 + len(steps) :]
    return stream[:tile] + added[place] + stream[tile:]


@pytest.mark.parametrize("place", ["PPM", "PPT", "CAP", "POC", "QCC", "tile QCD", "long QCD", "offset"])
def test_a_text_in_a_jpeg2000_segment_that_a_decoder_may_ignore_keeps_the_file_out(tmp_path, place):
    (stream,) = frames_of(encoded(JPEG2000Lossless))
    ds = encoded(JPEG2000Lossless)
    ds.PixelData = encapsulate([_with_j2k_text(stream, place)])
    ds["PixelData"].is_undefined_length = True
    assert quarantined(tmp_path, ds, JPEG2000Lossless) == "pixels-unreadable"


def test_a_jpeg2000_tile_is_written_no_larger_than_the_image(tmp_path):
    ds = encoded(JPEG2000Lossless)
    before, (stream,) = ds.pixel_array, frames_of(ds)
    ds.PixelData = encapsulate([stream[:24] + OTHER[:8] + stream[32:]])
    ds["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(ds.pixel_array, before)
    new = written(tmp_path, ds, JPEG2000Lossless, before)
    assert OTHER[:8] not in new.PixelData


def test_an_rle_frame_with_a_segment_too_many_is_kept_out(tmp_path):
    plane = b"\x81\x05\x81\x05"  # 256 pixels
    text = b"\xe0A" * 8
    segments = struct.pack("<16L", 2, 64, 64 + len(plane), *[0] * 13) + plane + text
    assert quarantined(tmp_path, grey8([segments]), RLELossless) == "pixels-unreadable"


@pytest.mark.parametrize("text", [b"Quillfeather", b"xQuillfeatherx", b"7quillfeather7"])
def test_a_name_among_coded_bytes_is_found_whatever_stands_beside_it(tmp_path, text):
    frame = jpeg_frame()
    coded = frame[:-2] + text + frame[-2:]  # behind the last coded block, where a decoder does not look
    assert quarantined(tmp_path, grey8([coded]), JPEGBaseline8Bit) == "residual-identifier"


def jp2(stream: bytes, *boxes: tuple[bytes, bytes]) -> bytes:
    """Return a codestream in a JP2 file with these boxes in its header."""
    header = b"".join(struct.pack(">L4s", 8 + len(content), kind) + content for kind, content in boxes)
    return (
        b"\0\0\0\x0cjP  \r\n\x87\n"
        + struct.pack(">L4s", 8 + len(header), b"jp2h")
        + header
        + struct.pack(">L4s", 8 + len(stream), b"jp2c")
        + stream
    )


GREY, DEPTH = (b"colr", b"\1\0\0" + (17).to_bytes(4, "big")), 11
SIZE = (b"ihdr", struct.pack(">LLHBBBB", 64, 64, 1, DEPTH, 7, 0, 0))


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([SIZE, GREY], ""),
        ([(b"ihdr", struct.pack(">LLHBBBB", 32, 64, 1, DEPTH, 7, 0, 0)), GREY], "size"),
        ([(b"ihdr", struct.pack(">LLHBBBB", 64, 64, 3, DEPTH, 7, 0, 0)), GREY], "size"),
        ([(b"ihdr", struct.pack(">LLHBBBB", 64, 64, 1, 7, 7, 0, 0)), GREY], "size"),
        ([(b"ihdr", SIZE[1][:10]), GREY], "size"),
        ([SIZE, (b"bpcc", b"\7"), GREY], "size"),
        ([SIZE, (b"bpcc", bytes([DEPTH])), GREY], ""),
        ([SIZE, (b"colr", b"\1\0\0" + (16).to_bytes(4, "big"))], "colours"),
        ([SIZE, (b"colr", b"\2\0\0profile of the device")], "colours"),
        ([SIZE, (b"pclr", b"\0\0")], "palette"),
    ],
)
def test_boxes_of_a_jp2_file_say_what_its_codestream_says(boxes, reason):
    (stream,) = frames_of(encoded(JPEG2000Lossless))
    size = codestreams.Size(64, 64, 1)
    assert stream[42] == DEPTH
    whole = jp2_files.codestream(stream, size)
    assert whole == stream
    if not reason:
        assert jp2_files.codestream(jp2(stream, *boxes), size) == stream
        return
    kind = codestreams.AnotherSize if reason == "size" else codestreams.Unparsable
    with pytest.raises(kind, match="header" if reason == "size" else reason):
        jp2_files.codestream(jp2(stream, *boxes), size)
