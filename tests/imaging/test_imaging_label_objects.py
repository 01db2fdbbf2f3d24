"""Label maps of SEG and RTSTRUCT objects, compared with what other programs write and fill."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import dicoms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from meninx.core.errors import LayoutError
from meninx.imaging import dicom_image, label_objects
from meninx.imaging.image import Image
from meninx.imaging.label_objects import draw, filled
from meninx.imaging.seg import write_seg

SHAPE = (9, 11)
POINT = st.tuples(st.floats(-2, 12, width=32), st.floats(-2, 10, width=32))


@given(st.lists(POINT, min_size=3, max_size=8))
def test_a_polygon_fills_the_centres_inside_an_odd_number_of_its_turns(points):
    corners = np.array(points, dtype=float) + 1e-3  # no centre on an edge that runs along a row
    found = filled([corners], SHAPE)
    centres = np.stack(np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0])), axis=-1).reshape(-1, 2)
    for (x, y), inside in zip(centres, found.ravel(), strict=True):
        assert inside == (_crossings(corners, x, y) % 2 == 1)


def _crossings(corners: np.ndarray, x: float, y: float) -> int:
    """How many edges a ray from a point to the left crosses."""
    total = 0
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (ay <= y < by) or (by <= y < ay):
            slope = (bx - ax) / (by - ay)
            total += int(ax + (y - ay) * slope < x)
    return total


def test_many_tall_edges_take_little_memory(monkeypatch):
    columns = np.random.default_rng(0).uniform(0, 64, 1000)
    zigzag = np.stack([columns, np.tile([-1.0, 600.0], 500)], axis=1)
    whole = filled([zigzag], (512, 64))
    monkeypatch.setattr(label_objects, "_CROSSINGS", 1 << 14)
    tracemalloc.start()
    found = filled([zigzag], (512, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20  # at once they take 30 MB
    np.testing.assert_array_equal(found, whole)


def test_an_outline_without_crossings_is_filled_as_matplotlib_does_and_has_its_area():
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([50.3 + 30.2 * np.cos(angles), 40.7 + 30.2 * np.sin(angles)], axis=1)
    found = filled([circle], (90, 100))
    centres = np.stack(np.meshgrid(np.arange(100), np.arange(90)), axis=-1).reshape(-1, 2)
    np.testing.assert_array_equal(found.ravel(), Outline(circle).contains_points(centres))
    assert found.sum() == pytest.approx(np.pi * 30.2**2, rel=0.01)
    hole = filled([circle, (circle - [50.3, 40.7]) / 2 + [50.3, 40.7]], (90, 100))
    assert hole.sum() == pytest.approx(np.pi * 30.2**2 * 0.75, rel=0.01)


def test_neighbouring_polygons_share_no_pixel_and_leave_none_out():
    left = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 5.0], [0.0, 5.0]])
    right = left + np.array([4.0, 0.0])
    parts = filled([left], SHAPE).astype(int) + filled([right], SHAPE)
    assert parts.max() == 1
    np.testing.assert_array_equal(parts == 1, filled([left, right], SHAPE))
    assert parts.sum() == 8 * 5


def test_what_highdicom_writes_is_read_on_the_grid_of_a_tilted_series(tmp_path: Path):
    pytest.importorskip("highdicom")
    volume = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)
    paths = dicoms.series(
        tmp_path / "series", volume, directions=dicoms.oblique(), FrameOfReferenceUID="1.2.3"
    )
    image = dicom_image.read_series(paths)
    labels = np.random.default_rng(0).integers(0, 3, image.array.shape).astype(np.uint8)
    labels[..., 1] = 0  # an empty slice is not written
    out = tmp_path / "seg.dcm"
    write_seg(Image(labels, image.affine), paths, ("liver", "tumour"), out)
    header = label_objects.read_object(out)
    assert (header.kind, header.names) == ("seg", {1: "liver", 2: "tumour"})
    found = label_objects.label_map(out, paths[::-1], {1: 1, 2: 2}, overlap="refuse", where="seg")
    np.testing.assert_array_equal(found.array, labels)
    np.testing.assert_allclose(found.affine, image.affine)
    only = label_objects.label_map(out, paths, {2: 1}, overlap="refuse", where="seg")
    np.testing.assert_array_equal(only.array, labels == 2)
    with pytest.raises(LayoutError, match=r"frames on the slices"):
        label_objects.label_map(out, paths[:2], {1: 1}, overlap="refuse", where="seg")


def test_the_larger_number_counts_in_any_order():
    maps = []
    for order in ((1, 2), (2, 1)):
        values = np.zeros((3, 3), np.uint8)
        for number in order:
            mask = np.zeros((3, 3), bool)
            mask[number - 1 : number + 1] = True
            draw(values, mask, number, overlap="last", where="x")
        maps.append(values)
    np.testing.assert_array_equal(*maps)
    with pytest.raises(LayoutError, match=r"3 voxels of two"):
        draw(maps[0], np.ones((3, 3), bool), 2, overlap="refuse", where="x")
    draw(maps[0], maps[0] == 1, 1, overlap="refuse", where="x")  # the same label twice is no overlap
