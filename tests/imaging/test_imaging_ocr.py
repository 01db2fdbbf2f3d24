"""Text in pictures is found and read with the models of the rapidocr wheel, and without a network."""

from __future__ import annotations

import logging
import socket
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from meninx.core.errors import UsageError
from meninx.imaging import ocr
from meninx.imaging.ocr import Box, Search

pytest.importorskip("rapidocr")


@pytest.fixture(scope="module")
def page():
    """A dark picture with a name and a label, and what is found in it while no socket can be made."""
    image = Image.new("RGB", (320, 160), (12, 12, 12))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(16)
    draw.text((20, 20), "QUENTINSSON^Araminta", font=font, fill=(240, 240, 240))
    draw.text((150, 110), "MI 1.2", font=font, fill=(255, 255, 0))
    picture = np.asarray(image)
    made = []

    def refuse(*given, **more):
        made.append(given)
        raise OSError("no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        found = ocr.find(picture, Search())
        texts = [ocr.read(picture, one.box) for one in found]
    assert not made
    return picture, found, texts


def test_lines_are_found_where_they_are_and_read(page, caplog, capfd):
    _, found, texts = page
    assert [reading.text.replace(" ", "") for reading in texts] == ["QUENTINSSON^Araminta", "MI1.2"]
    assert all(reading.confidence > 0.9 for reading in texts)
    name, label = (one.box for one in found)
    assert name.left <= 20 < 170 < name.right < 240
    assert label.top <= 112 < 124 <= label.bottom
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_an_empty_picture_has_no_text():
    assert ocr.find(np.full((64, 64, 3), 70, np.uint8)) == []
    assert ocr.read(np.zeros((4, 4, 3), np.uint8), Box(0, 0, 1, 1)) == ("", 0.0)


def test_a_single_letter_is_one_shape_and_a_word_is_not(page):
    picture, found, _ = page
    letter = np.zeros((60, 60, 3), np.uint8)
    letter[10:50, 15:22] = letter[43:50, 15:40] = 200  # an L
    box = Box(5, 5, 50, 55)
    assert ocr.glyph(letter, box) == ocr.Glyph(box)
    assert ocr.glyph(picture, found[0].box) is None
    initials = letter.copy()
    initials[0:6, 20:24] = initials[0:6, 27:31] = 220
    box = Box(5, 0, 50, 55)
    assert ocr.glyph(initials, box) == ocr.Glyph(Box(15, 10, 40, 50), (Box(27, 0, 31, 6), Box(20, 0, 24, 6)))
    initials[12:34, 28:32] = 220  # a shape within the letter's rows and columns: not beside it
    assert ocr.glyph(initials, box) is None


@pytest.mark.parametrize(("length", "most"), [(10, 100), (100, 100), (101, 100), (1000, 300), (4000, 1075)])
def test_pieces_cover_a_length_and_overlap(length, most):
    pieces = ocr._pieces(length, most)
    assert pieces[0].start == 0
    assert pieces[-1].stop >= length
    assert all(piece.stop - piece.start <= most for piece in pieces)
    assert all(a.stop - b.start >= ocr._OVERLAP for a, b in pairwise(pieces))


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    assert not ocr.is_available()
    with pytest.raises(UsageError, match=r"meninx\[ocr\]"):
        ocr._model("det")


def test_the_engine_and_its_session_use_one_thread_and_log_nothing():
    session = ocr._session("rec")
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert not [name for name in logging.root.manager.loggerDict if name.lower().startswith("rapidocr")]
