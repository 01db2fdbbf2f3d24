"""Captures with text in fixed places and a search that finds it, for tests of layouts and their review."""

from __future__ import annotations

import numpy as np
import pytest
from deid_samples import save
from pixel_samples import coloured

from meninx.deid import cleaner
from meninx.deid.burned_in import burned_text
from meninx.imaging import ocr
from meninx.imaging.ocr import Box, Found, Reading

NAME, SECOND_NAME, LABEL = Box(4, 4, 24, 10), Box(3, 4, 40, 10), Box(4, 20, 16, 26)
OTHER = Box(4, 28, 34, 35)  # of a second line


def capture(number: int, boxes: list[Box], model: str = "Sono 1"):
    ds = coloured("grey 8")
    ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{number}"
    ds.ManufacturerModelName = model
    values = np.full((ds.Rows, ds.Columns), 30, np.uint8)
    for box in boxes:
        values[box.top : box.bottom, box.left : box.right : 2] = 255
    ds.PixelData = values.tobytes()
    return ds


@pytest.fixture
def written():
    """What is read in the other box, and with which confidence; a test may change it."""
    return ["AXIAL CHEST", 0.9]


@pytest.fixture
def reader(monkeypatch, written):
    """The search finds white boxes of this file and reads a label in one of them."""

    def find(picture, search):
        for boxes in ([SECOND_NAME, LABEL, OTHER], [NAME, LABEL, OTHER]):
            found = [
                box for box in boxes if (picture[box.top : box.bottom, box.right - 3 : box.right] > 200).any()
            ]
            if SECOND_NAME in found or NAME in found:
                break
        return [Found(box, 0.9) for box in found]

    monkeypatch.setattr(ocr, "is_available", lambda: True)
    text = {LABEL: "MI 1.2"}
    made = burned_text.Reader(
        find, lambda picture, box: Reading(text.get(box, written[0]), written[1]), lambda *given: None
    )
    real = cleaner.PixelCleaner
    monkeypatch.setattr(cleaner, "PixelCleaner", lambda *given: real(*given, reader=made))


@pytest.fixture
def archive(tmp_path, reader):
    """Four captures of three layouts: two names of one device, one of another device, one without text."""
    save(capture(1, [NAME, LABEL]), tmp_path / "in" / "a")
    save(capture(2, [SECOND_NAME, LABEL]), tmp_path / "in" / "b")
    save(capture(3, [NAME], model="Sono 2"), tmp_path / "in" / "c")
    save(capture(4, []), tmp_path / "in" / "d")
    return tmp_path
