"""What another dataset must have in common with a model, and what is made equal."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meninx.core.errors import DataError
from meninx.core.manifest import Case, DatasetInfo, Intensity, Manifest, TaskKind
from meninx.learn.config import ModelConfig
from meninx.learn.dataset_fit import check_images
from meninx.train.external import LabelMatch

FLAT = DatasetInfo(name="home", task=TaskKind.MULTILABEL, labels=("a",), size=(32, 32))
DEEP = DatasetInfo(
    name="home",
    task=TaskKind.SEGMENTATION,
    labels=("a",),
    spatial_dims=3,
    size=(8, 8, 8),
    spacing_mm=(1.0, 1.0, 2.0),
)


def table(task: TaskKind, labels: tuple[str, ...], rows: list[tuple[float | None, ...]]) -> Manifest:
    cases = tuple(
        Case(
            case_id=f"c{number}",
            patient_id=f"p{number}",
            image=f"images/c{number}.png",
            labels=dict(zip(labels, row, strict=True)),
        )
        for number, row in enumerate(rows)
    )
    return Manifest(Path("x"), DatasetInfo(name="x", task=task, labels=labels), cases)


def test_truth_of_several_labels_is_that_of_any():
    data = table(TaskKind.MULTILABEL, ("b", "x", "y"), [(1, 0, 1), (0, 0, 0), (0, None, 0), (0, None, 1)])
    match = LabelMatch.of(("a", "b", "c"), data.info.labels, ["x=a", "y=a"])
    assert (match.measured, match.missing, match.unused) == (("a", "b"), ("c",), ())
    truth = match.targets(data)
    assert truth[:, 0].tolist() == pytest.approx([1, 0, math.nan, 1], nan_ok=True)
    assert truth[:, 1].tolist() == [1, 0, 0, 0]
    assert np.isnan(truth[:, 2]).all()
    assert match.columns == [0, 1]
    assert list(match.notes()) == [
        "labels of the dataset under another name: x or y as a",
        "not measured, because the dataset lacks them: c",
    ]


def test_cases_of_a_class_that_the_model_does_not_know_are_left_out():
    data = table(TaskKind.MULTICLASS, ("tumour", "healthy", "other"), [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    match = LabelMatch.of(("healthy", "tumour"), data.info.labels)
    chosen = match.usable(data)
    assert [case.case_id for case in chosen.cases] == ["c0", "c1"]
    assert match.targets(chosen).tolist() == [[0, 1], [1, 0]]
    assert list(match.notes(1)) == ["left out, because the model does not know them: other (1 case)"]


def test_names_may_hold_the_sign_that_separates_them():
    match = LabelMatch.of(("a=1", "b"), ("x=2", "b"), ["x=2=a=1"])
    assert match.sources == {"a=1": ("x=2",), "b": ("b",)}


def test_values_of_masks_follow_their_names():
    match = LabelMatch.of(("organ", "lesion"), ("lesion", "bone", "liver"), ["liver=organ"])
    mask = np.array([[0, 1], [2, 3]], np.uint8)
    assert match.translated(mask).tolist() == [[0, 2], [0, 1]]
    same = LabelMatch.of(("organ", "lesion"), ("organ", "lesion"))
    assert same.translated(mask[:1]) is not None
    with pytest.raises(DataError, match=r"values outside 0 \.\. 2"):
        same.translated(mask)
    swapped = LabelMatch.of(("organ", "lesion"), ("lesion", "organ"))
    assert swapped.translated(mask[:1]).tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("config", "size", "fits"),
    [
        (ModelConfig(), (32, 32), True),
        (ModelConfig(), (31, 32), False),
        (ModelConfig(image_size=(64, 64)), (32, 32), True),
        (ModelConfig(image_size=(64, 64)), (), True),
        (ModelConfig(image_size=(64, 64)), (65, 32), False),
        (ModelConfig(patch_size=(16, 16)), (500, 300), True),
    ],
)
def test_sizes(config, size, fits):
    here = replace(FLAT, size=size)
    if fits:
        assert check_images(FLAT, here, config) == []
    else:
        with pytest.raises(DataError, match="as in training"):
            check_images(FLAT, here, config)


def test_spacing_is_named_with_numbers_and_other_aspects_too():
    [note] = check_images(DEEP, replace(DEEP, spacing_mm=(1.0, 1.0, 5.0)), ModelConfig())
    assert note.startswith("its voxels are 1 x 1 x 5 mm, those of the training 1 x 1 x 2 mm")
    assert "--spacing-mm 1 1 2" in note
    [note] = check_images(DEEP, replace(DEEP, spacing_mm=()), ModelConfig())
    assert "differs between its volumes" in note
    assert check_images(DEEP, replace(DEEP, spacing_mm=(1.0, 1.0, 2.001)), ModelConfig()) == []
    one, other = (replace(FLAT, preprocessing={"aspect": aspect}) for aspect in ("pad", "stretch"))
    [note] = check_images(one, other, ModelConfig())
    assert "`--aspect stretch`, those of the training by `--aspect pad`" in note


@pytest.mark.parametrize(
    ("learned", "here"), [(("T2", "ADC"), ("ADC", "T2")), (("T2", "ADC"), ()), ((), ("T2", "ADC"))]
)
def test_several_channels_must_have_the_names_of_the_training(learned, here):
    model, data = (replace(DEEP, channels=2, channel_names=names) for names in (learned, here))
    with pytest.raises(DataError, match="as in training"):
        check_images(model, data, ModelConfig())
    assert check_images(model, model, ModelConfig()) == []


def test_another_name_of_the_only_channel_is_named():
    model, data = (replace(DEEP, channel_names=(name,)) for name in ("MRI", "T2"))
    assert check_images(model, data, ModelConfig()) == ["its channel is T2, that of the training MRI"]


def test_grey_levels_of_any_depth_fit_and_units_do_not():
    wide = Intensity(window=(0.0, 65535.0), shift=32767.5, scale=32767.5)
    own = Intensity(shift=100.0, scale=50.0, source="train")
    found = own.for_values_of(wide)
    values = np.arange(256.0)
    assert (values * 257 - found.shift) / found.scale == pytest.approx((values - 100) / 50, abs=1e-9)
    assert own.for_values_of(Intensity()) is own
    units = Intensity(window=(-160.0, 240.0), shift=40.0, scale=200.0, source="standard")
    for one, other in ((own, units), (units, own), (units, replace(units, window=(-100.0, 240.0)))):
        with pytest.raises(DataError, match="as in training"):
            one.for_values_of(other)
    assert units.for_values_of(replace(units, shift=0.0)) is units
