"""Settings without effect are refused by name.

Every recipe is free of them; the written config gives the same run.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from meninx.core import settings
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, UsageError
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.train import effect, stage
from meninx.train.config import EvaluateConfig, PrivacyConfig, TrainConfig
from meninx.train.planning import make_plan

STUDY = Path(__file__).parents[2] / "benchmarks" / "study" / "recipes"
TERMS = PrivacyConfig(epsilon=8.0, delta=1e-3)
ADAPTIVE = {"clip_quantile": 0.4, "clip_rate": 0.1, "count_noise_multiplier": 9.0}


def dataset(task: TaskKind, patients: int = 40, valid: int = 4) -> Manifest:
    """Return a dataset without images, for what is decided before one is read."""
    labels = ("organ", "lesion") if task is TaskKind.SEGMENTATION else ("well", "ill")
    cases = tuple(
        Case(
            case_id=f"c{n}",
            patient_id=f"p{n}",
            image=f"images/{n}.png",
            split="valid" if n < valid else "train",
        )
        for n in range(patients)
    )
    return Manifest(
        Path("nowhere"), DatasetInfo(name="small", task=task, labels=labels, size=(32, 32)), cases
    )


CLASSES, MAPS = dataset(TaskKind.MULTICLASS), dataset(TaskKind.SEGMENTATION)
IDLE = {
    "patch_size": (16, 16),
    "foreground": 0.2,
    "momentum": 0.5,
    "milestones": (1,),
    "rates": (0.1, 0.2),
    "gamma": 0.5,
    "plateau_patience": 2,
    "focal_gamma": 1.0,
    "flip_probability": 0.1,
    "shift_voxels": 2,
    "rotate_degrees": 3.0,
    "crop_scale": 0.5,
    "intensity_strength": 0.2,
    "views": 2,
    "pretrained_source": "public",
    "keep_head": True,
    "unfreeze_every": 1,
    "lora_alpha": 4.0,
    "cases_per_patient": 1,
    "bias_correction": "off",
    "bias_floor": 0.5,
    "functional": ("head",),
    "cache": "20 GB",
}


@pytest.mark.parametrize("name", IDLE)
def test_a_setting_that_does_nothing_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=rf"^{name} has no effect here"):
        effect.refuse_idle(TrainConfig().replace(**{name: IDLE[name]}), CLASSES)


@pytest.mark.parametrize(
    ("config", "data", "name"),
    [
        (TrainConfig.of(foreground=0.2), MAPS, "foreground"),
        (TrainConfig.of(foreground=0.2, patch_size=(8, 8), privacy=TERMS), MAPS, "foreground"),
        (TrainConfig.of(loss="dice", label_smoothing=0.1), MAPS, "label_smoothing"),
        (TrainConfig.of(optimizer="sgd", bias_floor=2.0, privacy=TERMS), CLASSES, "bias_floor"),
        (TrainConfig.of(bias_correction="off", bias_floor=2.0, privacy=TERMS), CLASSES, "bias_floor"),
        (
            TrainConfig.of(cases_per_patient=1, privacy=TERMS.replace(unit=PrivacyUnit.CASE)),
            CLASSES,
            "cases_per_patient",
        ),
        (TrainConfig.of(monitor="loss", privacy=TERMS), CLASSES, "monitor"),
        (
            TrainConfig.of(memory_format="channels_last"),
            replace(MAPS, info=replace(MAPS.info, spatial_dims=3, size=())),
            "memory_format",
        ),
        (TrainConfig.of(monitor="loss", select="last"), CLASSES, "monitor"),
        (TrainConfig.of(select="best"), dataset(TaskKind.MULTICLASS, valid=0), "select"),
        (TrainConfig.of(steps=3, privacy=TERMS.replace(noise_multiplier=2.0)), CLASSES, "steps"),
        (TrainConfig.of(epochs=3, privacy=TERMS.replace(noise_multiplier=2.0)), CLASSES, "epochs"),
        *(
            (TrainConfig.of(privacy=TERMS.replace(**{name: value})), CLASSES, name)
            for name, value in ADAPTIVE.items()
        ),
    ],
)
def test_it_depends_on_the_rest_of_the_settings(config, data, name):
    with pytest.raises(ConfigError, match=rf"^{name} has no effect here"):
        effect.refuse_idle(config, data)


def test_what_has_an_effect_is_accepted():
    used = [
        (TrainConfig.of(patch_size=(8, 8), foreground=0.2), MAPS),
        (TrainConfig.of(schedule="plateau", gamma=0.5, plateau_patience=2), CLASSES),
        (TrainConfig.of(schedule="manual", milestones=(1,), rates=(0.1, 0.2)), CLASSES),
        (TrainConfig.of(augment=("flip", "shift"), flip_probability=0.1, shift_voxels=2, views=2), CLASSES),
        (TrainConfig.of(loss="dice", class_weights=(1.0, 2.0, 2.0)), MAPS),
        (
            TrainConfig.of(optimizer="adam", bias_correction="off", cases_per_patient=1, privacy=TERMS),
            CLASSES,
        ),
        (TrainConfig.of(privacy=TERMS.replace(clipping="adaptive", **ADAPTIVE)), CLASSES),
        (TrainConfig.of(sampling="poisson"), CLASSES),
        (TrainConfig.of(sampling="poisson", privacy=TERMS), CLASSES),
    ]
    for config, data in used:
        effect.refuse_idle(config, data)


def recipes() -> list[str]:
    return [*settings.recipe_names(), *sorted(str(path) for path in STUDY.glob("*.toml"))]


@pytest.mark.parametrize("name", recipes(), ids=lambda name: Path(name).stem)
def test_no_recipe_has_an_idle_setting(name):
    table, source = settings.read_recipe(name)
    config = settings.build(TrainConfig, table, source)
    classes = dataset(TaskKind.MULTILABEL) if config.task.loss == "bce" else CLASSES
    effect.refuse_idle(config, MAPS if config.model.name.startswith("unet") else classes)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig.of(epochs=2, batch_size=8),
        TrainConfig.of(steps=7, batch_size=8, select="last", loss="focal", focal_gamma=1.0),
        TrainConfig.of(epochs=2, batch_size=8, privacy=TERMS),
        TrainConfig.of(batch_size=8, privacy=TERMS.replace(noise_multiplier=2.0)),
    ],
)
def test_the_written_config_is_a_recipe_of_the_same_run(config):
    plan = make_plan(config, CLASSES)
    chosen = effect.resolved(config, CLASSES, plan)
    table = tomllib.loads(effect.to_toml(chosen))
    again = settings.build(TrainConfig, table, "config.toml")
    effect.refuse_idle(again, CLASSES)
    assert again == chosen
    assert make_plan(again, CLASSES) == plan
    assert effect.resolved(again, CLASSES, plan) == chosen
    assert chosen.task.loss != "auto"
    assert chosen.validation.select != "auto"
    assert "epochs" not in table
    assert effect.total_steps(chosen.sampling, CLASSES, plan) == effect.total_steps(
        config.sampling, CLASSES, plan
    )


def test_a_cell_of_a_sweep_without_privacy_keeps_nothing_of_it():
    private = TrainConfig.of(
        cases_per_patient=1, bias_correction="off", functional=("head",), sampling="poisson", privacy=TERMS
    )
    effect.refuse_idle(effect.without_privacy(private), CLASSES)
    assert effect.without_privacy(private) == TrainConfig()


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig.of(seed=3, privacy=TERMS),
        TrainConfig.of(privacy=PrivacyConfig(noise_multiplier=1.0, delta=1e-3)),
    ],
)
def test_a_sweep_refuses_what_it_would_replace(config):
    with pytest.raises(ConfigError, match="has no effect here"):
        effect.refuse_idle_sweep(config)


@pytest.mark.parametrize(
    ("config", "task", "validation"),
    [
        (EvaluateConfig(threshold="sensitivity>=0.9"), TaskKind.SEGMENTATION, 5),
        (EvaluateConfig(threshold="sensitivity>=0.9"), TaskKind.MULTILABEL, 0),
        (EvaluateConfig(dicom=Path("clean")), TaskKind.SEGMENTATION, 5),
        (EvaluateConfig(predictions=("nifti",)), TaskKind.MULTILABEL, 5),
    ],
)
def test_an_evaluation_refuses_what_it_would_not_use(config, task, validation):
    with pytest.raises(UsageError):
        effect.refuse_idle_evaluation(config, replace(CLASSES.info, task=task), validation)


def test_every_setting_is_in_a_rule_or_always_has_an_effect():
    always = {
        "model",
        "model_options",
        "image_size",
        "batch_size",
        "physical_batch",
        "optimizer",
        "lr",
        "head_lr",
        "weight_decay",
        "schedule",
        "warmup",
        "loss",
        "class_weights",
        "augment",
        "ema",
        "early_stopping",
        "pretrained",
        "freeze",
        "lora_rank",
        "seed",
        "device",
        "precision",
        "deterministic",
        "threads",
        "workers",
        "attack_risk",
        "tensorboard",
        "eval_every",
        "name",
        "export",
        "task_kind",
    }
    ruled = {name for name, _, _ in effect._training_rules(TrainConfig(), CLASSES)}
    names = {name for name, (path, _) in settings.index(TrainConfig).items() if path[0] != "privacy"}
    assert names == always | ruled
    assert not always & ruled


def test_the_loss_of_a_private_run_is_logged_often_enough_for_a_curve(data, tmp_path):
    config = TrainConfig.of(
        model="resnet9-small",
        model_options={"width": 4},
        steps=8,
        batch_size=6,
        device="cpu",
        attack_risk=False,
        privacy=TERMS,
    )
    run = stage.run(config.replace(export=()), data.root, tmp_path).out
    lines = (run / "private" / "metrics.jsonl").read_text().splitlines()
    assert sum('"loss": null' not in line for line in lines if '"kind": "train"' in line) == 8
