"""Settings of a study: they survive the file, and what a study may not ask of a site is refused."""

from __future__ import annotations

import tomllib

import pytest

from meninx.core import settings
from meninx.core.errors import ConfigError
from meninx.core.intensity import Intensity
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.federated.config import DataConfig, StudyConfig, without_length
from meninx.train.config import TrainConfig

INFO = DatasetInfo(name="chest", task=TaskKind.MULTILABEL, labels=("effusion", "nodule"), size=(32, 32))


def _config(**changes: object) -> StudyConfig:
    train = {"model": "resnet9-small", "epsilon": 8.0, "delta": 1e-3}
    return StudyConfig.of(**{"name": "chest", "rounds": 5, "train": train} | changes)


def test_a_study_file_is_read_back_as_it_was_written():
    config = _config(
        data_task="multilabel", labels=("effusion",), size=(32, 32), sites=("north", "east", "west")
    )
    text = settings.to_toml(config)
    assert settings.build(StudyConfig, tomllib.loads(text), "study.toml") == config


def test_the_rounds_give_the_length_of_the_training():
    assert _config(local_epochs=3).training.sampling.epochs == 15
    assert _config(local_steps=7).training.sampling.steps == 35
    assert _config().training.privacy.epsilon == 8.0


def test_settings_of_the_recipe_and_single_ones_meet_in_the_training(tmp_path):
    (tmp_path / "mine.toml").write_text("epochs = 4\n[sampling]\nbatch_size = 16\n[optim]\nlr = 0.1\n")
    layer = ({"name": "chest", "rounds": 5, "train": {"lr": 0.5}}, "the command line")
    config = settings.resolve_recipe(StudyConfig, str(tmp_path / "mine.toml"), layer)
    assert config.training == TrainConfig.of(batch_size=16, lr=0.5, epochs=5)
    assert config.study.recipe == "mine"


def test_the_file_of_a_study_is_a_recipe_for_the_next_one_of_another_length(tmp_path):
    first = _config(data_task="multilabel", labels=("effusion",), sites=("a", "b", "c")).resolved()
    (tmp_path / "study.toml").write_text(settings.to_toml(first))
    layer = ({"rounds": 9}, "the command line")
    again = settings.resolve_recipe(StudyConfig, str(tmp_path / "study.toml"), layer)
    assert again.training == first.training.replace(epochs=9)
    assert (again.sites, again.data) == (first.sites, first.data)


def test_length_and_name_of_a_recipe_do_not_count():
    recipe = {"name": "x", "epochs": 4, "sampling": {"epochs": 9, "batch_size": 16}}
    assert without_length(recipe) == {"sampling": {"batch_size": 16}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../chest"}, "name"),
        ({"name": "Chest"}, "name"),
        ({"name": "a" * 41}, "name"),
        ({"sites": ("north", "north")}, "twice"),
        ({"sites": ("no/rth",)}, "sites"),
        ({"sites": tuple(f"s{number}" for number in range(33))}, "at most 32"),
        ({"rounds": 0}, "0 < rounds <= 10000"),
        ({"rounds": 10**18}, "0 < rounds <= 10000"),
        ({"local_steps": 10**18}, "local_steps"),
        ({"mu": 0.1}, "no mu"),
        ({"turns": "batch"}, "no turns"),
        ({"algorithm": "cyclic"}, "aggregation plain"),
        ({"algorithm": "cyclic", "aggregation": "plain", "turns": "batch"}, "local-steps"),
        ({"sites": ("north", "east")}, "needs 3 sites"),
        ({"train": {"select": "best"}}, "one common model"),
        ({"train": {"early_stopping": 2}}, "one common model"),
        ({"train": {"ema": 0.9}}, "one common model"),
        ({"address": "hospital"}, "address"),
        ({"address": "hospital:0"}, "port"),
        ({"address": "hospital:99999"}, "port"),
        ({"address": "evil/@host:443"}, "address"),
        ({"labels": ("=cmd",)}, "label"),
        ({"labels": ("a", "a"), "data_task": "multilabel"}, "twice"),
        ({"window": (3.0, 1.0)}, "lowest first"),
        ({"bits": 16}, "bits"),
        ({"bits": 64, "aggregation": "ckks"}, "ckks adds no integers up"),
        ({"bits": 32, "aggregation": "plain"}, "plain adds no integers up"),
        ({"clip": 0.0}, "clip"),
        ({"local_layers": ("\x1b[2J",)}, "control"),
        ({"train": {"epochs": 3}}, "rounds times local_epochs"),
        ({"train": {"steps": 3}}, "rounds times local_steps"),
        ({"train": {"pretrained": "/etc/passwd"}}, "files of a site"),
        ({"train": {"pretrained": "package:x", "standardize": "/home"}}, "folders of a site"),
        ({"train": {"device": "cuda:1"}}, "belongs to the site"),
        ({"train": {"cache": "20 GB"}}, "belongs to the site"),
        ({"train": {"epsilon": 3.0, "noise_multiplier": 1.0}}, "both given"),
        ({"train": {"epsilom": 3.0}}, "did you mean 'epsilon'"),
    ],
)
def test_what_a_study_may_not_say_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        _config(**changes)


def test_cyclic_and_fedprox_take_their_own_settings():
    assert (
        _config(algorithm="cyclic", turns="batch", local_steps=2, aggregation="plain").study.turns == "batch"
    )
    assert _config(algorithm="fedprox").study.proximal == 0.01
    assert _config(algorithm="fedprox", mu=0.0).study.proximal == 0.0
    assert _config().study.proximal == 0.0


def test_the_address_has_a_host_and_a_port():
    terms = _config(address="coordinator.example.org:8443").study
    assert (terms.host, terms.port) == ("coordinator.example.org", 8443)


def test_a_dataset_is_compared_fact_by_fact():
    facts = DataConfig.of_dataset(INFO)
    assert facts.differences(INFO) == ()
    assert facts.info().labels == INFO.labels
    other = DatasetInfo(
        name="other",
        task=TaskKind.MULTILABEL,
        labels=("nodule", "effusion"),
        size=(64, 64),
        intensity=Intensity(window=(0.0, 65535.0), shift=1.0, scale=2.0),
    )
    found = facts.differences(other)
    assert len(found) == 5
    assert found[0] == "labels is nodule, effusion, the study has effusion, nodule"


def test_a_study_without_facts_cannot_be_learned():
    with pytest.raises(ConfigError, match="--like"):
        DataConfig().info()
