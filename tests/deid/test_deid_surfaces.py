"""Contours, segmentations and surfaces under ``--defacing head``."""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest
from deid_samples import image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    SurfaceSegmentationStorage,
)

from meninx.deid.faces import face_removal
from meninx.deid.faces.face_plans import DEFACED, NOT_HEAD, REFUSED, FacePlan, FolderPlans, SingleFilePlans
from meninx.deid.faces.slice_header import key_of_series
from meninx.dicomfile import instance
from meninx.dicomfile.refusals import Reason, Refused

OUTLINE = "1.2.826.0.1.3680043.8.498.77"


def read(kind, words: str, *series: str, **header) -> instance.Instance:
    dataset = image()
    dataset.SOPClassUID = kind
    dataset.Modality = {SegmentationStorage: "SEG", RTDoseStorage: "RTDOSE"}.get(kind, "RTSTRUCT")
    for keyword in ("BodyPartExamined", "ProtocolName", "SeriesDescription"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.StudyDescription = words
    if kind in (RTStructureSetStorage, SurfaceSegmentationStorage):
        del dataset.PixelData
    dataset.ReferencedSeriesSequence = [Dataset() for _ in series]
    for item, uid in zip(dataset.ReferencedSeriesSequence, series, strict=True):
        item.SeriesInstanceUID = uid
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    stream = BytesIO()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return instance.read(stream.getvalue())


@pytest.mark.parametrize("kind", [RTStructureSetStorage, SegmentationStorage, SurfaceSegmentationStorage])
@pytest.mark.parametrize("words", ["CT HEAD", ""])
def test_an_outline_of_a_head_or_of_nothing_is_kept_out(kind, words):
    with pytest.raises(Refused) as refused:
        face_removal.remove(read(kind, words), SingleFilePlans())
    assert refused.value.reason == Reason.HEAD_OUTLINE
    other = read(kind, "CT CHEST")
    assert face_removal.remove(other, SingleFilePlans())[0] is other


@pytest.mark.parametrize(
    ("words", "outcome", "passes"),
    [
        ("", NOT_HEAD, True), ("", DEFACED, False), ("", REFUSED, False), ("", None, False),
        ("CT CHEST", NOT_HEAD, True), ("CT CHEST", DEFACED, False), ("CT CHEST", None, True),
        ("CT HEAD", NOT_HEAD, False),
    ],
)  # fmt: skip
def test_the_series_that_it_refers_to_decides(words, outcome, passes, tmp_path):
    one = read(RTStructureSetStorage, words, OUTLINE)
    plans = FolderPlans(tmp_path)
    key = key_of_series(one, OUTLINE)
    if outcome is not None:
        plans.write(key, FacePlan(NOT_HEAD if outcome == DEFACED else outcome, Reason.HEAD_DOUBTFUL))
    if outcome == DEFACED:
        plans = _Defaced(tmp_path)
    if passes:
        report = face_removal.remove(one, plans)[1]
        assert report.outcome == ""
        assert report.text().startswith(f":{key}:")
    else:
        with pytest.raises(Refused) as refused:
            face_removal.remove(one, plans)
        assert refused.value.face.startswith(f":{key}:")


class _Defaced(FolderPlans):
    def read(self, series):
        return FacePlan(DEFACED)


def test_two_series_of_which_one_is_unknown_are_not_enough(tmp_path):
    one = read(RTStructureSetStorage, "", OUTLINE, OUTLINE + ".1")
    plans = FolderPlans(tmp_path)
    plans.write(key_of_series(one, OUTLINE), FacePlan(NOT_HEAD))
    with pytest.raises(Refused):
        face_removal.remove(one, plans)


def test_a_dose_of_a_head_and_points_of_any_class_are_kept_out():
    with pytest.raises(Refused):
        face_removal.remove(read(RTDoseStorage, "HEAD"), SingleFilePlans())
    item = Dataset()
    item.ContourData = [1.0, 2.0, 3.0]
    for words in ("HEAD", ""):
        one = read(RTStructureSetStorage, words, SOPClassUID=RTPlanStorage, ROIContourSequence=[item])
        with pytest.raises(Refused):
            face_removal.remove(one, SingleFilePlans())
