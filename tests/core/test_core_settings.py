"""Recipes: read, changed, written back, and never silently misspelt."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from meninx.core import settings
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError
from meninx.core.settings import Count, Positive, Settings


@dataclass(frozen=True, kw_only=True)
class Inner(Settings):
    epsilon: Positive | None = None
    unit: PrivacyUnit = PrivacyUnit.PATIENT


@dataclass(frozen=True, kw_only=True)
class Other(Settings):
    shade: Literal["light", "dark"] = "light"
    depth: Count = 3


@dataclass(frozen=True, kw_only=True)
class Outer(Settings):
    epochs: int = 3
    lr: float = 0.1
    names: tuple[str, ...] = ()
    table: Path | None = None
    privacy: Inner | None = None
    inner: Other = field(default_factory=Other)


def test_a_config_is_its_own_recipe():
    config = Outer(
        epochs=7, names=("a", "b"), table=Path("x.csv"), privacy=Inner(epsilon=8.0, unit=PrivacyUnit.CASE)
    )
    import tomllib

    assert settings.build(Outer, tomllib.loads(settings.to_toml(config)), "config.toml") == config


def test_a_misspelt_key_names_file_and_key_and_suggests():
    with pytest.raises(ConfigError, match=r"'epoch'.*mine\.toml.*did you mean 'epochs'"):
        settings.build(Outer, {"epoch": 3}, "mine.toml")
    with pytest.raises(ConfigError, match=r"'privacy.epsilom'.*mine\.toml.*did you mean 'privacy.epsilon'"):
        settings.build(Outer, {"privacy": {"epsilom": 3}}, "mine.toml")


@pytest.mark.parametrize(("table", "message"), [
    ({"epochs": "three"}, "type int"), ({"privacy": {"epsilon": -1}}, "epsilon > 0"),
    ({"privacy": {"unit": "image"}}, "case, patient"), ({"epochs": True}, "type int"), ({"lr": False}, "type float"),
    ({"names": "ab"}, "a list"), ({"names": 3}, "a list"), ({"table": 3}, "type Path"),
])  # fmt: skip
def test_a_value_out_of_range_names_the_file(table, message):
    with pytest.raises(ConfigError, match=message):
        settings.build(Outer, table, "mine.toml")


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="recipe name"):
        settings.read_recipe("no-such-recipe-at-all")
