"""Training images on the page: asked for, allowed, the images that were prepared, and otherwise none."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow
from report_samples import write_dataset, write_run

from meninx.core import integrity
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, UsageError
from meninx.core.manifest import Manifest
from meninx.imaging import png
from meninx.imaging.image import Image
from meninx.report import contact_sheet, figures, stage
from meninx.report.config import ReportConfig

SHEET = ReportConfig(date="2026-11-20", contact_sheet=5)
ALLOWED = SHEET.replace(contact_sheet_permission="CC BY 4.0 <b>of the hospital</b>")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(figures, "drawn", lambda draw, name, alt, size: "<svg></svg>")


def dataset_with_images(folder, *, synthetic=True, level=200):
    """Return a dataset with an image per case: training images are ``level``, all others black."""
    write_dataset(folder)
    manifest = Manifest.read(folder)
    (folder / "images").mkdir()
    for case in manifest.cases:
        grey = level if case.split == "train" else 0
        png.write(folder / case.image, Image(np.full((1, 32, 32), grey, dtype=np.uint8)))
    Manifest(folder, replace(manifest.info, synthetic=synthetic), manifest.cases).write()
    return folder


def page_of(tmp_path, config, *sources, name="page.html"):
    stage.run(config, list(sources), tmp_path / name)
    return (tmp_path / name).read_text()


def picture_in(page):
    data = re.search(r'<img class="sheet" alt="[^"]+" src="data:image/png;base64,([^"]+)">', page).group(1)
    return np.asarray(Pillow.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture
def synthetic(tmp_path):
    data = dataset_with_images(tmp_path / "data")
    return data, write_run(tmp_path / "run", private=True, dataset=data)


def test_no_picture_unless_asked_and_the_page_says_why(tmp_path, synthetic):
    page = page_of(tmp_path, ReportConfig(date="2026-11-20"), *synthetic)
    assert "<img" not in page
    assert contact_sheet.WHY_NONE in page
    assert "It holds no image, no model and no value of a single person." in page


def test_a_sheet_of_synthetic_training_images(tmp_path, synthetic):
    page = page_of(tmp_path, SHEET, *synthetic)
    sheet = picture_in(page)
    assert sheet.shape == (98, 5 * 98, 3)
    assert (sheet == 200).sum() == 5 * 96 * 96 * 3  # each tile is a training image at three times its size
    assert "5 of 72 images of the training split of dataset data" in page
    assert "Synthetic: nobody stands behind them." in page
    assert contact_sheet.WHY_NONE not in page
    assert "pictures of training images" in page
    assert "http" not in page


def test_the_choice_depends_on_names_alone(synthetic):
    cases = Manifest.read(synthetic[0]).cases
    assert contact_sheet.chosen(cases, 7) == contact_sheet.chosen(cases[::-1], 7)
    assert contact_sheet.chosen(cases, 7)[:3] == contact_sheet.chosen(cases, 3)


def test_a_declared_number_is_not_told_by_the_sheet(tmp_path):
    data = dataset_with_images(tmp_path / "data")
    run = write_run(tmp_path / "run", private=True, dataset=data, declared=30)
    page = page_of(tmp_path, SHEET, data, run)
    assert "5 images of the training split" in page
    assert "of 72" not in page


def test_real_images_need_a_permission_that_the_page_prints(tmp_path):
    data = dataset_with_images(tmp_path / "data", synthetic=False)
    run = write_run(tmp_path / "run", private=False, dataset=data)
    with pytest.raises(UsageError, match="--contact-sheet-permission"):
        page_of(tmp_path, SHEET, data, run)
    assert not (tmp_path / "page.html").exists()
    page = page_of(tmp_path, ALLOWED, data, run)
    assert picture_in(page).max() == 200
    assert "Shown by: CC BY 4.0 &lt;b&gt;of the hospital&lt;/b&gt;." in page


@pytest.mark.parametrize("known", [True, False])
def test_real_images_of_a_private_run_are_refused_whatever_the_permission(tmp_path, known):
    data = dataset_with_images(tmp_path / "data", synthetic=False)
    plain = write_run(tmp_path / "plain", private=False, dataset=data)
    private = write_run(tmp_path / "private", private=True, dataset=data if known else None)
    page_of(tmp_path, ALLOWED, data, plain, name="plain.html")
    with pytest.raises(PrivacyRefusal, match="never shown"):
        page_of(tmp_path, ALLOWED, data, plain, private)
    assert not (tmp_path / "page.html").exists()


def test_real_images_do_not_go_into_a_release(tmp_path):
    data = dataset_with_images(tmp_path / "data", synthetic=False)
    run = write_run(tmp_path / "run", private=False, dataset=data)
    with pytest.raises(UsageError, match="into a release"):
        page_of(tmp_path, ALLOWED, data, run, name="run/release/report.html")
    assert not (run / "release" / "report.html").exists()


def test_another_dataset_than_the_runs_own_is_refused(tmp_path, synthetic):
    other = dataset_with_images(tmp_path / "other", level=77)
    (other / "manifest.csv").write_text((other / "manifest.csv").read_text().replace(",60", ",61"))
    with pytest.raises(UsageError, match="no run was given together with its dataset"):
        page_of(tmp_path, SHEET, other, synthetic[1])


def test_an_image_that_was_changed_is_refused(tmp_path):
    data = dataset_with_images(tmp_path / "data")
    integrity.write(data, integrity.measured(data, sorted(data.rglob("*.*"))))
    run = write_run(tmp_path / "run", private=False, dataset=data)
    page_of(tmp_path, SHEET, data, run, name="before.html")
    case = contact_sheet.chosen(Manifest.read(data).split("train").cases, 1)[0]
    png.write(data / case.image, Image(np.zeros((1, 32, 32), dtype=np.uint8)))
    with pytest.raises(DataError, match="the file that was prepared"):
        page_of(tmp_path, SHEET, data, run)


def test_the_settings_are_checked():
    with pytest.raises(ConfigError, match="at most 64"):
        ReportConfig(contact_sheet=65)
    with pytest.raises(ConfigError, match="contact_sheet"):
        ReportConfig(contact_sheet_permission="CC0")


@pytest.mark.parametrize(
    "array",
    [
        np.full((1, 20, 40), 9, dtype=np.uint16),
        np.zeros((3, 300, 100), dtype=np.uint8),
        np.full((4, 30, 20, 10), np.nan, dtype=np.float32),
        np.zeros((1, 1, 1), dtype=np.uint8),
    ],
    ids=["grey16", "colour", "volume-of-nothing", "one-pixel"],
)
def test_every_stored_image_becomes_a_tile(array, monkeypatch):
    monkeypatch.setattr(contact_sheet.load, "load", lambda path: Image(array))
    monkeypatch.setattr(contact_sheet.files, "below", lambda root, name, where: root)

    class Checked:
        root = None

        def check_file(self, name):
            pass

    class Named:
        image = "images/1.png"

    tile = contact_sheet.tile(Checked(), Named())
    assert tile.dtype == np.uint8
    assert tile.shape[-1] == 3
    assert max(tile.shape) <= 96
