"""A small private run with canaries, and the faults that an audit has to find."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from meninx.core.budget import PrivacyUnit
from meninx.core.run import create
from meninx.learn import (
    Canaries,
    CanaryScores,
    Keys,
    PrivateSampler,
    PrivateStep,
    TensorLoader,
    Trainer,
    TrainState,
    sampler,
)
from meninx.privacy import Plan, noise
from meninx.privacy.clipping import engine

PATIENTS, IMAGES = 60, 2


class SquaredError:
    metric = "loss"

    def loss(self, outputs, targets):
        return (outputs - targets).square().flatten(1).mean(1)


def plan_of(**changes):
    fields = {
        "n_units": PATIENTS,
        "expected_batch_size": 15,
        "steps": 20,
        "noise_multiplier": 1.5,
        "max_grad_norm": 0.5,
        "delta": 1e-5,
        "unit": PrivacyUnit.PATIENT,
    }
    return Plan.build(**(fields | changes))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))


def parts(folder: Path, plan, *, count=1_000, seed=0, physical=8, key=None, resumed=False, run=None):
    """Return trainer and scores of a run in a folder."""
    run = run or create(folder, "run", config_toml="")
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(PATIENTS * IMAGES, 4, generator=generator)
    members = tuple(tuple(range(IMAGES * unit, IMAGES * (unit + 1))) for unit in range(PATIENTS))
    loader = TensorLoader(
        inputs, inputs.sum(1, keepdim=True), names=tuple(f"image-{case}" for case in range(len(inputs)))
    )
    keys = Keys.of(run, resumed=resumed, deterministic_seed=seed)
    canaries = Canaries(key or hashlib.sha256(f"canaries {seed}".encode()).digest(), count)
    source = canaries.source(plan)
    scores = CanaryScores(run, canaries, source)
    step = PrivateStep(
        plan, run, SquaredError(), loader, keys, binding="test", physical_batch=physical, sources=[source],
        proved=True,
    )  # fmt: skip
    model = network(seed)
    names = tuple(f"patient-{unit}" for unit in range(PATIENTS))
    drawn = PrivateSampler(plan.sampler(keys.sampling, PATIENTS), members, names, plan.sample_rate)
    state = TrainState.of(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return Trainer(state, drawn, step, hooks=[scores]), scores


def audited(folder: Path, plan, **options):
    """Return the scores of a whole run."""
    trainer, scores = parts(folder, plan, **options)
    trainer.run(until=plan.steps)
    return scores


# faults, each a function of monkeypatch and the plan


def quarter_noise(monkeypatch, plan):
    _scaled_noise(monkeypatch, 0.25)


def half_noise(monkeypatch, plan):
    _scaled_noise(monkeypatch, 0.5)


def no_noise(monkeypatch, plan):
    _scaled_noise(monkeypatch, 0.0)


def _scaled_noise(monkeypatch, factor):
    right = noise._normals
    monkeypatch.setattr(noise, "_normals", lambda stream, pairs, std: right(stream, pairs, std * factor))


def clipping_per_batch(monkeypatch, plan):
    """The mean gradient of a physical batch is clipped, as by ``clip_grad_norm_``, not that of a unit."""

    def factors(squares, bound, clipping):
        norm = (squares.sum().sqrt() / max(1, len(squares))).clamp(min=1e-12)
        return (bound / norm).clamp(max=1.0).expand(squares.shape).clone(), torch.ones(
            len(squares), dtype=bool
        )

    monkeypatch.setattr(engine, "clip_factors", factors)


def noise_over_accumulation(monkeypatch, plan):
    """The noise is divided by the number of physical batches that a step is accumulated over."""
    _scaled_noise(monkeypatch, 1 / 4)


def images_as_patients(monkeypatch, plan):
    """Every image is drawn and clipped on its own, and accounted as if it were its patient."""
    members, names = sampler.unit_members, sampler.unit_names
    monkeypatch.setattr(sampler, "unit_members", lambda data, unit: members(data, PrivacyUnit.CASE))
    monkeypatch.setattr(sampler, "unit_names", lambda data, unit: names(data, PrivacyUnit.CASE))


FAULTS = (quarter_noise, no_noise, clipping_per_batch, noise_over_accumulation, images_as_patients)
