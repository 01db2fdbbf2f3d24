"""The arms that meninx trains: non-private and private runs of a recipe, and their public networks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from meninx import api
from meninx.core.run import Run
from meninx.learn.inference import load_model
from study.sets import PRETRAINING, RECIPES, Study


def start(study: Study, data: Path, weights: Path) -> dict[str, str]:
    """Return the settings of the weights that the runs of a study start from; none for random ones."""
    if not study.start:
        return {}
    source = PRETRAINING[study.start]
    return {
        "pretrained": str(weights / f"{study.start}.pt"),
        "pretrained_source": source.said,
        "standardize": str(data / source.data),
    }


def settings(study: Study, data: Path, weights: Path, seed: int, epsilon: float | None) -> dict[str, Any]:
    """Return what a run is told beyond its recipe."""
    told: dict[str, Any] = {"seed": seed, "threads": 1, "attack_risk": False, **start(study, data, weights)}
    if epsilon is not None:
        told["privacy"] = {"epsilon": epsilon, "delta": study.delta}
    return told


def run(
    study: Study, data: Path, weights: Path, out: Path, seed: int, epsilon: float | None
) -> dict[str, Any]:
    """Train with the recipe of a study and return model, settings and CPU seconds.

    Args:
        study: the dataset.
        data: folder of prepared datasets.
        weights: folder of pretrained weights.
        out: folder of the runs.
        seed: of initialisation and augmentation; the noise comes from the operating system.
        epsilon: of a private run; None without privacy.
    """
    recipe = RECIPES / (f"{study.key}.toml" if epsilon is None else f"{study.key}-dp.toml")
    told = settings(study, data, weights, seed, epsilon)
    begun = time.process_time()
    result = api.train(data / study.data, out=out, recipe=str(recipe), **told)
    seconds = time.process_time() - begun
    model, config, info = load_model(Run(result.out))
    return {
        "model": model,
        "config": config,
        "info": info,
        "cpu": seconds,
        "steps": result.steps,
        "said": result.privacy.summary() if result.privacy else "no privacy",
    }


def pretrain(key: str, data: Path, weights: Path) -> str:
    """Train a public network into ``weights``, unless it is there, and return what was done."""
    wanted, target = PRETRAINING[key], weights / f"{key}.pt"
    if target.is_file():
        return f"{key}: there"
    told: dict[str, Any] = {"seed": 0, "threads": 1}
    begun = time.process_time()
    result = api.train(
        data / wanted.data, out=weights / "runs" / key, recipe=str(RECIPES / wanted.recipe), **told
    )
    weights.mkdir(parents=True, exist_ok=True)
    model, *_ = load_model(Run(result.out))
    torch.save(model.state_dict(), target)
    return f"{key}: {result.validation}, {time.process_time() - begun:.0f} CPU s"
