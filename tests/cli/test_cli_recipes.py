"""A recipe means the same on the command line, as a file and in Python; types of TOML reach the network."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from meninx import api
from meninx.cli.app import app_for
from meninx.cli.flags import value_of, without_tables
from meninx.core import setting_types, settings
from meninx.core.errors import ConfigError
from meninx.models import registry
from meninx.synthetic import write_dataset
from meninx.train.config import TrainConfig

STUDY = Path(__file__).resolve().parents[2] / "benchmarks" / "study" / "recipes"
RECIPES = [*settings.recipe_names(), *(str(path) for path in sorted(STUDY.glob("*.toml")))]


class FakeResult:
    """The result of a stage that did not run."""

    def summary(self) -> str:
        return ""

    def alerts(self) -> tuple[str, ...]:
        return ()


def on_the_command_line(line: str) -> Any:
    """The resolved config of a command."""
    words, seen = without_tables(shlex.split(line)), []
    app, _ = app_for(words)
    run = patch("meninx.train.stage.run", lambda config, *given, **named: seen.append(config) or FakeResult())
    with run, patch("meninx.cli.early.dataset"):
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
    return seen[0]


def shapes(config: TrainConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors, without memory for them."""
    dims = len(config.model.patch_size) or 2
    with torch.device("meta"):
        network = registry.build(
            config.model.name, spatial_dims=dims, in_channels=1, out_channels=1, **config.model.options
        )
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_there_are_recipes_of_both_kinds():
    assert len(RECIPES) > 25
    assert any("[model.options]" in settings.to_toml(api._train_config(name, {})) for name in RECIPES)


@pytest.mark.parametrize(
    "name", RECIPES, ids=lambda name: Path(name).stem if "/" in name else f"packaged-{name}"
)
def test_command_line_file_and_python_give_the_same_config_and_network(name):
    line = on_the_command_line(f"train data --recipe {shlex.quote(name)}")
    table, source = settings.read_recipe(name)
    assert line == settings.build(TrainConfig, table, source) == api._train_config(name, {})
    again = settings.build(TrainConfig, tomllib.loads(settings.to_toml(line)), "config.toml")
    assert again == line
    assert {key: type(value) for key, value in line.model.options.items()} == {
        key: type(value) for key, value in table["model"].get("options", {}).items()
    }
    assert shapes(line) == shapes(again)


def test_the_study_s_pneumonia_network_is_the_one_of_its_recipe():
    config = on_the_command_line(f"train data --recipe {STUDY / 'kermany64.toml'}")
    with torch.device("meta"):
        network = registry.build(
            config.model.name, spatial_dims=2, in_channels=1, out_channels=1, **config.model.options
        )
    assert sum(value.numel() for value in network.parameters()) == 308_497
    stem = on_the_command_line(
        f"train data --recipe {STUDY / 'kermany64.toml'} --model-options.small-stem true"
    )
    assert stem.model.options == {"small_stem": True}
    assert shapes(stem) != shapes(config)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False), ("true", True), ("False", False), ("True", True), ("16", 16), ("0.5", 0.5),
        ("[1, 2]", [1, 2]), ("group", "group"), ("'16'", "16"), ("", ""), ("1\nother = 2", "1\nother = 2"),
        ("2020-01-01", "2020-01-01"),
    ],
)  # fmt: skip
def test_an_option_given_as_a_flag_is_read_as_toml(text, value):
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))
    config = on_the_command_line(shlex.join(["train", "data", f"--model-options.small-stem={text}"]))
    assert config.model.options == {"small_stem": value}


