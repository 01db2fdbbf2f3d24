"""Text in pixels, by the command line: a secondary capture goes in with a name and comes out without it."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from deid_samples import NAME, image, images, key_file, save
from PIL import Image, ImageDraw, ImageFont

from meninx.core import settings
from meninx.core.errors import ConfigError
from meninx.deid.config import DeidConfig
from meninx.deid.stage import run

pytest.importorskip("rapidocr")


def capture(number: int = 1, **changes):
    """Return a capture of ultrasound in RGB with the patient's name, a date, a label and a side marker."""
    picture = Image.fromarray(
        np.random.default_rng(number).rayleigh(14, (160, 320)).astype(np.uint8)
    ).convert("RGB")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 320, 50), fill=(0, 0, 0))
    large, small = ImageFont.load_default(26), ImageFont.load_default(14)
    draw.text((6, 4), NAME.replace("^", " ")[:21], font=small, fill=(255, 255, 255))
    draw.text((6, 24), "02.05.1961", font=small, fill=(255, 255, 0))
    draw.text((230, 8), "MI 1.2", font=small, fill=(255, 255, 255))
    draw.text((290, 110), "R", font=large, fill=(255, 255, 255))
    ds = image(number, Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ConversionType="WSD")
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 160, 320, 8, 8, 7
    ds.PixelData = np.asarray(picture).tobytes()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory):
    """The result for one capture: folder, result, pixels before and after."""
    folder = tmp_path_factory.mktemp("capture")
    before = capture()
    save(before, folder / "in" / "a.dcm")
    result = run(DeidConfig(key=key_file(folder), site="north", workers=1), folder / "in", folder / "out")
    after = pydicom.dcmread(images(folder / "out")[0])
    return folder / "out", result, before.pixel_array, after


def test_the_name_and_the_date_are_gone_and_marker_and_label_stay(cleaned):
    _, result, before, after = cleaned
    pixels = after.pixel_array
    assert result.files_written == 1
    assert np.array_equal(pixels[100:], before[100:])  # the side marker
    assert np.array_equal(pixels[:40, 225:], before[:40, 225:])  # the label
    for rows, columns in ((slice(6, 18), slice(8, 150)), (slice(26, 40), slice(8, 80))):
        written = before[rows, columns].max(axis=2) > 128
        assert written.any()
        assert pixels[rows, columns].max() < 64  # background


def test_the_markers_tell_the_truth(cleaned):
    _, _, _, after = cleaned
    assert (after.BurnedInAnnotation, after.PatientIdentityRemoved) == ("NO", "YES")
    assert "113101" in [code.CodeValue for code in after.DeidentificationMethodCodeSequence]


def test_the_earlier_name_of_the_setting_is_refused_with_the_new_one():
    with pytest.raises(ConfigError, match="did you mean 'pixels'"):
        settings.build(DeidConfig, {"burned_in": "keep"}, "recipe")
    with pytest.raises(ConfigError, match="no effect"):
        DeidConfig(pixels="keep", search_all=True)
    with pytest.raises(ConfigError, match="no effect"):
        DeidConfig(pixels="quarantine", keep_measurements=True)
