"""The examples run in seconds and show what they say."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_federated_rounds_share_one_cosine_and_the_hook_keeps_hospitals_together() -> None:
    module = example("federated_averaging")
    free, held = module.main(mu=0.0), module.main(mu=1.0)
    steps = module.ROUNDS * module.STEPS
    cosine = [0.25 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    assert held["rates"] == pytest.approx(cosine)
    assert held["drift"] < 0.5 * free["drift"]
    assert held["accuracy"] > 0.85


@pytest.mark.slow  # tests/learn/test_learn_trainer.py trains players against each other
def test_the_obfuscator_hides_the_attribute_from_an_attacker_trained_anew_and_keeps_the_diagnosis() -> None:
    module = example("obfuscator_game")
    shown, hidden = module.main(weight=0.0), module.main(weight=2.0)
    assert shown["attacker"] > 0.8
    assert hidden["attacker"] < 0.7
    assert hidden["doctor"] > 0.75


def test_canaries_have_slots_of_their_own_and_cost_the_patients_nothing() -> None:
    module = example("canaries")
    result = module.main()
    assert result["epsilon"] == result["epsilon without"] == pytest.approx(result["planned"])
    assert 0 < sum(result["drawn"]) < 12 * module.CANARIES
    assert [len(norms) for norms in result["norms"]] == result["drawn"]
    pairs = list(zip(result["drawn"], result["lengths"], strict=True))
    assert all(length <= drawn * result["bound"] * (1 + 1e-5) for drawn, length in pairs)
    assert any(length > result["bound"] / 2 for _, length in pairs)


def test_a_siamese_network_learns_which_images_belong_together() -> None:
    result = example("siamese_pairs").main()
    assert result["auroc"] > 0.85 > result["before"]


def test_the_examples_import_public_names_alone() -> None:
    public = {"meninx.learn", "meninx.privacy", "meninx.core.run"}
    for path in EXAMPLES.glob("*.py"):
        lines = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("from meninx")]
        assert set(lines) <= public, path.name
