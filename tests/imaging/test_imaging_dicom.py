from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

import dicoms
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from meninx.core.errors import ConfigError, DataError
from meninx.imaging import decode, dicom_image

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom"
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RAMP = np.linspace(0, 4095, 24, dtype=np.uint16).reshape(4, 6)


def test_grey_of_eight_bits_is_shown_as_it_is(tmp_path):
    path = dicoms.write(tmp_path / "a", dicoms.image(GREY, PixelSpacing=[0.5, 0.25]))
    for intensity in ("stored", "modality", "display"):
        image = dicom_image.read_instance(path, intensity=intensity)
        assert image.array.dtype == np.uint8
        np.testing.assert_array_equal(image.array, GREY[None])
        assert image.spacing_mm == (0.5, 0.25)


def test_monochrome1_is_inverted_for_display_only(tmp_path):
    path = dicoms.write(tmp_path / "a", dicoms.image(GREY, "MONOCHROME1"))
    np.testing.assert_array_equal(dicom_image.read_instance(path, intensity="display").array[0], 255 - GREY)
    np.testing.assert_array_equal(dicom_image.read_instance(path, intensity="modality").array[0], GREY)


def test_signed_ct_becomes_hounsfield_units_and_a_window_cuts_them(tmp_path):
    stored = np.array([[-1000, -200, 0], [40, 240, 3000]], dtype=np.int16)
    more = {"RescaleSlope": 1, "RescaleIntercept": -24, "WindowCenter": [40, 300], "WindowWidth": [401, 1500]}
    path = dicoms.write(tmp_path / "a", dicoms.image(stored, **more))
    image = dicom_image.read_instance(path)
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], stored - 24)
    shown = dicom_image.read_instance(path, intensity="display").array[0]
    # c = 40, w = 401: y = ((x - 39.5) / 400 + 0.5) * 255
    expected = np.clip(((stored - 24) - 39.5) / 400 + 0.5, 0, 1) * 255
    np.testing.assert_array_equal(shown, np.round(expected).astype(np.uint8))
    wide = dicom_image.read_instance(path, intensity="display", bits=16).array
    assert wide.dtype == np.uint16
    assert wide.max() == 65535


def test_unsigned_ct_below_zero_after_rescale(tmp_path):
    path = dicoms.write(tmp_path / "a", dicoms.image(RAMP, bits=12, RescaleSlope=1, RescaleIntercept=-1024))
    np.testing.assert_array_equal(dicom_image.read_instance(path).array[0], RAMP.astype(int) - 1024)


def test_a_slope_that_is_no_whole_number_gives_float32(tmp_path):
    path = dicoms.write(tmp_path / "a", dicoms.image(RAMP, RescaleSlope="0.5", RescaleIntercept="0.25"))
    array = dicom_image.read_instance(path).array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[0], RAMP * 0.5 + 0.25)


@pytest.mark.parametrize(("function", "middle"), [("LINEAR_EXACT", 0.5), ("SIGMOID", 0.5)])
def test_window_functions(tmp_path, function, middle):
    more = {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": function}
    pixels = np.array([[0, 1500, 2000, 2500, 4000]], dtype=np.uint16)
    path = dicoms.write(tmp_path / "a", dicoms.image(pixels, bits=12, **more))
    shown = dicom_image.read_instance(path, intensity="display", bits=16).array[0, 0] / 65535
    assert shown[2] == pytest.approx(middle, abs=1e-4)
    low = 0 if function == "LINEAR_EXACT" else 1 / (1 + np.exp(2))
    np.testing.assert_allclose(shown[[1, 3]], [low, 1 - low], atol=1e-4)


def test_voi_lut_comes_before_the_window(tmp_path):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 10, 8])
    table.add_new("LUTData", "US", [255, 100, 50, 0])
    more = {"VOILUTSequence": Sequence([table]), "WindowCenter": 5, "WindowWidth": 2}
    path = dicoms.write(
        tmp_path / "a", dicoms.image(np.array([[0, 10, 11, 12, 13, 99]], dtype=np.uint16), **more)
    )
    assert dicom_image.read_instance(path, intensity="display").array[0, 0].tolist() == [
        255,
        255,
        100,
        50,
        0,
        0,
    ]


