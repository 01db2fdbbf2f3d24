"""A setting without effect is refused: whoever gave it meant something by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prepare_fixtures as make
import pytest
import segmentation_fixtures as segmentations
from layout_makers import LAYOUTS

from meninx.core import settings
from meninx.core.errors import ConfigError
from meninx.prepare.config import CLASS_COLUMN, EFFECTS, READER_NAMES, PrepareConfig
from meninx.prepare.readers import READERS
from meninx.prepare.stage import run

MASKS = {"task": "segmentation"}
SKEW = {"site_mode": "label-skew", "sites": ("a", "b")}
# A value that is not the default, and the other settings that give it an effect.
SAMPLES: dict[str, tuple[Any, dict[str, Any]]] = {
    "table": ("t.csv", {}),
    "crosswalks": (("c.csv",), {}),
    "require": (("a=b",), {}),
    "image_column": ("x", {}),
    "image_folder": ("x", {}),
    "patient_column": ("x", {}),
    "study_column": ("x", {}),
    "site_column": ("x", {"site_mode": "column"}),
    "split_column": ("x", {"split": "published"}),
    "label_columns": (("a",), {}),
    "class_column": ("x", {}),
    "classes": (("a",), {}),
    "positive": (("a",), {}),
    "positive_name": ("x", {"positive": ("a",)}),
    "positive_from": (3.0, {}),
    "uncertain": ("one", {}),
    "blank": ("zero", {}),
    "several_rows": ("any", {}),
    "sex_column": ("x", {}),
    "age_column": ("x", {}),
    "sex_codes": (("1=F",), {}),
    "attribute_columns": (("x",), {}),
    "mask_column": ("x", MASKS),
    "mask_folder": ("x", MASKS),
    "mask_labels": (("a",), MASKS),
    "mask_empty": ("zero", MASKS),
    "mask_overlap": ("last", MASKS),
    "mask_object": ("seg", MASKS),
    "mask_series": ("x", MASKS),
    "channels": (("a",), {}),
    "entities": (("run-1",), {}),
    "malignant": (True, {}),
    "laterality": (("a=b",), {}),
    "modalities": (("CT",), {}),
    "trusted": (True, {}),
    "allow_missing": (0.5, {}),
    "synthetic": (True, {}),
    "spatial_dims": (3, {}),
    "size": ((8,), {}),
    "aspect": ("pad", {"size": (8,)}),
    "spacing_mm": ((1.0,), {}),
    "window": ((0.0, 9.0), {}),
    "bits": (16, {}),
    "color": ("rgb", {}),
    "intensity": ("image", {}),
    "split": ("exact", {}),
    "fractions": ((0.5, 0.2, 0.3), {}),
    "split_from": ("x", {}),
    "sites": (("a", "b"), {"site_mode": "iid"}),
    "site_mode": ("iid", {"sites": ("a", "b")}),
    "site_fractions": ((0.4, 0.6), SKEW),
    "site_alpha": (0.5, SKEW),
    "seed": (1, {}),
    "limit": (1, {}),
    "duplicates": ("drop", {}),
    "dry_run": (True, {}),
    "overwrite": (True, {}),
    "resume": (True, {}),
    "strict": (True, {}),
    "workers": (2, {}),
    "task": ("segmentation", {}),
    "name": ("x", {}),
}


def settings_of(name: str, reader: str) -> dict[str, Any]:
    value, beside = SAMPLES[name]
    if name in ("classes", "positive", "positive_name") and reader in CLASS_COLUMN:
        beside = {**beside, "class_column": "kind"}
    if name in ("positive_from", "uncertain", "blank") and reader == "bids":
        beside = {**beside, "label_columns": ("a",)}  # else its masks are read
    return {**beside, name: value}


def test_every_field_is_classified():
    names = set(settings.index(PrepareConfig))
    assert set(EFFECTS) == names
    assert set(SAMPLES) == names - {"reader"}
    assert all(set(effect.readers) <= set(READER_NAMES) for effect in EFFECTS.values())
    assert all(settings.default_of(PrepareConfig, name) != value for name, (value, _) in SAMPLES.items())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_setting_is_taken_by_the_readers_that_use_it_and_refused_by_the_others(name):
    for reader in READER_NAMES:
        if not EFFECTS[name].readers or reader in EFFECTS[name].readers:
            PrepareConfig.of(reader=reader, **settings_of(name, reader))
        else:
            with pytest.raises(ConfigError, match="no effect"):
                PrepareConfig.of(reader=reader, **settings_of(name, reader))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, effect in EFFECTS.items()
        if effect.needs and SAMPLES[name][1] and name != "site_fractions"
    ],
)
def test_a_setting_without_what_gives_it_effect_is_refused_with_what_would(name):
    reader = (EFFECTS[name].readers or READER_NAMES)[0]
    value, beside = SAMPLES[name]
    if beside == MASKS and name != "mask_empty":
        beside = {"task": "multilabel"}
    elif beside is SKEW and name == "site_alpha":
        beside = {"site_mode": "iid", "sites": ("a", "b")}
    else:
        beside = {}
    with pytest.raises(ConfigError, match=rf"{name} has no effect.*; .*give"):
        PrepareConfig.of(reader=reader, **beside, **{name: value})


@pytest.fixture
def seen(monkeypatch) -> set[str]:
    """The flat names of the settings that are looked at."""
    names: set[str] = set()
    for name, (path, item) in settings.index(PrepareConfig).items():
        owner = settings.tables(PrepareConfig)[path[0]] if len(path) > 1 else PrepareConfig

        def look(config: Any, key: str, *, of: type = owner) -> Any:
            names.update(flat for flat, place in PLACES.items() if place == (of, key))
            return object.__getattribute__(config, key)

        PLACES[name] = (owner, item.name)
        monkeypatch.setattr(owner, "__getattribute__", look, raising=False)
    return names


def with_segmentation(root: Path) -> Path:
    """Return the archive with a SEG object, so that a reader looks at the settings that choose among them."""
    segmentations.write_seg(root / "images" / "seg.dcm", 0, segmentations.organs(0))
    return root


PLACES: dict[str, tuple[type, str]] = {}
MAKERS = {
    "dicom": lambda root: with_segmentation(make.make_dicom(root / "north")),
    "pairs": make.make_pairs,
    "msd": make.make_msd,
    **{reader: maker for reader, maker, _ in LAYOUTS.values()},
    "nnunet": segmentations.make_nnunet,
    "brats": segmentations.make_brats,
    "bids": segmentations.make_bids,
    "totalsegmentator": segmentations.make_totalsegmentator,
}
ALONE = {
    "dicom": {"table": "../north.csv"}, "csv": {"label_columns": ("effusion", "nodule")},
    "padchest": {"label_columns": ("cardiomegaly",)},
}  # fmt: skip
CLASSES = {
    "dicom": {"table": "../north.csv", "class_column": "effusion"}, "csv": {"class_column": "kind"},
    "brset": {"class_column": "DR_ICDR"}, "isic-2020": {"class_column": "diagnosis"}, "npz": {},
    "padchest": {"label_columns": ("cardiomegaly",)}, "bids": {"class_column": "group"},
}  # fmt: skip
SEGMENTED = {
    "dicom": {"table": "../north.csv", **MASKS}, "csv": MASKS,
    "padchest": {"label_columns": ("cardiomegaly",)},
}  # fmt: skip


@pytest.mark.parametrize("reader", READER_NAMES)
def test_every_reader_that_is_named_for_a_setting_looks_at_it(tmp_path, reader, seen):
    """Plans are made elsewhere: ``mask_empty`` and the columns of sites belong to the stage."""
    root = MAKERS[reader](tmp_path)
    found: set[str] = set()
    for given in (ALONE.get(reader, {}), CLASSES.get(reader, {}), SEGMENTED.get(reader, {})):
        config = PrepareConfig.of(reader=reader, **given)
        seen.clear()
        READERS[reader](root, config, "")
        found |= seen
    named = {name for name, effect in EFFECTS.items() if reader in effect.readers}
    stage = {"mask_empty", *({"channels"} if reader in ("pairs", "csv", "folder") else ())}
    of_some_cells = {"positive_name", "positive_from", "uncertain", "blank", "mask_overlap"}
    assert named - stage - of_some_cells <= found


@pytest.mark.parametrize(
    ("reader", "given", "told"),
    [
        (
            "csv",
            {"label_columns": ("effusion",), "split_column": "split"},
            "split_column.*give split published",
        ),
        ("mimic", {"class_column": "nonsense"}, "class_column.*reader mimic"),
        ("csv", {"label_columns": ("effusion",), "site_column": "hospital"}, "give site_mode column"),
        ("csv", {"label_columns": ("effusion",), "class_column": "kind"}, "label_columns"),
        ("nih", {"task": "segmentation"}, "task.*this source gives the task multilabel"),
        ("csv", {"label_columns": ("effusion",), "spacing_mm": (1.0,)}, "spacing_mm.*pictures"),
        ("pairs", {"size": (4,), "aspect": "pad"}, "aspect.*volumes"),
        ("msd", {"window": (0.0, 1.0), "bits": 16}, "bits.*keep its units"),
        ("csv", {"label_columns": ("effusion",), "laterality": ("effusion=left",)}, "laterality"),
        (
            "csv",
            {"label_columns": ("effusion",), "window": (0.0, 9.0), "intensity": "image"},
            "window.*give intensity window",
        ),
    ],
)
def test_what_silently_did_nothing_is_refused(tmp_path, reader, given, told):
    root = MAKERS[reader](tmp_path / "in")
    with pytest.raises(ConfigError, match=told):
        run(PrepareConfig.of(reader=reader, **given), root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
