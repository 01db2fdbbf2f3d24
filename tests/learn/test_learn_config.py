"""The settings: checked, documented, and the same after a trip through TOML."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from meninx.core import settings
from meninx.core.errors import ConfigError
from meninx.learn.config import LearnConfig, from_toml_table, learn_part


def test_every_field_is_described() -> None:
    for table in settings.tables(LearnConfig).values():
        described = set(re.findall(r"^ {8}(\w+):", table.__doc__ or "", flags=re.MULTILINE))
        assert described == {item.name for item in dataclasses.fields(table)}
    assert all(settings.meanings(LearnConfig).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr > 0"),
        ({"lr": float("nan")}, "lr > 0"),
        ({"batch_size": 0}, "batch_size > 0"),
        ({"views": 0}, "views > 0"),
        ({"optimizer": "adem"}, "did you mean 'adam'"),
        ({"schedule": "cosinus"}, "did you mean 'cosine'"),
        ({"augment": ("flip", "vflp")}, "did you mean 'vflip'"),
        ({"ema": 1.0}, "ema < 1"),
        ({"momentum": 1.0}, "momentum < 1"),
        ({"label_smoothing": 1.0}, "label_smoothing < 1"),
        ({"schedule": "step"}, "the step schedule needs milestones"),
        ({"schedule": "manual", "milestones": (1,), "rates": (0.1,)}, "one rate more"),
        ({"milestones": (5, 3)}, "rising"),
        ({"patch_size": (16, 0)}, "patch_size"),
        ({"class_weights": "heavy"}, "balanced"),
        ({"class_weights": (1.0, -1.0)}, "class_weights"),
        ({"crop_scale": 1.5}, "crop_scale"),
        ({"monitor": "auc"}, "monitor"),
        ({"early_stopping": -1}, "early_stopping"),
    ],
)
def test_a_value_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LearnConfig.of(**changes)


def test_settings_survive_toml() -> None:
    config = LearnConfig.of(
        model="unet",
        model_options={"base": 16},
        patch_size=(64, 64, 32),
        class_weights=(0.1, 0.4, 0.5),
        augment=("flip", "shift"),
        schedule="manual",
        milestones=(2, 4),
        rates=(0.1, 0.01, 0.001),
        ema=0.999,
    )
    table = tomllib.loads(settings.to_toml(config))
    assert from_toml_table({**table, "privacy": {"epsilon": 8}}, "recipe") == config


def test_a_subclass_is_reduced_to_its_learning_part() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class More(LearnConfig):
        name: str = "x"

    assert learn_part(More.of(lr=0.5)) == LearnConfig.of(lr=0.5)


def test_reading_the_settings_needs_no_torch() -> None:
    code = "import sys, meninx.learn.config; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options_of_a_network_keep_their_types() -> None:
    options = {"base": 16, "scale_norm": True, "norm": "group", "width": "16"}
    assert LearnConfig.of(model_options=options).model.options == options
    with pytest.raises(ConfigError, match="true or false, got text"):
        LearnConfig.of(model_options={"scale_norm": "true"})
