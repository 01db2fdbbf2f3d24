"""The plan: one object, no wrong mixture."""

import dataclasses
import hashlib
import json
import math

import dp_accounting as dpa
import pytest
import torch
from torch import nn

from meninx.core.budget import NeighboringRelation, PrivacyUnit
from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.privacy.clipping import ClippedSum
from meninx.privacy.noise import GaussianNoise
from meninx.privacy.plan import Plan

KEY = bytes(range(32))


def plan(**changes):
    given = {
        "n_units": 1000,
        "expected_batch_size": 20.0,
        "steps": 50,
        "noise_multiplier": 1.2,
        "max_grad_norm": 0.5,
        "delta": 1e-5,
    }
    return Plan.build(**(given | changes))


def test_the_parts_come_from_the_plan():
    made = plan()
    assert made.sample_rate == 0.02
    assert (made.unit, made.relation, made.sampling) == (
        PrivacyUnit.PATIENT,
        NeighboringRelation.ADD_OR_REMOVE_ONE,
        "poisson",
    )
    assert made.event(7) == dpa.SelfComposedDpEvent(
        dpa.PoissonSampledDpEvent(0.02, dpa.GaussianDpEvent(1.2)), 7
    )
    assert (made.sampler(KEY).sample_rate, made.sampler(KEY).n_units) == (0.02, 1000)
    assert (made.sampler(KEY, 998).sample_rate, made.sampler(KEY, 998).n_units) == (
        0.02,
        998,
    )  # q is public, N is not needed
    assert made.noise(KEY).std == 1.2 * 0.5


def test_spending_grows_with_the_steps_and_tells_all():
    made = plan()
    assert made.epsilon(0) == 0 < made.epsilon(10) < made.epsilon() == made.epsilon(50)
    spent = made.spent(10)
    assert spent.epsilon == made.epsilon(10)
    assert (spent.steps, spent.sample_rate, spent.noise_multiplier, spent.max_grad_norm) == (
        10,
        0.02,
        1.2,
        0.5,
    )
    assert (spent.sampler, spent.accountant, spent.delta) == ("poisson", "pld", 1e-5)
    assert plan(noise_multiplier=0.0).epsilon() == math.inf


@pytest.mark.parametrize(
    ("name", "reason"), [("shuffle", "shuffled"), ("weighted", "weighted"), ("cyclic", "not known here")]
)
def test_other_sampling_is_refused_with_the_reason(name, reason):
    with pytest.raises(PrivacyRefusal, match=reason):
        plan(sampling=name)


def test_what_the_accountant_does_not_cover_is_refused():
    with pytest.raises(PrivacyRefusal, match="doubles the sensitivity"):
        plan(relation=NeighboringRelation.REPLACE_ONE)
    with pytest.raises(PrivacyRefusal, match="delta < 1 / n_units_declared"):
        plan(delta=0.001)
    with pytest.raises(ConfigError, match="sample_rate = expected_batch_size / n_units_declared"):
        dataclasses.replace(plan(), sample_rate=0.01)
    for changes in (
        {"steps": 0},
        {"noise_multiplier": -1.0},
        {"max_grad_norm": 0.0},
        {"delta": 0.0},
        {"views": 0},
        {"clipping": "none"},
        {"expected_batch_size": 1001.0},
        {"noise_multiplier": math.nan},
    ):
        with pytest.raises(ConfigError):
            plan(**changes)


def test_the_fingerprint_names_the_mechanism_but_not_its_length():
    assert plan().fingerprint() == plan(steps=500).fingerprint()
    changes = ({}, {"noise_multiplier": 1.3}, {"max_grad_norm": 0.6}, {"delta": 1e-6}, {"views": 2})
    others = ({"unit": PrivacyUnit.CASE}, {"clipping": "auto-s"})
    assert len({plan(**change).fingerprint() for change in (*changes, *others)}) == 7


def test_release_adds_the_plans_noise_and_divides_by_the_public_constant():
    made, model = plan(), nn.Linear(3, 2)
    inputs, targets = torch.randn(4, 3), torch.randint(0, 2, (4,))
    loss = nn.CrossEntropyLoss(reduction="none")
    total = made.clipped_sum(model, loss, inputs, targets, unit_index=torch.arange(4), n_units=4)
    noise = made.noise(KEY)
    released = made.release(total, noise, 3)
    for name, value in total.gradients.items():
        assert torch.equal(released[name], (value + noise.sample(3, name, value.shape)) / 20.0)
    empty = made.release(ClippedSum.empty(model, max_grad_norm=0.5), noise, 4)
    assert torch.equal(
        empty["bias"], noise.sample(4, "bias", (2,)) / 20.0
    )  # an empty draw is a step of noise


def test_release_refuses_other_noise_and_other_clipping():
    made, model = plan(), nn.Linear(3, 2)
    with pytest.raises(PrivacyRefusal, match="sensitivity <= max_grad_norm"):
        made.release(ClippedSum.empty(model, max_grad_norm=0.6), made.noise(KEY), 0)
    with pytest.raises(PrivacyRefusal, match=r"take the noise from plan\.noise"):
        made.release(ClippedSum.empty(model, max_grad_norm=0.5), GaussianNoise(key=KEY, std=0.3), 0)


def test_what_changes_no_guarantee_is_given_on_to_the_engine(monkeypatch):
    from meninx.privacy.clipping import engine

    seen = []
    monkeypatch.setattr(engine, "clipped_gradient_sum", lambda *args, **options: seen.append(options))
    given = {"unit_index": torch.arange(4), "n_units": 4}
    made = plan(clipping="per-layer")
    made.clipped_sum(None, None, None, None, **given)
    made.clipped_sum(
        None, None, None, None, **given, precision="bf16", planner="planner", functional=("stem",)
    )
    assert (seen[0]["planner"], seen[0]["precision"], seen[0]["functional"]) == (None, "fp32", ())
    assert (seen[1]["planner"], seen[1]["precision"], seen[1]["functional"]) == ("planner", "bf16", ("stem",))
    assert (seen[0]["clipping"], seen[0]["max_grad_norm"]) == ("per-layer", 0.5)


def test_plans_without_the_later_options_keep_the_fingerprint_of_the_first_format():
    """Ledgers of before name it, and have to stay resumable."""
    made = plan()
    later = {"clip_quantile", "clip_rate", "count_noise_multiplier", "noise_bands", "steps"}
    table = {
        item.name: getattr(made, item.name) for item in dataclasses.fields(made) if item.name not in later
    }
    assert made.fingerprint() == hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:32]


def test_what_was_spent_names_everything_needed_to_read_it():
    text = plan().spent().summary()
    for part in (
        "epsilon",
        "1e-05",
        "patient",
        "add-or-remove-one",
        "50 steps",
        "0.02",
        "1.2",
        "0.5",
        "poisson",
        "pld",
    ):
        assert part in text
