"""From the settings of a private run to its plan: every privacy setting arrives there."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest

from meninx.core.budget import CLIPPINGS
from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.core.manifest import Manifest
from meninx.privacy import plan
from meninx.privacy.plan import Plan
from meninx.train import planning
from meninx.train.config import PrivacyConfig, TrainConfig


def planned(data: Manifest, **terms: Any) -> Plan:
    privacy = PrivacyConfig(**{"noise_multiplier": 1.0, "delta": 1e-3, **terms})
    plan = planning.make_plan(TrainConfig.of(batch_size=4, steps=3, privacy=privacy), data)
    assert plan is not None
    return plan


def test_the_clippings_are_those_of_the_plan() -> None:
    assert get_args(get_type_hints(PrivacyConfig)["clipping"]) == CLIPPINGS == plan.CLIPPINGS


@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_every_clipping_makes_a_plan(clipping: str, data: Manifest) -> None:
    assert planned(data, clipping=clipping).clipping == clipping


def test_adaptive_clipping_takes_its_numbers_and_the_others_have_none(data: Manifest) -> None:
    plan = planned(data, clipping="adaptive", clip_quantile=0.7, clip_rate=0.1, count_noise_multiplier=9.0)
    assert (plan.clip_quantile, plan.clip_rate, plan.count_noise_multiplier) == (0.7, 0.1, 9.0)
    default = planned(data, clipping="adaptive")
    assert (default.clip_quantile, default.clip_rate) == (0.5, 0.2)
    assert default.count_noise_multiplier is not None
    assert default.gradient_noise_multiplier > default.noise_multiplier
    assert planned(data, clip_quantile=0.7).clip_quantile is None


def test_correlated_noise_arrives(data: Manifest) -> None:
    assert planned(data, noise_bands=3).noise_bands == 3
    assert planned(data).noise_bands == 1
    with pytest.raises(PrivacyRefusal, match="adaptive"):
        planned(data, noise_bands=3, clipping="adaptive")


def test_every_privacy_setting_changes_the_plan(data: Manifest) -> None:
    before = planned(data, clipping="adaptive").fingerprint()
    other = {
        "noise_multiplier": 2.0,
        "delta": 1e-4,
        "unit": "case",
        "max_grad_norm": 2.0,
        "clipping": "flat",
        "units_declared": 50,
        "clip_quantile": 0.6,
        "clip_rate": 0.3,
        "count_noise_multiplier": 20.0,
    }
    assert {*other, "epsilon", "noise_bands"} == {item.name for item in dataclasses.fields(PrivacyConfig)}
    for name, value in other.items():
        assert planned(data, **{"clipping": "adaptive", name: value}).fingerprint() != before, name


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"clipping": "automatic"}, "clipping"),
        ({"clip_quantile": 1.0}, "clip_quantile"),
        ({"clip_rate": 0.0}, "clip_rate"),
        ({"count_noise_multiplier": -1.0}, "count_noise_multiplier"),
        ({"noise_bands": 0}, "noise_bands"),
    ],
)
def test_numbers_out_of_range_are_refused(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrivacyConfig(epsilon=8.0, **terms)
