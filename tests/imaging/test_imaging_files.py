"""PNG, NIfTI, and files by suffix."""

from __future__ import annotations

import gzip
import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFile
from PIL.PngImagePlugin import PngInfo

from meninx.core.errors import DataError
from meninx.imaging import load, nifti, png
from meninx.imaging.image import Image

RNG = np.random.default_rng(0)
AFFINE = np.array([[0.9, 0.1, 0, 5], [-0.1, 0.9, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 5, 7), np.uint8), ((1, 5, 7), np.uint16), ((3, 5, 7), np.uint8)]
)
def test_png_keeps_every_pixel_and_nothing_else(tmp_path, shape, kind):
    array = RNG.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    path = tmp_path / "a.png"
    load.save(path, Image(array, header={"PatientName": "planted"}))
    back = load.load(path)
    assert back.array.dtype == kind
    np.testing.assert_array_equal(back.array, array)
    content = path.read_bytes()
    chunks, place = [], 8
    while place < len(content):
        chunks.append(content[place + 4 : place + 8])
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}
    assert png.encode(Image(array)) == content


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.int16), np.zeros((2, 2, 2), np.uint8),
     np.zeros((3, 2, 2), np.uint16), np.zeros((1, 2, 2, 2), np.uint8)],
)  # fmt: skip
def test_png_refuses_what_it_cannot_keep(tmp_path, array):
    with pytest.raises(DataError):
        png.write(tmp_path / "a.png", Image(array))
    assert not list(tmp_path.iterdir())


def test_other_pictures_are_read_as_grey_or_rgb(tmp_path):
    rgb = RNG.integers(0, 255, (4, 6, 3), dtype=np.uint8)
    picture = Pillow.fromarray(rgb)
    expected = np.moveaxis(rgb, -1, 0)
    picture.convert("RGBA").save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(png.read(tmp_path / "opaque.png").array, expected)
    few = Pillow.fromarray(rgb // 128 * 255).convert("P", palette=Pillow.Palette.WEB)
    few.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        png.read(tmp_path / "palette.png").array, np.moveaxis(np.asarray(few.convert("RGB")), -1, 0)
    )
    Pillow.fromarray(rgb[..., 0] > 99).save(tmp_path / "one.png")
    np.testing.assert_array_equal(png.read(tmp_path / "one.png").array[0], (rgb[..., 0] > 99) * 255)
    picture.save(tmp_path / "photo.JPG", "JPEG")
    assert load.load(tmp_path / "photo.JPG").array.shape == (3, 4, 6)
    picture.convert("L").save(tmp_path / "grey.jpeg", quality=100)
    np.testing.assert_allclose(
        load.load(tmp_path / "grey.jpeg").array[0].astype(int), np.asarray(picture.convert("L")), atol=3
    )


def test_pictures_that_would_lose_something_are_refused(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    Pillow.fromarray(rgba).save(tmp_path / "clear.png")
    with pytest.raises(DataError, match="transparent"):
        png.read(tmp_path / "clear.png")
    import struct
    import zlib

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    deep = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 7))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "deep.png").write_bytes(deep)
    with pytest.raises(DataError, match="16 bits"):
        png.read(tmp_path / "deep.png")
    for name, content in (("text.png", b"hello"), ("cut.png", deep[:30]), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            png.read(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        png.read(tmp_path / "none.png")


def test_a_picture_of_several_jpegs_is_counted_as_one_jpeg(tmp_path, monkeypatch):
    """Pillow calls a JPEG with further pictures behind it MPO: its scans were not counted."""
    picture = Pillow.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    picture.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[picture], progressive=True)
    content = (tmp_path / "x.jpg").read_bytes()
    assert load.load(tmp_path / "x.jpg").size == (8, 8)
    end = content.index(b"\xff\xd9")
    scan = content[content[:end].rindex(b"\xff\xda") : end]
    (tmp_path / "x.jpg").write_bytes(content[:end] + 64 * scan + content[end:])
    with Pillow.open(tmp_path / "x.jpg") as found:
        assert found.format == "MPO"
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="more than 64 scans"):
        load.load(tmp_path / "x.jpg")


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """A decoder passes through the whole image once for each scan."""
    stream = io.BytesIO()
    Pillow.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(
        stream, "JPEG", progressive=True
    )
    whole = stream.getvalue()
    (tmp_path / "usual.jpg").write_bytes(whole)
    assert png.read(tmp_path / "usual.jpg").size == (64, 64)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    thumbnail = b"\xff\xe1\x01\x00" + b"\xff\xda\x00\x02" * 63 + b"\0\0"  # no scans of this image
    (tmp_path / "thumbnail.jpg").write_bytes(whole[:2] + thumbnail * 2 + whole[2:])
    assert png.read(tmp_path / "thumbnail.jpg").size == (64, 64)
    (tmp_path / "many.jpg").write_bytes(whole[:-2] + last * 64 + b"\xff\xd9")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="more than 64 scans"):
        png.read(tmp_path / "many.jpg")


def test_text_of_a_source_picture_is_not_carried_along(tmp_path):
    info = PngInfo()
    info.add_text("Comment", "planted")
    Pillow.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png", pnginfo=info)
    load.save(tmp_path / "b.png", load.load(tmp_path / "a.png"))
    assert b"planted" not in (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize(
    "kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.bool_, np.int64, np.float16]
)
def test_nifti_keeps_voxels_and_affine(tmp_path, name, kind):
    array = RNG.integers(0, 2 if kind == "bool" else 100, (1, 3, 4, 5)).astype(kind)
    load.save(tmp_path / name, Image(array, AFFINE))
    back = load.load(tmp_path / name)
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-6)
    assert (back.array.dtype.kind in "iu") == (np.dtype(kind).kind in "iub")


