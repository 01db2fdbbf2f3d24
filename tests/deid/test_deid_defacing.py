"""Faces in head CT and MR: what is removed, what stays, what is refused."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from io import BytesIO

import numpy as np
import pydicom
import pytest
from head_phantoms import FACE, OTHER, Head, Scan, content, shell, slices
from pydicom.pixels import compress
from pydicom.uid import JPEGLSNearLossless, RLELossless

from meninx.deid.faces import face_removal, slice_header
from meninx.deid.faces.face_plans import DEFACED, NOT_HEAD, REFUSED, FacePlan, SeriesFile, plan_of
from meninx.dicomfile import instance
from meninx.dicomfile.refusals import Reason, Refused

COARSE = Scan(spacing=3.0, step=5.0)


class OnePlan:
    """The plan of the only series."""

    def __init__(self, plan: FacePlan) -> None:
        self.plan = plan

    def of(self, header, original) -> FacePlan:
        return self.plan


def planned(datasets) -> tuple[list[instance.Instance], FacePlan]:
    """Return the instances of a series and its plan."""
    originals = [instance.read(content(dataset)) for dataset in datasets]
    members = [SeriesFile(slice_header.header_of(one), partial(nullcontext, one)) for one in originals]
    return originals, plan_of(members)


def stored(one: instance.Instance, like) -> np.ndarray:
    return np.frombuffer(bytes(one.pixels[0].value), "<u2").reshape(like.Rows, like.Columns)


def head_scan(head=None, scan=COARSE, **header):
    """Return the slices of a scan, and the labels; the same scan is generated once."""
    datasets, labels = _generated(head or Head(), scan)
    datasets = copy.deepcopy(datasets)
    for dataset in datasets:
        for name, value in header.items():
            setattr(dataset, name, value)
    return datasets, labels


_generated = lru_cache(slices)


def ball(radius: float, **header):
    """Return a CT of a ball of water: no skull."""
    datasets, _ = head_scan(Head(contrast="CT"), replace(COARSE, low=-100, high=100))
    for dataset in datasets:
        x0, y0, z = map(float, dataset.ImagePositionPatient)
        y, x = np.indices((dataset.Rows, dataset.Columns)) * 3.0
        inside = (x + x0) ** 2 + (y + y0) ** 2 + z**2 < radius**2
        dataset.PixelData = np.where(inside, 1054, 24).astype("<u2").tobytes()
        for name, value in header.items():
            setattr(dataset, name, value)
    return datasets


@pytest.mark.parametrize(
    ("contrast", "angles", "scan"),
    [
        ("CT", (0.0, 0.0, 0.0), COARSE),
        ("T1", (12.0, -10.0, 8.0), COARSE),
        pytest.param("T2", (-12.0, 10.0, 5.0), replace(COARSE, plane="sagittal"), marks=pytest.mark.slow),
        pytest.param("FLAIR", (5.0, 0.0, -10.0), replace(COARSE, plane="coronal"), marks=pytest.mark.slow),
        pytest.param("CT", (0.0, 5.0, 0.0), replace(COARSE, tilt=15.0), marks=pytest.mark.slow),
    ],
)
def test_the_face_goes_and_the_rest_stays(contrast, angles, scan):
    datasets, labels = head_scan(Head(contrast=contrast, angles=angles), scan)
    originals, plan = planned(datasets)
    assert plan.outcome == DEFACED
    after = np.stack(
        [
            stored(face_removal.remove(one, OnePlan(plan))[0], ds)
            for one, ds in zip(originals, datasets, strict=True)
        ]
    )
    changed = after != np.stack([ds.pixel_array for ds in datasets])
    face, front = changed[labels == FACE].mean(), changed[shell(labels, scan.plane)].mean()
    assert face >= 0.6 or front >= 0.8
    assert changed[labels == OTHER].mean() < 0.05


def test_the_plan_does_not_depend_on_the_order_of_files():
    datasets, _ = head_scan()
    assert planned(datasets)[1].digest == planned(datasets[::-1])[1].digest


@pytest.mark.parametrize(
    ("scan", "reason"),
    [
        (replace(COARSE, low=5.0), Reason.FACE_NOT_FOUND),  # cut above the eyes: no nose
        (replace(COARSE, high=-100.0), Reason.HEAD_DOUBTFUL),  # neck and chin
        (replace(COARSE, step=15.0), Reason.FACE_GEOMETRY),
    ],
)
def test_what_cannot_be_fitted_is_refused(scan, reason):
    plan = planned(head_scan(Head(), scan)[0])[1]
    assert (plan.outcome, plan.reason) == (REFUSED, reason)


def test_the_brow_of_a_head_without_a_nose_in_view_is_no_nose():
    plan = planned(head_scan(Head.drawn(1500, "CT"), Scan(low=5.0))[0])[1]
    assert (plan.outcome, plan.reason) == (REFUSED, Reason.FACE_NOT_FOUND)


def test_a_missing_slice_a_second_orientation_and_one_slice_are_refused():
    datasets, _ = head_scan()
    turned, _ = head_scan(Head(), replace(COARSE, plane="sagittal"))
    for wrong in (datasets[:20] + datasets[21:], datasets + turned[:2], datasets[:1]):
        plan = planned(wrong)[1]
        assert (plan.outcome, plan.reason) == (REFUSED, Reason.FACE_GEOMETRY)


def test_no_head_passes_only_if_the_header_says_so_too():
    assert planned(ball(90, BodyPartExamined="ABDOMEN"))[1].outcome == NOT_HEAD
    for part in ("HEAD", ""):
        plan = planned(ball(90, BodyPartExamined=part))[1]
        assert (plan.outcome, plan.reason) == (REFUSED, Reason.HEAD_DOUBTFUL)


def test_a_head_that_its_header_calls_a_knee_is_refused():
    plan = planned(head_scan(BodyPartExamined="KNEE")[0])[1]
    assert (plan.outcome, plan.reason) == (REFUSED, Reason.HEAD_DOUBTFUL)


def test_a_slice_that_was_not_part_of_the_plan_is_refused(tmp_path):
    from meninx.deid.faces.face_plans import FolderPlans

    datasets, _ = head_scan()
    originals, plan = planned(datasets)
    other = instance.read(content(datasets[0]).replace(b"1.2.3.3.1\0", b"1.2.3.9.1\0"))
    plans = FolderPlans(tmp_path)
    plans.write(slice_header.series_key(other), plan)
    read = plans.read(slice_header.series_key(other))
    assert read is not None
    assert read.digest == plan.digest
    assert face_removal.remove(originals[0], plans)[1].outcome == DEFACED
    with pytest.raises(Refused, match="face-geometry"):
        face_removal.remove(other, plans)


def test_lossless_frames_stay_compressed_and_lossy_ones_are_refused():
    datasets, _ = head_scan()
    packed = [pydicom.dcmread(_stream(dataset)) for dataset in datasets]
    for dataset in packed:
        compress(dataset, RLELossless, generate_instance_uid=False)
    originals, plan = planned(packed)
    assert plan.digest == planned(datasets)[1].digest
    middle = len(datasets) // 3
    after = face_removal.remove(originals[middle], OnePlan(plan))[0]
    plain = face_removal.remove(planned(datasets)[0][middle], OnePlan(plan))[0]
    from meninx.dicomfile import frames

    layers = frames.layers_of(after)
    assert after.transfer_syntax == RLELossless
    values = frames.decoded(next(frames.frame_bytes(after, layers)), layers)[0]
    assert np.array_equal(values, stored(plain, datasets[middle]))
    assert (values != datasets[middle].pixel_array).any()
    for dataset in packed:
        dataset.file_meta.TransferSyntaxUID = JPEGLSNearLossless
    originals = [replace(one, transfer_syntax=str(JPEGLSNearLossless)) for one in originals]
    members = [SeriesFile(slice_header.header_of(one), partial(nullcontext, one)) for one in originals]
    assert plan_of(members).reason == Reason.FACE_PIXELS


def _stream(dataset):

    return BytesIO(content(dataset))


@pytest.mark.parametrize("signed", [False, True])
def test_the_fill_is_air_in_the_stored_bits(signed):
    datasets, labels = head_scan(Head(contrast="CT"))
    for dataset in datasets:
        if signed:
            values = dataset.pixel_array.astype(np.int16) - 1024
            dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
            dataset.BitsStored, dataset.HighBit = 16, 15
            dataset.PixelData = values.astype("<i2").tobytes()
    originals, plan = planned(datasets)
    number = int((labels == FACE).sum(axis=(1, 2)).argmax())
    before = datasets[number].pixel_array
    after = stored(face_removal.remove(originals[number], OnePlan(plan))[0], datasets[number]).astype("<u2")
    changed = after != before.astype("<u2")
    assert set(after[changed].view("<i2" if signed else "<u2").tolist()) == {-1000 if signed else 24}


def with_header(datasets, change, part="KNEE"):
    """Return copies of a scan whose header is changed and names a part of the body."""
    datasets = copy.deepcopy(datasets)
    for dataset in datasets:
        dataset.BodyPartExamined = part
        change(dataset)
    return datasets


def rescaled(slope, intercept):
    def change(dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept

    return change


def spaced(across, along):
    def change(dataset):
        dataset.PixelSpacing = [float(one) * across for one in dataset.PixelSpacing]
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x * across, y * across, z * along]

    return change


def turned(dataset):
    dataset.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]


@pytest.mark.parametrize(
    "change",
    [
        rescaled(0.2, -1024), rescaled(0.5, -1024), rescaled(2, -1024), rescaled(10, -1024),
        rescaled(1, 0), rescaled(1, -2048), rescaled(1, 1000), rescaled(0.001, 0),
        spaced(0.25, 1), spaced(0.3, 0.3), spaced(1, 0.15), turned,
    ],
)  # fmt: skip
def test_a_ct_head_with_a_wrong_scale_and_another_part_in_its_header_is_no_knee(change):
    plan = planned(with_header(head_scan(Head(contrast="CT"))[0], change))[1]
    assert plan.outcome == REFUSED


@pytest.mark.parametrize(
    ("contrast", "scan", "change"),
    [
        ("T1", COARSE, spaced(0.5, 1)),
        ("T2", COARSE, spaced(2, 1)),
        ("FLAIR", replace(COARSE, plane="sagittal"), spaced(0.3, 0.3)),
        ("T1", replace(COARSE, high=30.0), spaced(1, 1)),  # cut below the vertex
        ("T2", replace(COARSE, high=30.0), spaced(0.5, 0.5)),
    ],
)
def test_an_mr_head_with_a_wrong_spacing_or_without_its_vertex_is_no_knee(contrast, scan, change):
    plan = planned(with_header(head_scan(Head(contrast=contrast), scan)[0], change))[1]
    assert plan.outcome == REFUSED


@pytest.mark.parametrize("kind", ["CT", "MR"])
def test_a_trunk_and_a_limb_pass_if_their_header_names_them(kind):
    """A trunk has ribs, lungs and a spine; a limb has fat, muscle, and bone around marrow."""
    y, x = np.indices((100, 140)) * 3.0 - np.array([150.0, 210.0])[:, None, None]
    air, lung, fat, muscle, bone = (24, 174, 924, 1074, 1824) if kind == "CT" else (5, 15, 800, 300, 30)
    for part, half in (("CHEST", (190.0, 125.0)), ("LEG", (75.0, 75.0))):
        body = np.hypot(x / half[0], y / half[1])
        values = np.where(body < 1, fat, air)
        values[body < 0.9] = muscle
        if part == "CHEST":
            values[np.minimum(np.hypot((x - 85) / 65, y / 75), np.hypot((x + 85) / 65, y / 75)) < 1] = lung
            values[(body > 0.8) & (body < 0.86) & (np.sin(8 * np.arctan2(y, x)) > 0.3)] = bone
            values[np.hypot(x / 20, (y - 70) / 18) < 1] = bone
        else:
            values[np.hypot(x, y) < 18] = bone
            values[np.hypot(x, y) < 10] = fat
        datasets, _ = head_scan(Head(contrast="CT" if kind == "CT" else "T1"), replace(COARSE, step=10.0))
        for dataset in datasets:
            dataset.BodyPartExamined, (dataset.Rows, dataset.Columns) = part, values.shape
            dataset.PixelData = values.astype("<u2").tobytes()
        assert planned(datasets)[1].outcome == NOT_HEAD


def placed(across, down, up, along=1.0):
    """Return a change of the directions of rows, columns and heights, and of the slice distance."""

    def change(dataset):
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImageOrientationPatient = [across, 0, 0, 0, down, 0]
        dataset.ImagePositionPatient = [across * x, down * y, up * z * along]

    return change


@pytest.mark.parametrize(
    ("contrast", "change"),
    [
        ("T1", placed(-1, -1, 1)),  # supine, registered as prone
        ("CT", placed(1, -1, 1)),
        ("CT", placed(1, -1, -1)),
        pytest.param("T2", placed(1, 1, -1), marks=pytest.mark.slow),
        pytest.param("FLAIR", placed(1, -1, -1), marks=pytest.mark.slow),
        ("CT", placed(1, 1, 1, 1.5)),
    ],
)
def test_a_head_that_does_not_lie_as_its_header_says_is_refused(contrast, change):
    datasets = with_header(_generated(Head.drawn(1002, contrast), COARSE)[0], change, "HEAD")
    assert planned(datasets)[1].outcome == REFUSED


def test_a_mirrored_head_is_defaced():
    datasets = with_header(head_scan(Head(contrast="CT"))[0], placed(-1, 1, 1), "HEAD")
    assert planned(datasets)[1].outcome == DEFACED