def test_modality_lut(tmp_path):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [3, 1, 16])
    table.add_new("LUTData", "US", [7, 70, 700])
    path = dicoms.write(
        tmp_path / "a",
        dicoms.image(np.array([[0, 1, 2, 3, 4]], np.uint8), ModalityLUTSequence=Sequence([table])),
    )
    assert dicom_image.read_instance(path).array[0, 0].tolist() == [7, 7, 70, 700, 700]


def test_no_window_stretches_the_image_without_its_padding(tmp_path):
    pixels = np.array([[-2000, 100, 200, 300]], dtype=np.int16)
    path = dicoms.write(tmp_path / "a", dicoms.image(pixels, PixelPaddingValue=-2000))
    assert dicom_image.read_instance(path, intensity="display").array[0, 0].tolist() == [0, 0, 128, 255]
    flat = dicoms.write(tmp_path / "b", dicoms.image(np.full((2, 2), 7, np.uint16)))
    assert dicom_image.read_instance(flat, intensity="display").array.max() == 0


def test_padding_stays_black_when_inverted(tmp_path):
    path = dicoms.write(
        tmp_path / "a", dicoms.image(np.array([[0, 10, 20]], np.uint16), "MONOCHROME1", PixelPaddingValue=0)
    )
    assert dicom_image.read_instance(path, intensity="display").array[0, 0].tolist() == [0, 255, 0]


def test_a_window_without_width_is_no_window(tmp_path):
    path = dicoms.write(tmp_path / "a", dicoms.image(GREY, WindowCenter=3, WindowWidth=0))
    np.testing.assert_array_equal(dicom_image.read_instance(path, intensity="display").array[0], GREY)


def test_rgb_in_both_planar_configurations(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    path = dicoms.write(tmp_path / "a", dicoms.image(pixels, "RGB"))
    dataset = dicoms.image(pixels, "RGB", PlanarConfiguration=1)
    dataset.PixelData = np.moveaxis(pixels, -1, 0).tobytes()
    for name in (path, dicoms.write(tmp_path / "b", dataset)):
        image = dicom_image.read_instance(name, intensity="display")
        assert image.channels == 3
        np.testing.assert_array_equal(np.moveaxis(image.array, 0, -1), pixels)


def test_ybr_becomes_rgb(tmp_path):
    ybr = np.zeros((2, 2, 3), np.uint8) + np.array([76, 85, 255], np.uint8)  # pure red
    path = dicoms.write(tmp_path / "a", dicoms.image(ybr, "YBR_FULL"))
    array = dicom_image.read_instance(path).array
    assert array[:, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=2)


def test_ybr_jpeg_becomes_rgb(tmp_path):
    from io import BytesIO

    from PIL import Image
    from pydicom.encaps import encapsulate

    rgb = np.zeros((16, 16, 3), np.uint8) + np.array([200, 40, 90], np.uint8)
    stream = BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=95, subsampling=1)
    dataset = dicoms.image(rgb, "YBR_FULL_422")
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    array = dicom_image.read_instance(dicoms.write(tmp_path / "a", dataset)).array
    np.testing.assert_allclose(array[:, 8, 8], [200, 40, 90], atol=4)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_becomes_rgb(tmp_path, bits):
    dataset = dicoms.image(np.array([[0, 1], [2, 2]], np.uint8), "PALETTE COLOR")
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    for index, name in enumerate(("Red", "Green", "Blue")):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [3, 0, bits])
        values = colours[:, index] * (257 if bits == 16 else 1)
        content = values.astype("<u2" if bits == 16 else np.uint8).tobytes()
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", content + b"\0" * (len(content) % 2))
    array = dicom_image.read_instance(dicoms.write(tmp_path / "a", dataset)).array
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(np.moveaxis(array, 0, -1), colours[[[0, 1], [2, 2]]])


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_lossless_compressed_pixels(tmp_path, syntax, kind):
    pixels = np.random.default_rng(1).integers(0, 100, (64, 64)).astype(kind)
    dataset = dicoms.image(pixels)
    dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(
        dicom_image.read_instance(dicoms.write(tmp_path / "a", dataset)).array[0], pixels
    )