def test_nifti_of_equal_images_is_equal_and_says_nothing(tmp_path):
    array = RNG.integers(0, 100, (1, 3, 4, 5), dtype=np.int16)
    for name in ("one.nii.gz", "planted.nii.gz"):
        nifti.write(tmp_path / name, Image(array, AFFINE, {"PatientName": "planted"}))
    one = (tmp_path / "one.nii.gz").read_bytes()
    assert one == (tmp_path / "planted.nii.gz").read_bytes()
    assert one[3] == 0  # no file name in the gzip header
    assert one[4:8] == b"\0\0\0\0"  # no time
    header = nib.load(tmp_path / "one.nii.gz").header
    assert not any(
        header[name].item().strip(b"\0") for name in ("descrip", "aux_file", "intent_name", "db_name")
    )
    assert b"planted" not in gzip.decompress(one)


def test_nifti_channels_and_two_axes(tmp_path):
    many = RNG.random((3, 2, 4, 5)).astype(np.float32)
    nifti.write(tmp_path / "many.nii", Image(many, AFFINE))
    assert nib.load(tmp_path / "many.nii").shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(nifti.read(tmp_path / "many.nii").array, many)
    flat = RNG.integers(0, 9, (1, 4, 6), dtype=np.uint8)
    nifti.write(tmp_path / "flat.nii", Image(flat, np.diag([0.5, 0.25, 1, 1])))
    back = nifti.read(tmp_path / "flat.nii")
    np.testing.assert_array_equal(back.array, flat)
    assert back.spacing_mm == (0.5, 0.25)
    with pytest.raises(DataError, match="one channel"):
        nifti.write(tmp_path / "x.nii", Image(np.zeros((2, 4, 6), np.uint8)))


def test_nifti_made_elsewhere(tmp_path):
    stored = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    stored.header.set_slope_inter(0.5, 3)
    nib.save(stored, tmp_path / "scaled.nii")
    image = nifti.read(tmp_path / "scaled.nii")
    assert image.array.dtype == np.float32
    rgb = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["G"] = 7
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    assert nifti.read(tmp_path / "rgb.nii").array[:, 0, 0, 0].tolist() == [0, 7, 0]
    big = nib.Nifti1Image(
        np.arange(8, dtype=">i2").reshape(2, 2, 2), np.eye(4), nib.Nifti1Header(endianness=">")
    )
    nib.save(big, tmp_path / "big.nii")
    assert nifti.read(tmp_path / "big.nii").array.dtype.isnative
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 1, 3), np.uint8), np.eye(4)), tmp_path / "vector.nii")
    assert nifti.read(tmp_path / "vector.nii").channels == 3
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 2, 3), np.uint8), np.eye(4)), tmp_path / "five.nii")
    with pytest.raises(DataError, match="axes"):
        nifti.read(tmp_path / "five.nii")
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "big.nii").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cut\.nii\.gz"):
        nifti.read(tmp_path / "cut.nii.gz")


@pytest.mark.parametrize("array", [np.full((1, 2, 2, 2), 2**40), np.zeros((1, 2, 2, 2), complex)])
def test_nifti_refuses_what_it_cannot_keep(tmp_path, array):
    with pytest.raises(DataError):
        nifti.write(tmp_path / "a.nii", Image(array))


def test_load_and_save_know_their_suffixes(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for name, message in (("a.txt", r"got \.txt"), ("none", "no such file"), (".", "a folder")):
        with pytest.raises(DataError, match=message):
            load.load(tmp_path / name)
    with pytest.raises(DataError, match=r"one of \.png"):
        load.save(tmp_path / "a.dcm", Image(np.zeros((1, 2, 2), np.uint8)))
    assert load.suffix(tmp_path / "A.NII.GZ") == ".nii.gz"


def test_load_reads_dicom_under_any_name(tmp_path):
    import dicoms

    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for name in ("plain", "a.dcm", "b.IMA"):
        np.testing.assert_array_equal(
            load.load(dicoms.write(tmp_path / name, dicoms.image(pixels))).array[0], pixels
        )


def test_tiff_files_of_one_page_are_read_bit_for_bit(tmp_path):
    for name, array in (
        ("grey.tif", np.arange(48, dtype=np.uint8).reshape(6, 8)),
        ("deep.tiff", np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000),
        ("rgb.TIF", np.arange(144, dtype=np.uint8).reshape(6, 8, 3)),
    ):
        Pillow.fromarray(array).save(tmp_path / name, "TIFF", compression="tiff_lzw")
        image = load.load(tmp_path / name)
        assert image.array.dtype == array.dtype
        assert np.array_equal(image.array, array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0))


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.ones((6, 8), np.float32), "TIFF of floating-point numbers"),
        (np.ones((6, 8), np.int32), "TIFF of 32 bits"),
        (None, "TIFF of several pages"),
        ("inverted", "TIFF of 16 bits with white as 0"),
    ],
)
def test_tiff_files_whose_pixels_would_be_lost_are_refused_by_name(tmp_path, array, told):
    path = tmp_path / "x.tif"
    if array is None:
        pages = [Pillow.fromarray(np.full((6, 8), value, np.uint8)) for value in (1, 2)]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    elif isinstance(array, str):
        Pillow.fromarray(np.ones((6, 8), np.uint16)).save(path, tiffinfo={262: 0})
    else:
        Pillow.fromarray(array).save(path)
    with pytest.raises(png.UnsupportedPicture, match=told):
        load.load(path)
