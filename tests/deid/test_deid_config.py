from __future__ import annotations

from typing import get_args

import pytest

from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.core.settings import build, to_toml
from meninx.deid.config import DeidConfig, ProfileName
from meninx.deid.options import PRESETS, Option


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "reserach"},
        {"site": " "},
        {"workers": -1},
        {"max_age": 95},
        {"missing_lookup": "guess"},
        {"options": ("retain-all",)},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        DeidConfig(**wrong)


def test_settings_survive_a_recipe(tmp_path):
    import tomllib

    config = DeidConfig(key=tmp_path / "k", options=(Option.RETAIN_DEVICE,), workers=2)
    assert build(DeidConfig, tomllib.loads(to_toml(config)), "recipe") == config


def test_full_dates_take_the_place_of_shifted_ones():
    options = DeidConfig(options=(Option.RETAIN_FULL_DATES,)).all_options
    assert Option.RETAIN_FULL_DATES in options
    assert Option.RETAIN_MODIFIED_DATES not in options
    with pytest.raises(ConfigError):
        DeidConfig(options=(Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES))


@pytest.mark.parametrize("text", ["not toml", "PatientSex = 3", 'PatientSexx = "X"', 'PatientSex = "Q"'])
def test_wrong_overrides_are_refused(tmp_path, text):
    path = tmp_path / "o.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        DeidConfig(overrides=path).compiled()
    path.write_text('PatientID = "K"')
    with pytest.raises(PrivacyRefusal):
        DeidConfig(overrides=path).compiled()


def test_every_preset_is_a_profile():
    assert set(get_args(ProfileName)) == set(PRESETS)


def test_a_rule_for_a_missing_table_is_refused():
    with pytest.raises(ConfigError, match="missing_lookup"):
        DeidConfig(missing_lookup="quarantine")
