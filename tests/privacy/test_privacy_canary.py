"""One run, many canaries: the reported epsilon bounds what an attacker learns from released steps."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from meninx.privacy.plan import Plan

CANARIES, STEPS, BOUND, CONFIDENCE = 400, 12, 1.0, 0.95


def direct(outputs, targets):
    """A loss whose gradient in the weight is the input itself."""
    return (outputs - targets).sum(1)


def attacked(noise_multiplier, seed=0):
    """Train with the real plan on a random half of the canaries, guess the half.

    Return guesses made and right.
    """
    given = {
        "n_units": CANARIES,
        "expected_batch_size": CANARIES / 2,
        "steps": STEPS,
        "max_grad_norm": BOUND,
        "delta": 1e-5,
    }
    plan, key = Plan.build(noise_multiplier=noise_multiplier, **given), bytes([seed + 1]) * 32
    inside = np.random.default_rng(seed).random(CANARIES) < 0.5
    canaries = 5 * torch.eye(CANARIES)  # orthogonal gradients, all longer than the bound
    model = nn.Linear(CANARIES, 1, bias=False)
    sampler, noise, released = plan.sampler(key), plan.noise(key), torch.zeros(CANARIES)
    for step in range(STEPS):
        drawn = [unit for unit in sampler.draw(step) if inside[unit]]
        total = plan.clipped_sum(
            model,
            direct,
            canaries[drawn],
            torch.zeros(len(drawn), 1),
            unit_index=torch.arange(len(drawn)),
            n_units=len(drawn),
        )
        released += plan.release(total, noise, step)["weight"][0]
    order = np.argsort(released.numpy())
    few = CANARIES // 8
    right = int(inside[order[-few:]].sum() + (~inside[order[:few]]).sum())
    return plan, 2 * few, right


def lower_bound(guesses, right, delta=0.0):
    """Return the largest epsilon that so many right guesses rule out at the stated confidence.

    Steinke, Nasr, Jagielski (2023), Privacy Auditing with One (1) Training Run, Theorem 3.1 (delta apart).
    """
    ruled_out = [
        e
        for e in np.linspace(0, 12, 601)
        if binom.sf(right - 1, guesses, 1 / (1 + math.exp(-e))) + 2 * CANARIES * delta < 1 - CONFIDENCE
    ]
    return max(ruled_out, default=0.0)


@pytest.mark.parametrize("noise_multiplier", [0.8, 2.0, 8.0])
def test_the_attack_stays_below_the_reported_epsilon(noise_multiplier):
    plan, guesses, right = attacked(noise_multiplier)
    assert lower_bound(guesses, right, plan.delta) <= plan.epsilon()


def test_without_noise_the_attack_finds_everybody():
    plan, guesses, right = attacked(0.0)
    assert right >= 0.95 * guesses
    assert lower_bound(guesses, right, plan.delta) > 2
    assert plan.epsilon() == math.inf


def test_a_broken_mechanism_is_caught_by_the_attack(monkeypatch):
    """Noise of a tenth of what is accounted: the attack proves more than the reported epsilon."""
    from meninx.privacy.noise import GaussianNoise

    honest = GaussianNoise.sample
    monkeypatch.setattr(GaussianNoise, "sample", lambda self, *rest, **more: honest(self, *rest, **more) / 50)
    plan, guesses, right = attacked(8.0)
    assert lower_bound(guesses, right, plan.delta) > plan.epsilon()
