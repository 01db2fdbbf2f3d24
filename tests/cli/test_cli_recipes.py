"""A recipe means the same on the command line, as a file and in Python; types of TOML reach the network."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from meninx import api
from meninx.cli.app import app_for
from meninx.cli.typed import value_of
from meninx.core import settings
from meninx.core.errors import ConfigError
from meninx.models import registry
from meninx.synthetic import write_dataset
from meninx.train.config import TrainConfig

STUDY = Path(__file__).resolve().parents[2] / "benchmarks" / "study" / "recipes"
RECIPES = [*settings.recipe_names(), *(str(path) for path in sorted(STUDY.glob("*.toml")))]


def on_the_command_line(line: str) -> Any:
    """The resolved config of a command."""
    words = shlex.split(line)
    app, _ = app_for(words)
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return bound.arguments.get("config", TrainConfig())


def shapes(config: TrainConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors, without memory for them."""
    dims = len(config.patch_size) or 2
    with torch.device("meta"):
        network = registry.build(
            config.model, spatial_dims=dims, in_channels=1, out_channels=1, **config.model_options
        )
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_there_are_recipes_of_both_kinds():
    assert len(RECIPES) > 25
    assert any("[model_options]" in settings.to_toml(api._train_config(name, {})) for name in RECIPES)


@pytest.mark.parametrize(
    "name", RECIPES, ids=lambda name: Path(name).stem if "/" in name else f"packaged-{name}"
)
def test_command_line_file_and_python_give_the_same_config_and_network(name):
    line = on_the_command_line(f"train data --recipe {shlex.quote(name)}")
    table, source = settings.read_recipe(name)
    assert line == settings.build(TrainConfig, table, source) == api._train_config(name, {})
    again = settings.build(TrainConfig, tomllib.loads(settings.to_toml(line)), "config.toml")
    assert again == line
    assert {key: type(value) for key, value in line.model_options.items()} == {
        key: type(value) for key, value in table.get("model_options", {}).items()
    }
    assert shapes(line) == shapes(again)


def test_the_study_s_pneumonia_network_is_the_one_of_its_recipe():
    config = on_the_command_line(f"train data --recipe {STUDY / 'kermany64.toml'}")
    with torch.device("meta"):
        network = registry.build(
            config.model, spatial_dims=2, in_channels=1, out_channels=1, **config.model_options
        )
    assert registry.parameter_count(network) == 308_497
    stem = on_the_command_line(
        f"train data --recipe {STUDY / 'kermany64.toml'} --model-options.small-stem true"
    )
    assert stem.model_options == {"small_stem": True}
    assert shapes(stem) != shapes(config)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False), ("true", True), ("False", False), ("True", True), ("16", 16), ("0.5", 0.5), ("[1, 2]", [1, 2]),
        ("group", "group"), ("'16'", "16"), ("", ""), ("1\nother = 2", "1\nother = 2"), ("2020-01-01", "2020-01-01"),
    ],
)  # fmt: skip
def test_an_option_given_as_a_flag_is_read_as_toml(text, value):
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))
    config = on_the_command_line(shlex.join(["train", "data", f"--model-options.small-stem={text}"]))
    assert config.model_options == {"small_stem": value}


def test_flags_win_over_the_recipe_option_by_option(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('model_options = { base = 16, act = "16", kernels = [1, 2] }\nepochs = 3\n')
    config = on_the_command_line(f"train data --recipe {recipe} --model-options.base 8 --epochs 4")
    assert config.model_options == {"base": 8, "act": "16", "kernels": [1, 2]}
    assert config.epochs == 4


def test_the_budget_has_short_flags(invoke, tmp_path):
    write_dataset(tmp_path / "data", patients=12, size=16)
    for words in (["--epsilon", "3", "--delta", "1e-3"], ["--epsilon=3", "--delta=1e-3"]):
        said = invoke(
            "train", tmp_path / "data", "--recipe", "tiny", "--batch-size", "4", "--dry-run", *words
        )
        assert said.code == 0, said.err
        assert "epsilon = 3 at delta = 0.001" in said.out


def test_text_that_says_false_is_refused_and_never_true():
    with pytest.raises(ConfigError, match=r"true or false, got text \(model_options.small_stem\)"):
        TrainConfig(model_options={"small_stem": "False"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('epochs = "3"', "type int"), ("epochs = true", "type int"), ("lr = false", "type float"), ('lr = "1e-3"', "type float"),
        ('deterministic = "false"', "type bool"), ("name = 5", "type str"), ('augment = "flip"', "a list"),
        ("image_size = 64", "a list"), ("batch-size = 4", "'batch_size'"), (('[privacy]\nepsilon = '
                '"8"'), "type float"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_on_the_command_line_as_in_python(tmp_path, text, message):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text + "\n")
    for way in (
        lambda: on_the_command_line(f"train data --recipe {recipe}"),
        lambda: api._train_config(str(recipe), {}),
    ):
        with pytest.raises(ConfigError, match=message):
            way()