def test_flags_win_over_the_recipe_option_by_option(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[model]\noptions = { base = 16, act = "16", kernels = [1, 2] }\n[sampling]\nepochs = 3\n'
    )
    config = on_the_command_line(f"train data --recipe {recipe} --model-options.base 8 --epochs 4")
    assert config.model.options == {"base": 8, "act": "16", "kernels": [1, 2]}
    assert config.sampling.epochs == 4


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
        TrainConfig.of(model_options={"small_stem": "False"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[sampling]\nepochs = "3"', "type int"), ("[sampling]\nepochs = true", "type int"),
        ("[optim]\nlr = false", "type float"), ('[optim]\nlr = "1e-3"', "type float"),
        ('[runtime]\ndeterministic = "false"', "type bool"), ("name = 5", "type str"),
        ("[augment]\ntransforms = true", "a list"), ('[model]\nimage_size = "64"', "type int"),
        ("[sampling]\nbatch-size = 4", "'sampling.batch_size'"), ('[privacy]\nepsilon = "8"', "type float"),
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


def test_an_old_recipe_is_converted_to_one_that_means_the_same(invoke, tmp_path):
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(
        '# Mine.\n# Second line.\nmodel = "unet"\nlr = 0.5\nmodel_options = { base = 8, act = "16" }\n'
        'augment = ["flip"]\nsampling = "poisson"\nname = "mine"\n[privacy]\nepsilon = 3.0\n'
    )
    assert invoke("recipes", "--convert", old, "--copy", new).out == f"{new}\n"
    text = new.read_text()
    assert text.startswith('# Mine.\n# Second line.\nname = "mine"\n')
    assert "[model.options]" in text
    with pytest.warns(settings.OldLayout):
        before = settings.resolve_recipe(TrainConfig, str(old))
    assert settings.resolve_recipe(TrainConfig, str(new)) == before
    assert invoke("recipes", "--convert", new).out == text


def test_a_conversion_refuses_a_key_that_no_setting_has(invoke, tmp_path):
    (tmp_path / "old.toml").write_text("epoch = 3\n")
    said = invoke("recipes", "--convert", tmp_path / "old.toml")
    assert (said.code, said.out) == (2, "")
    assert "did you mean 'epochs'?" in said.err


def test_the_schema_is_printed_for_editors(invoke):
    schema = json.loads(invoke("recipes", "--schema").out)
    assert {"model", "optim", "privacy"} <= schema["$defs"]["TrainConfig"]["properties"].keys()


def test_a_packaged_recipe_is_in_tables():
    for name in RECIPES:
        table, source = settings.read_recipe(name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            settings.warn_of_old_layout(TrainConfig, table, source)


def test_every_flag_shows_its_choices_and_the_table_it_belongs_to(invoke):
    text = " ".join(invoke("train", "--help").out.replace("│", " ").split())
    for table in settings.tables(TrainConfig):
        assert f"Settings [{table}]" in text
    for name, (_, item) in settings.index(TrainConfig).items():
        assert f"--{name.replace('_', '-')}" in text
        if setting_types.is_mixed(item.hint):
            assert (
                f"[{', '.join(setting_types.choices(item.hint))} or {setting_types.bounds(item.hint)}]"
                in text
            )
        elif setting_types.choices(item.hint):
            assert f"[choices: {', '.join(setting_types.choices(item.hint))}]" in text


def test_class_weights_are_a_word_or_numbers():
    for words in ("0.1 0.4", "0.1,0.4"):
        line = f"train data --class-weights {words}"
        assert on_the_command_line(line).task.class_weights == (0.1, 0.4)
    assert on_the_command_line("train data --class-weights balanced").task.class_weights == "balanced"
    with pytest.raises(ConfigError, match="none, balanced or numbers, got 'heavy'"):
        on_the_command_line("train data --class-weights heavy")


def test_a_word_or_a_number_is_read_as_such():
    assert on_the_command_line("train data --workers 2").runtime.workers == 2
    assert on_the_command_line("train data --workers auto").runtime.workers == "auto"
    for text, message in (("-1", "workers >= 0, got -1"), ("many", "auto or a number, got 'many'")):
        with pytest.raises(ConfigError, match=message):
            on_the_command_line(f"train data --workers={text}")


def test_a_flag_may_name_its_table():
    line = "train data --optim.lr 0.5 --privacy.epsilon=3 --model-options.a.b 1 --runtime.no-attack-risk"
    config = on_the_command_line(line)
    assert config == TrainConfig.of(lr=0.5, epsilon=3.0, model_options={"a": {"b": 1}}, attack_risk=False)


def described(name: str) -> tuple[str, str]:
    """The first line of a packaged recipe, and all of its comments."""
    lines = (Path(settings.__file__).parents[1] / "recipes" / f"{name}.toml").read_text().splitlines()
    return lines[0], "\n".join(line for line in lines if line.startswith("#"))


MEASURED = re.compile(r"Test (AUROC|Dice) (\d\.\d+)")
BASELINE = re.compile(r"PCA and logistic[\s#]+regression\D* (\d\.\d+)")


@pytest.mark.parametrize("name", settings.recipe_names())
def test_a_packaged_recipe_beats_the_baseline_or_says_in_its_first_line_that_it_does_not(name: str):
    first, comments = described(name)
    measured, baseline = MEASURED.search(comments), BASELINE.search(comments)
    if measured is None or (measured[1] == "AUROC" and baseline is None):
        assert re.search(r"not measured here|not for results|below (PCA|it) on", first), first
    elif baseline is not None:
        assert float(measured[2]) > float(baseline[1]) or "below PCA" in first
    assert len(first) <= 140
