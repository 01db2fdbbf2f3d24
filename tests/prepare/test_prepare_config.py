from __future__ import annotations

import dataclasses

import pytest

from meninx.core import settings
from meninx.core.errors import ConfigError
from meninx.prepare.config import PIXEL_FIELDS, WORK_FIELDS, PrepareConfig
from meninx.prepare.setting_tables import WorkConfig


@pytest.mark.parametrize(
    "values",
    [
        {"reader": "dicoms"},
        {"task": "regression"},
        {"bits": 12},
        {"bits": 16, "color": "rgb"},
        {"size": (0,)},
        {"spacing_mm": (1.0, -1.0, 1.0)},
        {"window": (200.0, -150.0)},
        {"intensity": "window"},
        {"fractions": (0.5, 0.5)},
        {"fractions": (0.9, 0.2, -0.1)},
        {"site_mode": "iid"},
        {"site_mode": "column"},
        {"sites": ("a", "a"), "site_mode": "iid"},
        {"sites": ("a", "b"), "site_mode": "iid", "site_fractions": (0.5, 0.6)},
        {"require": ("view",)},
        {"resume": True, "overwrite": True},
        {"split": "published", "split_from": "older"},
        {"limit": -1},
    ],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ConfigError):
        PrepareConfig.of(**values)


def test_every_setting_has_help():
    assert all(settings.meanings(PrepareConfig).values())


def test_named_groups_of_settings_exist():
    names = set(settings.index(PrepareConfig))
    assert set(PIXEL_FIELDS) <= names
    of_images = {name for name, (path, _) in settings.index(PrepareConfig).items() if path[0] == "images"}
    assert of_images <= set(PIXEL_FIELDS)  # else --resume would keep images made under another value
    assert set(WORK_FIELDS) <= names
    assert {item.name for item in dataclasses.fields(WorkConfig)} == set(WORK_FIELDS)


def test_a_config_survives_a_recipe():
    config = PrepareConfig.of(
        reader="csv", size=(64,), window=(-150.0, 200.0), require=("a=b",), positive_from=3.0
    )
    assert settings.build(PrepareConfig, settings.to_table(config), "recipe") == config
