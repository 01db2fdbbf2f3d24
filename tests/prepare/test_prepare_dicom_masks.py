"""Masks from SEG and RTSTRUCT objects of an archive: matched by UID, drawn on the slices, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import prepare_fixtures as make
import pytest
import segmentation_fixtures as layouts

from meninx.core.errors import ConfigError, DataError, LayoutError
from meninx.core.manifest import Manifest
from meninx.imaging import nifti
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import READERS
from meninx.prepare.source_cases import ReaderOutput
from meninx.prepare.stage import run

VOLUMES = {"reader": "dicom", "spatial_dims": 3, "task": "segmentation", "window": (-1024.0, 1000.0)}


def archive(root: Path) -> Path:
    """Two CT series of different patients, without a table."""
    make.make_series(root)
    (root / "labels.csv").unlink()
    return root


def with_segs(root: Path) -> Path:
    for patient in range(2):
        layouts.write_seg(root / "images" / f"seg{patient}.dcm", patient, layouts.organs(patient))
    return root


def read(root: Path, **settings: Any) -> ReaderOutput:
    return READERS["dicom"](root, PrepareConfig.of(**{**VOLUMES, **settings}), "")


def masks(root: Path, out: Path, **settings: Any) -> tuple[Manifest, dict[str, np.ndarray]]:
    """The dataset, and the mask of each patient as (slices, rows, columns) of the series."""
    run(PrepareConfig.of(**{**VOLUMES, **settings}), root, out)
    manifest = Manifest.read(out)
    found = {case.patient_id: nifti.read(out / case.mask).array[0] for case in manifest.cases}
    return manifest, {name: as_stored(array) for name, array in found.items()}


def as_stored(array: np.ndarray) -> np.ndarray:
    """RAS+ axes back to (slices, rows, columns): x and y of the patient run against columns and rows."""
    return array[::-1, ::-1].transpose(2, 1, 0)


def number_of(parts: dict[str, np.ndarray]) -> np.ndarray:
    return np.max([mask * number for number, mask in enumerate(parts.values(), start=1)], axis=0)


def test_segments_become_labels_on_the_series_they_refer_to(tmp_path):
    root = with_segs(archive(tmp_path / "in"))
    manifest, found = masks(root, tmp_path / "out")
    assert manifest.info.labels == ("liver", "tumour")
    for patient in range(2):
        np.testing.assert_array_equal(found[f"Q{patient}"], number_of(layouts.organs(patient)))


def test_segments_are_chosen_renamed_and_ordered(tmp_path):
    root = with_segs(archive(tmp_path / "in"))
    manifest, found = masks(root, tmp_path / "out", mask_labels=("lesion=tumour",))
    assert manifest.info.labels == ("lesion",)
    np.testing.assert_array_equal(found["Q1"], layouts.organs(1)["tumour"])
    with pytest.raises(ConfigError, match=r"'livr'.*did you mean 'liver'"):
        read(root, mask_labels=("livr",))


def test_segments_without_names_are_chosen_by_number(tmp_path):
    root = archive(tmp_path / "in")
    unnamed = [layouts.item(SegmentNumber=n, SegmentLabel="") for n in (1, 2)]
    for patient in range(2):
        path = root / "images" / f"seg{patient}.dcm"
        layouts.write_seg(path, patient, layouts.organs(patient), SegmentSequence=unnamed)
    with pytest.raises(LayoutError, match=r"no segment or region has a name.*name=number"):
        read(root)
    manifest, found = masks(root, tmp_path / "out", mask_labels=("tumour=2", "liver=1"))
    assert manifest.info.labels == ("tumour", "liver")
    np.testing.assert_array_equal(found["Q0"], number_of(dict(reversed(layouts.organs(0).items()))))


def test_names_that_deidentification_removed_are_none(tmp_path):
    root = archive(tmp_path)
    for patient, name in enumerate(("REMOVED", "liver")):
        named = [layouts.item(SegmentNumber=n, SegmentLabel=text) for n, text in ((1, name), (2, "REMOVED"))]
        path = root / "images" / f"seg{patient}.dcm"
        layouts.write_seg(path, patient, layouts.organs(patient), SegmentSequence=named)
    reading = read(root)
    assert reading.labels == ("liver",)
    assert [place for _, place in reading.notes] == ["label 'liver', 1 of 2", "2 of 2 objects"]
    assert read(root, mask_labels=("tumour=2", "liver=1")).labels == ("tumour", "liver")


def test_a_label_that_some_objects_lack_is_noted_and_an_object_without_images_is_counted(tmp_path):
    root = with_segs(archive(tmp_path))
    layouts.write_seg(root / "images" / "seg1.dcm", 1, {"liver": layouts.organs(1)["liver"]})
    layouts.write_seg(root / "images" / "seg9.dcm", 9, layouts.organs(0))
    reading = read(root)
    assert reading.notes == (("label that some objects do not hold", "label 'tumour', 1 of 2"),)
    assert reading.skipped == (("label object without its images", "DICOM label objects, 3 of 3"),)


def test_an_object_of_another_patient_is_never_taken(tmp_path):
    root = with_segs(archive(tmp_path / "in"))
    layouts.write_seg(root / "images" / "seg1.dcm", 1, layouts.organs(1), PatientID="Q0")
    manifest, _ = masks(root, tmp_path / "out")
    assert manifest.patients == ("Q0",)


def test_two_objects_of_one_series_are_refused_until_one_is_chosen(tmp_path):
    root = with_segs(archive(tmp_path / "in"))
    for patient in range(2):
        other = {"liver": np.roll(layouts.organs(patient)["liver"], 1, axis=1)}
        layouts.write_seg(
            root / "images" / f"other{patient}.dcm", patient, other, title="second reader",
            SOPInstanceUID=f"2.25.99{patient}",
        )  # fmt: skip
    with pytest.raises(
        LayoutError, match=r"one label object per image, got 2 \(image 1 of 2\); .*mask_series"
    ):
        read(root)
    _, found = masks(root, tmp_path / "out", mask_series="second reader")
    np.testing.assert_array_equal(found["Q0"], np.roll(layouts.organs(0)["liver"], 1, axis=1))
    with pytest.raises(LayoutError, match=r"SEG or RTSTRUCT objects, got 4 others"):
        read(root, mask_series="nobody")


def test_segments_that_overlap_are_refused_or_the_later_label_counts(tmp_path):
    root = archive(tmp_path / "in")
    for patient in range(2):
        parts = layouts.organs(patient)
        parts["tumour"] = np.roll(parts["liver"], 1, axis=2)
        layouts.write_seg(root / "images" / f"seg{patient}.dcm", patient, parts)
    with pytest.raises(LayoutError, match=r"labels that do not overlap"):
        masks(root, tmp_path / "out")
    _, found = masks(root, tmp_path / "last", mask_overlap="last")
    liver = layouts.organs(0)["liver"]
    wanted = number_of({"liver": liver, "tumour": np.roll(liver, 1, axis=2)})
    np.testing.assert_array_equal(found["Q0"], wanted)
    _, found = masks(root, tmp_path / "first", mask_overlap="last", mask_labels=("tumour", "liver"))
    np.testing.assert_array_equal(found["Q0"] == 2, liver)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"SegmentationType": "FRACTIONAL"}, "a binary segmentation, got fractions"),
        (
            {"SegmentSequence": [layouts.item(SegmentNumber=n, SegmentLabel="liver") for n in (1, 2)]},
            "two segments have one name",
        ),
        (
            {"SegmentSequence": [layouts.item(SegmentNumber=1, SegmentLabel=name) for name in "ab"]},
            "two segments have one number",
        ),
        (
            {"SegmentSequence": [layouts.item(SegmentNumber=n, SegmentLabel=f"${n}") for n in (1, 2)]},
            "plain name for label 1",
        ),
    ],
)
def test_a_segmentation_that_cannot_be_meant_is_refused(tmp_path, changes, told):
    root = with_segs(archive(tmp_path / "in"))
    layouts.write_seg(root / "images" / "seg0.dcm", 0, layouts.organs(0), **changes)
    with pytest.raises(DataError, match=told):
        masks(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("position", "spacing", "told"),
    [
        ([0, 0, 4.5], [1, 2], "frames on the slices"),
        ([0, 0, 30], [1, 2], "frames on the slices"),
        ([2, 0, 3], [1, 2], "another grid"),
        ([0, 0, 3], [1, 1.9], "another grid"),
    ],
)
def test_a_frame_beside_the_slices_is_refused(tmp_path, position, spacing, told):
    root = with_segs(archive(tmp_path / "in"))
    frame = layouts.item(
        SegmentIdentificationSequence=layouts.item(ReferencedSegmentNumber=1),
        PlanePositionSequence=layouts.item(ImagePositionPatient=position),
        PixelMeasuresSequence=layouts.item(PixelSpacing=spacing),
    )
    liver = np.zeros((5, 6, 7), bool)
    liver[1, 2, 3] = True
    changes = {"PerFrameFunctionalGroupsSequence": [frame]}
    layouts.write_seg(root / "images" / "seg0.dcm", 0, {"liver": liver}, **changes)
    with pytest.raises(LayoutError, match=told):
        masks(root, tmp_path / "out")


def test_contours_are_filled_on_the_slices_with_holes(tmp_path):
    root = archive(tmp_path / "in")
    for patient in range(2):
        ring = [layouts.box((1, 11), (0.5, 4.5), 3.0), layouts.box((3, 7), (1.5, 2.5), 3.0)]
        spot = [layouts.box((-1, 1), (4.6, 5.4), 6.0)]
        layouts.write_rtstruct(root / "images" / f"rt{patient}.dcm", patient, {"ring": ring, "spot": spot})
    manifest, found = masks(root, tmp_path / "out")
    assert manifest.info.labels == ("ring", "spot")
    wanted = np.zeros((5, 6, 7), np.uint8)
    wanted[1, 1:5, 1:6] = 1  # columns at 2, 4, 6, 8, 10 mm; rows at 1, 2, 3, 4 mm
    wanted[1, 2, 2:4] = 0
    wanted[2, 5, 0] = 2
    np.testing.assert_array_equal(found["Q0"], wanted)


def test_contours_between_the_slices_points_and_open_lines_are_refused(tmp_path):
    root = archive(tmp_path / "in")
    path = root / "images" / "rt0.dcm"
    layouts.write_rtstruct(path, 0, {"liver": [layouts.box((1, 5), (1, 4), 4.0)]})
    with pytest.raises(LayoutError, match=r"contours on the slices of the series"):
        masks(root, tmp_path / "out")
    tilted = [(1.0, 1.0, 3.0), (5.0, 1.0, 3.0), (5.0, 4.0, 6.0)]
    layouts.write_rtstruct(path, 0, {"liver": [tilted]})
    with pytest.raises(LayoutError, match=r"contours on the slices of the series"):
        masks(root, tmp_path / "out")
    for kind in ("POINT", "OPEN_PLANAR"):
        layouts.write_rtstruct(path, 0, {"liver": [layouts.box((1, 5), (1, 4), 3.0)]}, kind=kind)
        with pytest.raises(LayoutError, match=r"closed planar contours, got others"):
            masks(root, tmp_path / "out")
    layouts.write_rtstruct(path, 0, {"liver": [[(1.0, 1.0, 3.0), (2.0, 2.0, 3.0)]]})
    with pytest.raises(LayoutError, match=r"three or more points"):
        masks(root, tmp_path / "out")
    layouts.write_rtstruct(path, 0, {"liver": [layouts.box((1, 5), (1, 4), 3.0)]})
    with pytest.raises(DataError, match=r"spatial_dims to 3|object"):
        run(
            PrepareConfig.of(reader="dicom", task="segmentation", modalities=("CT",)), root, tmp_path / "flat"
        )


def test_a_seg_and_an_rtstruct_of_one_series_are_refused_until_one_is_chosen(tmp_path):
    root = with_segs(archive(tmp_path / "in"))
    layouts.write_rtstruct(
        root / "images" / "rt0.dcm",
        0,
        {"liver": [layouts.box((1, 5), (1, 4), 3.0)]},
    )
    with pytest.raises(ConfigError, match=r"a SEG and an RTSTRUCT refer to one image.*mask_object"):
        read(root)
    assert len(read(root, mask_object="seg").cases) == 2
    assert [found.mask is None for found in read(root, mask_object="rtstruct").cases] == [False, True]


def test_a_damaged_object_is_counted_and_its_series_has_no_mask(tmp_path):
    root = with_segs(archive(tmp_path / "in"))
    path = root / "images" / "seg0.dcm"
    whole = path.read_bytes()
    for kept, reason in ((len(whole) - 9, "unreadable mask"), (600, "no mask")):
        path.write_bytes(whole[:kept])
        result = run(PrepareConfig.of(**VOLUMES), root, tmp_path / f"out{kept}")
        assert (result.cases, result.skipped[reason]) == (1, 1)


def test_a_series_of_one_slice(tmp_path):
    root = with_segs(archive(tmp_path / "in"))
    for path in (root / "images" / "Q0").glob("[13-9].dcm"):
        path.unlink()
    (root / "images" / "Q0" / "0.dcm").unlink()
    lesion = np.zeros((5, 6, 7), bool)
    lesion[2, 1:3, 2:5] = True
    layouts.write_seg(root / "images" / "seg0.dcm", 0, {"liver": lesion})
    _, found = masks(root, tmp_path / "out")
    np.testing.assert_array_equal(found["Q0"], lesion[2:3])


def test_an_archive_without_objects_says_what_to_give(tmp_path):
    with pytest.raises(LayoutError, match=r"SEG or RTSTRUCT objects, got none.*mask_column"):
        read(archive(tmp_path))


def test_segments_on_single_images(tmp_path):
    root = make.make_dicom(tmp_path / "in")
    for patient in range(2):
        image = f"2.25.{sum(map(ord, 'north')) * 1000 + patient * 10}"
        lesion = np.zeros((1, 12, 10), bool)
        lesion[0, 2:5, 3:6] = True
        source = layouts.item(ReferencedSOPInstanceUID=image)
        frame = layouts.item(
            SegmentIdentificationSequence=layouts.item(ReferencedSegmentNumber=1),
            DerivationImageSequence=layouts.item(SourceImageSequence=source),
        )
        changes = {"PatientID": f"NORTH-{patient}", "PerFrameFunctionalGroupsSequence": [frame]}
        layouts.write_seg(root / "images" / f"seg{patient}.dcm", patient, {"lesion": lesion}, **changes)
    result = run(PrepareConfig.of(reader="dicom", task="segmentation"), root, tmp_path / "out")
    assert (result.cases, result.labels, result.skipped["no mask"]) == (2, {"lesion": 2}, 6)
