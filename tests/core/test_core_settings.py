"""Recipes: read, changed, written back, and never silently misspelt."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import pytest

from meninx.core import setting_types, settings
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError
from meninx.core.setting_types import Count, Positive
from meninx.core.settings import OldLayout, Settings
from meninx.learn.config import OptimizerName
from meninx.train.config import TrainConfig


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


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"epochs": "three"}, "type int"),
        ({"privacy": {"epsilon": -1}}, "epsilon > 0"),
        ({"privacy": {"unit": "image"}}, "case, patient"),
        ({"epochs": True}, "type int"),
        ({"lr": False}, "type float"),
        ({"names": 3}, "type str"),
        ({"names": True}, "a list"),
        ({"table": 3}, "type Path"),
    ],
)
def test_a_value_out_of_range_names_the_file(table, message):
    with pytest.raises(ConfigError, match=message):
        settings.build(Outer, table, "mine.toml")


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="recipe name"):
        settings.read_recipe("no-such-recipe-at-all")


@dataclass(frozen=True, kw_only=True)
class Whole(Settings):
    name: str = "run"
    inner: Inner | None = None
    other: Other = field(default_factory=Other)


def test_flat_names_tables_and_arguments_mean_the_same():
    config = Whole(inner=Inner(epsilon=8.0), other=Other(depth=5))
    assert Whole.of(epsilon=8, depth=5) == config
    assert Whole.of(inner={"epsilon": 8}, other=Other(depth=5)) == config
    assert settings.build(Whole, {"inner": {"epsilon": 8.0}, "other": {"depth": 5}}, "x.toml") == config
    assert Whole().replace(epsilon=8.0, depth=5) == config
    assert config.replace(inner=None, shade="dark").other == Other(depth=5, shade="dark")
    assert settings.to_flat(config) == {
        "name": "run", "epsilon": 8.0, "unit": "patient", "shade": "light", "depth": 5,
    }  # fmt: skip
    assert settings.flattened(Whole, settings.to_table(config)) == settings.to_flat(config)


def test_later_layers_win_key_by_key_and_each_value_is_checked_where_it_stands():
    layers = ({"other": {"depth": 5, "shade": "dark"}}, "mine.toml"), ({"depth": 7}, "the command line")
    assert settings.resolve(Whole, *layers).other == Other(depth=7, shade="dark")
    with pytest.raises(ConfigError, match=r"depth > 0, got 0 \(mine.toml, other.depth\)"):
        settings.resolve(Whole, ({"other": {"depth": 0}}, "mine.toml"), layers[1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"other": {"epsilon": 3}}, r"'other.epsilon' \(mine.toml\); did you mean 'inner.epsilon'"),
        ({"other": {"dept": 3}}, "did you mean 'other.depth'"),
        ({"othr": {"depth": 3}}, "did you mean 'other'"),
        ({"othr": 3}, "got 'othr'"),
        (
            {"other": 3},
            r"a table, got 3 \(mine.toml, other\); write the settings of other below a line \[other\]",
        ),
        ({"other": None}, "a table, got None"),
        ({"other": {"shade": "drak"}}, "shade to be one of dark, light, got 'drak'.*did you mean 'dark'"),
    ],
)
def test_a_table_or_key_that_does_not_exist_is_refused_with_a_suggestion(table, message):
    with pytest.raises(ConfigError, match=message):
        settings.build(Whole, table, "mine.toml")


def test_two_settings_with_one_flat_name_are_a_bug():
    @dataclass(frozen=True, kw_only=True)
    class Twice(Settings):
        depth: int = 3
        other: Other = field(default_factory=Other)

    with pytest.raises(TypeError, match="two settings of Twice are called depth"):
        Twice.of(depth=3)


def test_the_schema_has_the_choices_ranges_and_meanings_of_the_config():
    parts = settings.schema(TrainConfig)["$defs"]
    optim = parts["OptimConfig"]
    assert optim["properties"]["optimizer"]["enum"] == sorted(get_args(OptimizerName))
    assert optim["properties"]["lr"] == {
        "type": "number", "exclusiveMinimum": 0, "default": 0.001, "description": "learning rate.",
    }  # fmt: skip
    named = [part for part in parts.values() if part.get("type") == "object"]
    assert all(part["additionalProperties"] is False for part in named)
    described = [item for part in named for item in part["properties"].values() if "$ref" not in item]
    assert (
        sum("description" not in item for item in described) <= 1
    )  # the table of privacy, which may be absent
    choices = {
        name: setting_types.choices(item.hint) for name, (_, item) in settings.index(TrainConfig).items()
    }
    assert set(choices["augment"]) == set(parts["AugmentConfig"]["properties"]["transforms"]["items"]["enum"])


FLAT = 'model = "unet"\nlr = 0.5\nname = "mine"\nmodel_options = { base = 8 }\n[privacy]\nepsilon = 3.0\n'


def test_a_recipe_of_an_earlier_layout_is_read_with_one_warning_that_says_how_to_convert(tmp_path):
    (tmp_path / "old.toml").write_text(f"# Mine.\n{FLAT}")
    with pytest.warns(
        OldLayout, match=r"old.toml has the flat layout .*`meninx recipes --convert FILE`"
    ) as said:
        old = settings.resolve_recipe(TrainConfig, str(tmp_path / "old.toml"))
    assert len(said) == 1
    assert old == TrainConfig.of(model="unet", lr=0.5, name="mine", model_options={"base": 8}, epsilon=3.0)


def test_a_recipe_in_tables_is_read_without_a_warning(tmp_path):
    (tmp_path / "new.toml").write_text(settings.to_toml(TrainConfig.of(epsilon=3.0)))
    assert settings.resolve_recipe(TrainConfig, str(tmp_path / "new.toml")) == TrainConfig.of(epsilon=3.0)


@pytest.mark.parametrize(("given", "meant"), [("learning_rate", "lr"), ("optim.learning_rate", "optim.lr")])
def test_a_word_of_another_library_names_ours(given, meant):
    from meninx.learn.config import LearnConfig

    table, _, name = given.rpartition(".")
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        LearnConfig.of(**({table: {name: 0.1}} if table else {name: 0.1}))