def test_what_cannot_be_decoded_names_syntax_and_never_the_file(tmp_path):
    dataset = dicoms.image(GREY)
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    dataset["PixelData"].is_undefined_length = True
    dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
    with pytest.raises(DataError, match=r"MPEG2.*TransferSyntaxUID") as caught:
        dicom_image.read_instance(dicoms.write(tmp_path / "Planted_Name", dataset))
    assert "Planted" not in str(caught.value)


def test_a_broken_stream_names_syntax_and_decoder(tmp_path):
    dataset = dicoms.image(np.zeros((64, 64), np.uint8))
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.PixelData = dataset.PixelData[:40] + b"\0" * 40
    with pytest.raises(DataError, match=r"JPEG 2000.*pylibjpeg-openjpeg"):
        dicom_image.read_instance(dicoms.write(tmp_path / "a", dataset))


def test_bits_beyond_those_stored_are_cleared(tmp_path):
    path = dicoms.write(tmp_path / "a", dicoms.image(np.array([[0x0FFF, 0xF001]], np.uint16), bits=12))
    assert dicom_image.read_instance(path, intensity="stored").array[0, 0].tolist() == [0x0FFF, 0x001]


def test_files_without_preamble_are_read_too(tmp_path):
    dataset = dicoms.image(GREY)
    bare = Dataset(dataset)
    path = tmp_path / "bare"
    bare.save_as(path, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(dicom_image.read_instance(path).array[0], GREY)


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 128 + b"DICM" + b"\x08\x00"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DataError):
        dicom_image.read_instance(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_files_cut_short_are_refused(tmp_path, compressed):
    dataset = dicoms.image(np.random.default_rng(0).integers(0, 99, (64, 64), dtype=np.uint8))
    if compressed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    content = dicoms.write(tmp_path / "a", dataset).read_bytes()
    decode.open_dataset(tmp_path / "a")
    for kept in (len(content) - 20, len(content) - 2000, 200):
        (tmp_path / "b").write_bytes(content[:kept])
        with pytest.raises(DataError, match="damage"):
            decode.open_dataset(tmp_path / "b")


def test_no_pixels(tmp_path):
    dataset = dicoms.image(GREY)
    del dataset.PixelData
    with pytest.raises(DataError, match="without PixelData"):
        dicom_image.read_instance(dicoms.write(tmp_path / "a", dataset))


def test_a_header_that_contradicts_itself_is_a_data_error(tmp_path):
    with pytest.raises(DataError):
        dicom_image.read_instance(dicoms.write(tmp_path / "a", dicoms.image(GREY, Rows=300)))


def test_the_header_holds_facts_and_no_identity(tmp_path):
    dataset = dicoms.image(
        GREY, ViewPosition="PA", BodyPartExamined="CHEST", PatientOrientation=["L", "F"], KVP=120
    )
    with decode.quiet():
        dataset.ImageLaterality = "Planted Person"  # lower case: no code string
        path = dicoms.write(tmp_path / "a", dataset)
    image = dicom_image.read_instance(path)
    assert image.header["ViewPosition"] == "PA"
    assert image.header["PatientOrientation"] == ["L", "F"]
    assert image.header["KVP"] == 120
    assert "Planted" not in repr(image.header)
    assert dataset.SOPInstanceUID not in repr(image.header)


def test_frames_without_place_are_stacked_in_order(tmp_path):
    frames = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    path = dicoms.write(tmp_path / "a", dicoms.image(frames, frames=True, PixelSpacing=[0.5, 0.25]))
    image = dicom_image.read_instance(path)
    assert image.array.shape == (1, 4, 2, 3)
    assert image.spacing_mm == (0.25, 0.5, 1)
    np.testing.assert_array_equal(image.array[0, :, :, 1].T, frames[1])
    colour = np.random.default_rng(0).integers(0, 255, (3, 2, 4, 3), dtype=np.uint8)
    image = dicom_image.read_instance(dicoms.write(tmp_path / "b", dicoms.image(colour, "RGB", frames=True)))
    np.testing.assert_array_equal(image.array[:, :, :, 2].transpose(2, 1, 0), colour[2])


def _enhanced(frames, heights, slopes):
    dataset = dicoms.image(frames, frames=True)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 1
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = (
        Sequence([orientation]),
        Sequence([measures]),
    )
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for height, slope in zip(heights, slopes, strict=True):
        group, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [1, 2, height]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, 0, "US"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = (
            Sequence([position]),
            Sequence([values]),
        )
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return dataset


def test_enhanced_frames_are_sorted_placed_and_rescaled_each(tmp_path):
    frames = np.ones((3, 2, 2), np.uint16) * np.array([1, 2, 3], np.uint16)[:, None, None]
    path = dicoms.write(tmp_path / "a", _enhanced(frames, [4, 0, 2], [10, 1, 2]))
    for image in (dicom_image.read_instance(path), dicom_image.read_series([path])):
        assert image.array[0, 0, 0].tolist() == [2, 6, 10]
        np.testing.assert_allclose(
            image.affine, [[-0.5, 0, 0, -1], [0, -0.5, 0, -2], [0, 0, 2, 0], [0, 0, 0, 1]]
        )
    with pytest.raises(DataError, match="at the place of another"):
        dicom_image.read_instance(dicoms.write(tmp_path / "b", _enhanced(frames, [4, 0, 0], [1, 1, 1])))


def test_unknown_intensity_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'display'"):
        dicom_image.read_instance(tmp_path / "a", intensity="displayed")


def test_values_never_reach_the_log(tmp_path, caplog):
    with decode.quiet():
        path = dicoms.write(
            tmp_path / "a", dicoms.image(GREY, PatientBirthDate="planted", StudyID="planted" * 9)
        )
    dicom_image.read_instance(path)
    with decode.quiet():
        logging.getLogger("pydicom").warning("planted")
    assert "planted" not in caplog.text
    logging.getLogger("pydicom").warning("heard again")
    assert "heard again" in caplog.text


def test_silence_ends_after_the_last_block():
    from pydicom import config

    before = config.settings.reading_validation_mode
    with decode.quiet(), decode.quiet():
        pass
    assert config.settings.reading_validation_mode == before
    with pytest.warns(UserWarning, match="heard"):
        __import__("warnings").warn("heard", stacklevel=1)


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_every_public_dicom_file_with_pixels_is_read():
    failed = []
    paths = decode.find_files(SHARED)
    for path in paths:
        try:
            image = dicom_image.read_instance(path, intensity="display")
        except DataError as error:
            failed.append(str(error))
        else:
            assert image.array.dtype == np.uint8
            assert image.array.max() > 0
    assert len(paths) == 142
    assert len(failed) == 1
    assert "without PixelData" in failed[0]


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_every_public_series_of_slices_makes_a_volume():
    series = defaultdict(list)
    for path in decode.find_files(SHARED / "brain_mr_fictional_phi"):
        series[decode.open_dataset(path, pixels=False).SeriesInstanceUID].append(path)
    shapes = sorted(dicom_image.read_series(paths).size for paths in series.values())
    assert shapes == [(34, 50, 40), *[(280, 320, 22)] * 4]


def test_a_deflated_file_that_grows_too_far_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    dataset = dicoms.image(GREY)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = dicoms.write(tmp_path / "a", dataset)
    assert decode.open_dataset(path).Rows == 3
    monkeypatch.setattr(decode, "_MOST_INFLATED", 100)
    monkeypatch.setattr(decode.pydicom, "dcmread", None)
    for pixels in (True, False):
        with pytest.raises(DataError, match="inflate"):
            decode.open_dataset(path, pixels=pixels)
