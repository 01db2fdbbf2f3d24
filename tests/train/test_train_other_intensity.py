"""Images of another dataset that are as bright as those of the training, and others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meninx.core.errors import DataError
from meninx.core.intensity import Intensity, Observed
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.learn.config import ModelConfig
from meninx.learn.dataset_fit import check_images
from meninx.train.other_intensity import check

SEEN = DatasetInfo(
    name="home",
    task=TaskKind.MULTILABEL,
    labels=("a",),
    size=(8, 8),
    observed=Observed(images=40, brightness=(100.0, 5.0)),
)
DEEP = Intensity(window=(0.0, 65535.0), shift=32767.5, scale=32767.5)


def dataset(root: Path, arrays: list[np.ndarray], intensity: Intensity | None = None) -> Manifest:
    cases = []
    for number, array in enumerate(arrays):
        case = Case(case_id=f"c{number}", patient_id=f"p{number}", image=f"c{number}.png", labels={"a": 1.0})
        load.save(root / case.image, Image(array[None]))
        cases.append(case)
    info = replace(SEEN, observed=None, intensity=intensity or Intensity())
    return Manifest(root, info, tuple(cases))


def pictures(mean: int, count: int = 6) -> list[np.ndarray]:
    """Pictures of that mean value, which use most of the range around it."""
    half = min(mean, 255 - mean)
    one = np.array([mean - half, mean + half] * 32, np.uint8).reshape(8, 8)
    return [np.roll(one, turn) for turn in range(count)]


def test_images_like_those_of_the_training_need_no_word(tmp_path):
    assert check(SEEN, dataset(tmp_path, pictures(104)), private=False, allowed=False) == []
    deep = [picture.astype(np.uint16) * 257 for picture in pictures(104)]
    (tmp_path / "deep").mkdir()
    assert check(SEEN, dataset(tmp_path / "deep", deep, DEEP), private=False, allowed=False) == []


@pytest.mark.parametrize("mean", [6, 25, 170, 250])
def test_far_brighter_or_darker_images_are_refused_with_both_numbers(tmp_path, mean):
    data = dataset(tmp_path, pictures(mean))
    with pytest.raises(
        DataError, match=rf"{mean / 255:.1%} of the range .* training 39.2% with deviation 2.0%"
    ):
        check(SEEN, data, private=False, allowed=False)
    [note] = check(SEEN, data, private=False, allowed=True)
    assert note.startswith(
        "dataset home: measured although the intensity is far off (--allow-other-intensity): mean value"
    )


def test_inverted_images_are_refused(tmp_path):
    data = dataset(tmp_path, [255 - picture for picture in pictures(104)])
    with pytest.raises(DataError, match="black as the lowest value"):
        check(SEEN, data, private=False, allowed=False)


def test_mild_differences_are_a_note_with_numbers(tmp_path):
    [note] = check(SEEN, dataset(tmp_path, pictures(124)), private=False, allowed=False)  # 4.8 deviations
    assert note.startswith(
        "6 of 6 images far darker or brighter than those of the training: mean value at 48.6%"
    )
    (tmp_path / "mixed").mkdir()
    mixed = dataset(tmp_path / "mixed", [*pictures(100, 5), *pictures(6, 2)])
    [note] = check(SEEN, mixed, private=False, allowed=False)
    assert note.startswith("2 of 7 images")


def test_a_private_run_is_compared_by_public_facts_alone(tmp_path):
    """No number of its training images is quoted, although its private records hold them."""
    [note] = check(SEEN, dataset(tmp_path, pictures(60)), private=True, allowed=False)
    assert "was not compared" in note
    assert "private run" in note
    (tmp_path / "dark").mkdir()
    dark = dataset(tmp_path / "dark", [picture // 16 for picture in pictures(104)])
    with pytest.raises(
        DataError, match=r"6 of 6 images use less than 10% of the range \(median 5.1%\)"
    ) as caught:
        check(SEEN, dark, private=True, allowed=False)
    assert "39.2" not in str(caught.value)
    notes = check(SEEN, dark, private=True, allowed=True)
    assert notes[0].startswith("dataset home: measured although the intensity is far off")


def test_constant_images_use_nothing_of_the_range(tmp_path):
    data = dataset(tmp_path, [np.full((8, 8), 100, np.uint8)] * 4)
    with pytest.raises(DataError, match=r"4 of 4 images use less than 10% of the range \(median 0.0%\)"):
        check(SEEN, data, private=True, allowed=False)


def test_a_training_with_dark_images_of_its_own_is_measured_on_others_like_them(tmp_path):
    dark = replace(SEEN, observed=Observed(images=40, brightness=(6.0, 1.0)))
    data = dataset(tmp_path, [picture // 16 for picture in pictures(104)])
    assert check(dark, data, private=False, allowed=False) == []


def test_a_window_of_all_bits_is_the_bit_depth_of_the_file():
    """12 bits in files of 16 are made comparable by their window, which was refused."""
    by_format = replace(SEEN, preprocessing={"scaling": "format", "window": ()})
    of_12_bits = replace(SEEN, preprocessing={"scaling": "window", "window": (0.0, 4095.0)})
    assert check_images(by_format, of_12_bits, ModelConfig()) == []
    other = replace(SEEN, preprocessing={"scaling": "window", "window": (0.0, 4000.0)})
    with pytest.raises(DataError, match="the window 0 to 4000"):
        check_images(by_format, other, ModelConfig())
