"""Every setting of a planned part reaches the part itself, and the digest that tells its results apart."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from meninx.audit.part_rules import RULES
from meninx.audit.parts import REGISTRY
from meninx.audit.plan_config import AuditConfig
from meninx.core.audit_parts import PARTS, PartName
from meninx.core.run import Run

NOBODY = Run(Path("no such run"))
"""A run without results of any part."""
PLANNED = {
    "bounds": "bounds",
    "one-run": "one_run",
    "membership": "membership",
    "reconstruction": "reconstruction",
    "attributes": "attribute",
    "identity": "identity",
}
"""Name of a part -> its settings in a plan."""
OTHER: dict[str, Any] = {
    "attacks": ("hog",),  # a name of an attack on identity; the plan of a reconstruction takes any name
    "attributes": ("sex",),
    "candidates": (3,),
    "canaries": 200,
    "control_steps": 7,
    "eps_last": 6,
    "eps_max": 50.0,
    "eps_min": 0.5,
    "most_images": 9,
    "n_eps": 5,
    "precision": 0.01,
    "references": 8,
    "significance": 0.01,
    "trials": 11,
}
"""Name of a setting -> a value that is not its default."""
SETTINGS = [
    (part, item.name)
    for part, planned in PLANNED.items()
    for item in fields(getattr(AuditConfig(), planned))
    if item.name != "minutes"  # a budget of the stage
]


def test_every_part_has_settings_of_its_own_in_a_plan():
    assert PLANNED.keys() == REGISTRY.keys()


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_every_setting_of_a_plan_reaches_its_part(name, setting):
    part, plain = REGISTRY[name], AuditConfig()
    planned = getattr(plain, PLANNED[name])
    assert getattr(planned, setting) != OTHER[setting]
    changed = replace(plain, **{PLANNED[name]: replace(planned, **{setting: OTHER[setting]})})
    assert getattr(part.settings(plain), setting) == getattr(planned, setting)
    assert getattr(part.settings(changed), setting) == OTHER[setting]
    assert part.settings_hash(changed, NOBODY) != part.settings_hash(plain, NOBODY)
    for other in REGISTRY.values():
        if other is not part:
            assert other.settings_hash(changed, NOBODY) == other.settings_hash(plain, NOBODY)


@pytest.mark.parametrize("name", REGISTRY)
def test_seed_and_repeatability_of_a_plan_reach_every_part_that_draws_or_writes_the_time(name):
    part, plain = REGISTRY[name], AuditConfig()
    for setting, value in (("seed", 7), ("deterministic", True)):
        if not hasattr(part.settings(plain), setting):
            assert (name, setting) == ("bounds", "seed")  # nothing is drawn for them
            continue
        changed = replace(plain, **{setting: value})
        assert getattr(part.settings(changed), setting) == value
        assert part.settings_hash(changed, NOBODY) != part.settings_hash(plain, NOBODY)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_part_made_on_another_device_has_the_same_settings(name):
    part = REGISTRY[name]
    here, there = AuditConfig(device="cpu"), AuditConfig(device="cuda")
    found = [getattr(part.settings(config), "device", None) for config in (here, there)]
    assert found == ([None, None] if name == "bounds" else ["cpu", "cuda"])
    assert part.settings_hash(here, NOBODY) == part.settings_hash(there, NOBODY)


def test_every_table_of_parts_has_the_parts_of_the_one_that_describes_them():
    assert tuple(PARTS) == get_args(PartName) == tuple(REGISTRY) == tuple(RULES)
    assert all(part.name == name and part.record is not None for name, part in PARTS.items())
    assert [part.title for part in REGISTRY.values()] == [part.title for part in PARTS.values()]
