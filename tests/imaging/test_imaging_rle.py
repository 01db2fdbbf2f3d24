from __future__ import annotations

import numpy as np
import pytest

from meninx.core.errors import DataError, LayoutError
from meninx.imaging import rle

# 3 rows, 4 columns; counted down the columns: column 0 is pixels 0-2, column 1 pixels 3-5, ...
MASK = np.array([[0, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1]], dtype=bool)


def test_hand_computed_vectors():
    # set pixels: 1, 2 (column 0), 6, 7 (column 2), 11 (column 3)
    assert rle.encode(MASK) == "1 2 3 2 3 1"
    assert rle.encode(MASK, variant="absolute") == "2 2 7 2 12 1"
    np.testing.assert_array_equal(rle.decode("1 2 3 2 3 1", (3, 4)), MASK)
    np.testing.assert_array_equal(rle.decode("2 2 7 2 12 1", (3, 4), variant="absolute"), MASK)


def test_columns_come_first():
    mask = rle.decode("0 3", (3, 4))
    assert mask[:, 0].all()
    assert mask.sum() == 3
    assert rle.encode(MASK.T) != rle.encode(MASK)


def test_a_run_goes_on_in_the_next_column():
    np.testing.assert_array_equal(np.argwhere(rle.decode("2 2", (3, 4))), [[0, 1], [2, 0]])


@pytest.mark.parametrize("text", ["-1", " -1", "-1 ", "", "  ", "\ufeff-1"])
@pytest.mark.parametrize("variant", ["relative", "absolute"])
def test_empty_masks(text, variant):
    mask = rle.decode(text, (5, 7), variant=variant)
    assert mask.shape == (5, 7)
    assert not mask.any()
    assert rle.encode(mask, variant=variant) == "-1"


@pytest.mark.parametrize(
    ("text", "variant", "message"),
    [
        ("1 2 3", "relative", "pairs of numbers, got 3"),
        ("1 x", "relative", "whole numbers"),
        ("1.0 2", "relative", "whole numbers"),
        ("10 3", "relative", "runs within 12 pixels, got a run up to pixel 13"),
        ("11 3", "absolute", "runs within 12 pixels"),
        ("1 3 -1 2", "relative", "overlap"),
        ("1 3 3 2", "absolute", "overlap"),
        ("0 2", "absolute", "before the image"),
        ("-2 2", "relative", "before the image"),
        ("1 0", "relative", "at least one pixel"),
        ("1 -4", "absolute", "at least one pixel"),
        ("-1 -1", "relative", "at least one pixel"),
    ],
)
def test_impossible_runs(text, variant, message):
    with pytest.raises(DataError, match=message):
        rle.decode(text, (3, 4), variant=variant, where="table.csv, row 7")


def test_absolute_runs_may_come_in_any_order():
    np.testing.assert_array_equal(rle.decode("7 2 12 1 2 2", (3, 4), variant="absolute"), MASK)


def test_rows_of_one_image_are_merged():
    rows = ["1 2", " -1", "1 1 4 2", "11 1"]
    np.testing.assert_array_equal(rle.decode_rows(rows, (3, 4)), MASK)


def test_masks_with_a_channel_axis_and_other_numbers():
    assert rle.encode(MASK[None].astype(np.uint8) * 255) == rle.encode(MASK)
    with pytest.raises(DataError):
        rle.encode(np.zeros((2, 3, 4)))


@pytest.mark.parametrize("head", ["", "ImageId, EncodedPixels\n", "\ufeffImageId,EncodedPixels\n", "\ufeff"])
def test_tables_with_and_without_header_and_mark(tmp_path, head):
    path = tmp_path / "train.csv"
    path.write_text(head + "a, 1 2 3 2\nb, -1\n\na,11 1\nc,-1 \n", encoding="utf-8")
    table = rle.read_table(path)
    assert table == {"a": ("1 2 3 2", "11 1"), "b": ("-1",), "c": ("-1",)}
    np.testing.assert_array_equal(rle.decode_rows(table["a"], (3, 4)), MASK)


def test_tables_that_are_none(tmp_path):
    with pytest.raises(LayoutError, match="no such file"):
        rle.read_table(tmp_path / "none.csv")
    (tmp_path / "t.csv").write_text("ImageId,EncodedPixels\nlonely\n")
    with pytest.raises(LayoutError, match=r"t\.csv, row 2"):
        rle.read_table(tmp_path / "t.csv")
