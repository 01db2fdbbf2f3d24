"""Settings of `meninx obfuscate`: what has no effect is refused."""

from __future__ import annotations

from importlib import resources

import pytest

from meninx.core import settings
from meninx.core.errors import ConfigError
from meninx.obfuscate.config import ObfuscateConfig
from meninx.obfuscate.obfuscator import OBFUSCATORS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "codes", "budget": 0.1}, "has no budget"),
        ({"method": "noise", "budget": 0.0}, "budget"),
        ({"method": "noise", "pixels": 4}, "does not read it (pixels)"),
        ({"method": "noise", "age_bins": [60]}, "no effect without age"),
        ({"method": "noise", "attribute": "age", "age_bins": [61, 47]}, "ascending ages"),
        ({"method": "noise", "attribute": "sex+"}, "joined by +"),
        ({"method": "noise", "attribute": "sex+sex"}, "joined by +"),
        ({"method": "noise", "audit": False, "target": 0.6}, "no effect without an audit"),
        ({"method": "noise", "resume": True, "overwrite": True}, "exclude each other"),
        ({"method": "magic"}, "method to be one of"),
        ({"method": "noise", "dct": True}, "does not read it (dct)"),
        (
            {"method": "viewmaker-seed", "attackers": 3},
            "no effect with the method viewmaker-seed (attackers)",
        ),
        ({"method": "maxent", "loss": "adversarial"}, "no effect with the method maxent (loss)"),
        ({"method": "maxent", "temperature": 0.5}, "no effect with a loss of attackers (temperature)"),
        (
            {"method": "viewmaker", "loss": "contrastive", "attackers": 2},
            "with a contrastive loss (attackers)",
        ),
        (
            {"method": "viewmaker", "task_weight": 0.0, "task_rate": 0.1},
            "with a task_weight of 0 (task_rate)",
        ),
    ],
)
def test_settings_without_effect_are_refused(given, words):
    with pytest.raises(ConfigError) as refused:
        ObfuscateConfig.of(**given)
    assert words in str(refused.value)


def test_age_and_budget_have_a_default_that_is_in_force():
    config = ObfuscateConfig.of(method="blur", attribute="sex+age")
    assert (config.attributes, config.bins, config.amount) == (("sex", "age"), (60.0,), 0.05)
    assert ObfuscateConfig.of(method="codes").amount is None
    assert ObfuscateConfig.of(method="blur", attribute="age", age_bins=[47, 61, 71]).bins == (47, 61, 71)


def test_each_method_of_viewmakers_has_its_game():
    def game(method, **given):
        found = ObfuscateConfig.of(method=method, **given).viewmaker.in_force(method)
        return found.loss, found.attackers, found.attacker_steps, found.reset_every, found.task_weight

    assert game("viewmaker-seed") == ("adversarial", 1, 1, 0, 1.0)
    assert game("viewmaker-seed", task_weight=0.0) == ("adversarial", 1, 1, 0, 0.0)
    assert game("maxent", attackers=5) == ("entropy", 5, 2, 50, 1.0)
    assert game("viewmaker") == ("adversarial", 3, 2, 50, 1.0)
    assert game("viewmaker", loss="contrastive", attacker_steps=4) == ("contrastive", None, 4, 0, 0.0)


@pytest.mark.parametrize("name", settings.recipe_names("obfuscate"))
def test_a_packaged_recipe_is_valid_and_says_what_holds_whatever_is_measured(name):
    table, source = settings.read_recipe(name)
    config = settings.build(ObfuscateConfig, table, source)
    text = (resources.files("meninx.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert len(first) <= 140
    assert "not for results" in first or OBFUSCATORS[config.method].caveat in first
    assert "not measured here" in first or "not for results" in first or "AUROC" in text
    assert config.method in text
