"""Which pixels of a slice change, and to what: each frame by its own plane, rescaling and photometry."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import cache, partial

import numpy as np
import pytest
from head_phantoms import Head, Scan, content, slices
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from meninx.deid import Deidentifier
from meninx.deid.faces import face_removal
from meninx.deid.faces.defacing import STEP, FaceMask
from meninx.deid.faces.face_plans import DEFACED, FacePlan, SeriesFile, SingleFilePlans, plan_of
from meninx.deid.faces.slice_header import header_of
from meninx.dicomfile import instance

SCAN = Scan(spacing=4.0, step=6.0)
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}


class OnePlan:
    """The plan of the only series."""

    def __init__(self, plan: FacePlan) -> None:
        self.plan = plan

    def of(self, header, original) -> FacePlan:
        return self.plan


@cache
def generated(contrast: str) -> list[Dataset]:
    return slices(Head(contrast=contrast), SCAN)[0]


def head(contrast: str) -> list[Dataset]:
    return copy.deepcopy(generated(contrast))


def frames_of(original: instance.Instance, count: int = 1) -> np.ndarray:
    values = np.frombuffer(bytes(original.pixels[0].value), "<u2")
    return values.reshape(count, -1)


def cleaned(datasets: list[Dataset]) -> tuple[FacePlan, np.ndarray]:
    """Return the plan of a series of slices and the stored values after the removal, one row per slice."""
    originals = [instance.read(content(dataset)) for dataset in datasets]
    plan = plan_of([SeriesFile(header_of(one), partial(nullcontext, one)) for one in originals])
    return plan, np.stack([frames_of(face_removal.remove(one, OnePlan(plan))[0])[0] for one in originals])


def filled(dataset: Dataset, mask: np.ndarray, tissue: np.ndarray, origin=(-150.0, -150.0, -150.0)):
    """Return which pixels of a slice a given part of space changes, and their new values."""
    one = instance.read(content(dataset))
    plan = FacePlan(DEFACED, "", header_of(one).kind, FaceMask(mask, tissue, origin), frozenset())
    after = frames_of(face_removal.remove(one, OnePlan(plan))[0]).reshape(dataset.Rows, dataset.Columns)
    return after != dataset.pixel_array, after


def item(**values) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def enhanced(datasets: list[Dataset], order: list[int], *, shared: bool) -> Dataset:
    """Return one multi-frame image with the slices in another order.

    Orientation and spacing stand in the shared groups, or in those of each frame.
    """
    first = datasets[0]
    made = copy.deepcopy(first)
    made.SOPClassUID = ENHANCED[first.Modality]
    made.NumberOfFrames = len(datasets)
    common = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=first.ImageOrientationPatient)],
        "PixelMeasuresSequence": [item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)],
    }
    made.SharedFunctionalGroupsSequence = Sequence([item(**common) if shared else Dataset()])
    each = []
    for number in order:
        dataset = datasets[number]
        groups = item(
            PlanePositionSequence=[item(ImagePositionPatient=dataset.ImagePositionPatient)],
            **({} if shared else common),
        )
        if "RescaleSlope" in dataset:
            pair = {"RescaleSlope": dataset.RescaleSlope, "RescaleIntercept": dataset.RescaleIntercept}
            groups.PixelValueTransformationSequence = [item(**pair)]
        each.append(groups)
    made.PerFrameFunctionalGroupsSequence = Sequence(each)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                 "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        if name in made:
            delattr(made, name)
    made.PixelData = b"".join(datasets[number].PixelData for number in order)
    return made


@pytest.mark.parametrize(("contrast", "shared"), [("CT", True), ("T1", False)])
def test_each_frame_of_a_multi_frame_image_is_changed_as_the_slice_at_its_place(contrast, shared):
    datasets = head(contrast)
    if contrast == "CT":  # every frame has a rescaling of its own
        for number, dataset in enumerate(datasets):
            values = dataset.pixel_array.astype(np.int64) + number
            dataset.PixelData = values.astype("<u2").tobytes()
            dataset.RescaleIntercept = -1024 - number
    plan, slices_after = cleaned(datasets)
    assert plan.outcome == DEFACED
    order = np.random.default_rng(3).permutation(len(datasets)).tolist()
    one = instance.read(content(enhanced(datasets, order, shared=shared)))
    after, report = face_removal.remove(one, SingleFilePlans())
    assert report.outcome == DEFACED
    frames = frames_of(after, len(datasets))
    assert (frames == slices_after[order]).all()
    changed = frames != frames_of(one, len(datasets))
    assert 0.1 < changed.any(axis=1).mean() < 0.9
    if contrast == "CT":  # -1000 HU in each
        assert all(set(frames[at][changed[at]].tolist()) <= {24 + number} for at, number in enumerate(order))


def test_inverted_grey_values_give_the_same_face_and_bright_air():
    datasets = head("T2")
    plan, after = cleaned(datasets)
    inverted = head("T2")
    for dataset in inverted:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.PixelData = (4095 - dataset.pixel_array).astype("<u2").tobytes()
    other, bright = cleaned(inverted)
    assert other.outcome == plan.outcome == DEFACED
    masks = [one.face.mask for one in (plan, other)]
    assert (masks[0] != masks[1]).mean() < 0.001  # bins of a histogram are not symmetric
    changed = bright != np.stack([dataset.pixel_array.ravel() for dataset in inverted])
    assert changed.any()
    assert bright[changed].min() > 4000  # air
    assert after[after != np.stack([dataset.pixel_array.ravel() for dataset in datasets])].max() < 95


@pytest.mark.parametrize(("photometric", "air"), [("MONOCHROME2", 7), ("MONOCHROME1", 900)])
def test_without_air_in_a_frame_the_darkest_value_is_taken(photometric, air):
    dataset = head("T1")[0]
    values = np.random.default_rng(0).integers(7, 901, (dataset.Rows, dataset.Columns))
    values[0, :2] = 7, 900
    dataset.PixelData, dataset.PhotometricInterpretation = values.astype("<u2").tobytes(), photometric
    mask = np.zeros((100, 100, 100), dtype=np.bool_)
    mask[:, :50] = True
    changed, after = filled(dataset, mask, np.ones_like(mask))
    assert set(after[changed].tolist()) == {air}


def test_rows_and_columns_have_their_own_spacing():
    dataset = head("T1")[0]
    dataset.PixelSpacing = [3.0, 6.0]
    x0, y0, _ = map(float, dataset.ImagePositionPatient)
    dataset.PixelData = np.full((dataset.Rows, dataset.Columns), 500, dtype="<u2").tobytes()
    values = dataset.pixel_array.copy()
    values[-1] = 3
    dataset.PixelData = values.tobytes()
    mask = np.zeros((100, 120, 120), dtype=np.bool_)
    mask[:, :40, :60] = True  # before y = -150 + 40 * 3 and right of x = -150 + 60 * 3, less half a step
    changed, _ = filled(dataset, mask, np.ones_like(mask))
    y, x = np.indices(changed.shape)
    front = y0 + 3.0 * y < -150 + STEP * 39.5
    right = x0 + 6.0 * x < -150 + STEP * 59.5
    assert (changed == (front & right)).all()
    assert 0 < changed.mean() < 1


def test_a_series_without_a_head_does_not_declare_the_code_of_defacing():
    datasets = head("CT")
    for dataset in datasets:
        x0, y0, z = map(float, dataset.ImagePositionPatient)
        y, x = np.indices((dataset.Rows, dataset.Columns)) * 4.0
        inside = (x + x0) ** 2 + (y + y0) ** 2 + z**2 < 90**2
        dataset.PixelData = np.where(inside, 1054, 24).astype("<u2").tobytes()
        dataset.BodyPartExamined = "ABDOMEN"
    for part, expected in (("ABDOMEN", False), ("HEAD", True)):
        made = enhanced(datasets if part == "ABDOMEN" else head("CT"), [*range(len(datasets))], shared=True)
        deidentifier = Deidentifier(key=bytes(range(32)), site="n", defacing="head", pixels="keep")
        clean = deidentifier.deidentify(content(made)).dataset
        codes = [code.CodeValue for code in clean.DeidentificationMethodCodeSequence]
        assert ("113102" in codes) is expected
        assert clean.RecognizableVisualFeatures == "NO"
