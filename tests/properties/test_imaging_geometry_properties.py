from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.core.errors import DataError
from meninx.imaging import lut, nifti, png, slice_geometry
from meninx.imaging.image import Image

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
angles = st.floats(-np.pi, np.pi)
spacings = st.floats(0.05, 20)


@st.composite
def stacks(draw):
    """Parallel planes in any attitude, shuffled, with their steps counted along the normal."""
    a, b, c = draw(angles), draw(angles), draw(angles)
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    across, down, normal = (turn_x @ turn_y @ turn_z).T
    origin = np.array(draw(st.tuples(*[st.floats(-500, 500)] * 3)))
    step, spacing = draw(st.floats(0.3, 10)), (draw(spacings), draw(spacings))
    count = draw(st.integers(2, 8))
    order = draw(st.permutations(range(count)))
    planes = [
        slice_geometry.plane(list(origin + k * step * normal), [*across, *down], list(spacing)) for k in order
    ]
    return planes, order


@settings(max_examples=60, deadline=None)
@given(stacks(), st.integers(0, 300), st.integers(0, 300))
def test_the_affine_is_the_geometry_of_every_slice(stack, row, column):
    planes, counted = stack
    order, affine = slice_geometry.stack(planes)
    assert [counted[index] for index in order] == sorted(counted)
    for place, index in enumerate(order):
        item = planes[index]
        lps = item.position + item.across * item.spacing[1] * column + item.down * item.spacing[0] * row
        np.testing.assert_allclose((affine @ [column, row, place, 1])[:3], lps * LPS_TO_RAS, atol=1e-3)
    assert np.linalg.det(affine) > 0


@settings(max_examples=30, deadline=None)
@given(stacks(), st.data())
def test_a_missing_slice_never_passes(stack, data):
    planes, counted = stack
    inner = [index for index, k in enumerate(counted) if 0 < k < len(planes) - 1]
    if len(planes) < 4:
        return
    gone = data.draw(st.sampled_from(inner))
    with pytest.raises(DataError):
        slice_geometry.stack([item for index, item in enumerate(planes) if index != gone])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-2000, 3000),
    st.floats(2, 4000),
    st.sampled_from(lut.WINDOW_FUNCTIONS),
    st.sampled_from([8, 16]),
    st.booleans(),
)
def test_windows_keep_order_and_reach_black_and_white(center, width, function, bits, invert):
    values = np.sort(np.random.default_rng(0).integers(-5000, 8000, 200)).astype(np.int16)
    shown = lut.display(values, lut.Window(center, width, function), bits=bits, invert=invert).astype(int)
    steps = np.diff(shown)
    assert (steps <= 0).all() if invert else (steps >= 0).all()
    assert shown.min() >= 0
    assert shown.max() <= 2**bits - 1


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["uint8", "uint16", "int16", "int32", "float32"]),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.integers(1, 3),
    stacks(),
    st.integers(0, 2**32),
)
def test_nifti_gives_back_voxels_and_affine(kind, size, channels, stack, seed):
    import tempfile
    from pathlib import Path

    array = np.random.default_rng(seed).integers(0, 250, (channels, *size)).astype(kind)
    _, affine = slice_geometry.stack(stack[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.nii"
        nifti.write(path, Image(array, affine))
        back = nifti.read(path)
    np.testing.assert_array_equal(back.array, array)
    assert back.array.dtype == array.dtype
    np.testing.assert_allclose(back.affine, affine, atol=1e-3, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([("uint8", 1), ("uint16", 1), ("uint8", 3)]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32),
)
def test_png_gives_back_pixels(kind, rows, columns, seed):
    import tempfile
    from pathlib import Path

    top = np.iinfo(kind[0]).max
    array = np.random.default_rng(seed).integers(
        0, top, (kind[1], rows, columns), dtype=kind[0], endpoint=True
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        png.write(path, Image(array))
        back = png.read(path).array
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
