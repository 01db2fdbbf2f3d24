"""Algorithms of other packages: known by entry points, checked at the sites, named on the review page."""

from __future__ import annotations

import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

from meninx.core import artifacts, plugins
from meninx.core.errors import ConfigError
from meninx.core.federation import FederatedRecord
from meninx.federated import approval_page, simulate, strategies
from meninx.federated.config import ALGORITHMS, DataConfig, StudyConfig, TermsConfig
from meninx.synthetic import write_dataset

SITES = ("east", "north", "west")
SOURCE = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from meninx.federated.strategies import FedAvg, ServerState


@dataclass(frozen=True)
class Momentum(FedAvg):
    beta: float = 0.9

    def init(self, weights):
        return ServerState(weights, {"momentum": np.zeros_like(weights)})

    def apply(self, state, total):
        momentum = np.float32(self.beta) * state.memory["momentum"] + total.mean
        return ServerState(state.weights + momentum, {"momentum": momentum})


@dataclass(frozen=True)
class Handed(FedAvg):
    adds_up: ClassVar[bool] = False
"""
ENTRIES = """[meninx.strategies]
server-momentum = momentum_rounds:Momentum
handed = momentum_rounds:Handed
absent = no_such_module:Momentum
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with algorithms, installed into a temporary folder."""
    place = tmp_path / "site-packages"
    info = place / "momentum_rounds-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: momentum-rounds\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (place / "momentum_rounds.py").write_text(SOURCE)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    monkeypatch.delitem(sys.modules, "momentum_rounds", raising=False)
    invalidate_caches()
    return place


def test_an_algorithm_of_a_package_is_known_by_its_name(package: Path) -> None:
    found = strategies.of_config(TermsConfig(algorithm="server-momentum", rounds=3, local_steps=2))
    assert type(found).__name__ == "Momentum"
    assert (found.turns(SITES), found.turn(1, SITES).until, found.adds_up) == (3, 4, True)
    assert plugins.origin(plugins.STRATEGIES, "server-momentum") == "momentum-rounds 1.2"
    assert plugins.origin(plugins.STRATEGIES, "fedavg") == ""


def test_an_algorithm_that_nobody_offers_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"algorithm to be one of cyclic, fedavg, fedprox"):
        TermsConfig(algorithm="server-momentum")
    with pytest.raises(ConfigError):
        StudyConfig.of(algorithm="../../fedavg")


def test_an_algorithm_that_hands_models_on_or_cannot_be_imported_is_refused(package: Path) -> None:
    with pytest.raises(ConfigError, match="handed hands models on"):
        strategies.of_config(TermsConfig(algorithm="handed"))
    with pytest.raises(ConfigError, match=r"absent .* cannot be imported"):
        strategies.of_config(TermsConfig(algorithm="absent"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_package_may_not_offer_a_name_of_our_own(package: Path, name: str) -> None:
    info = next(package.glob("*.dist-info"))
    (info / "entry_points.txt").write_text(f"[meninx.strategies]\n{name} = momentum_rounds:Momentum\n")
    invalidate_caches()
    with pytest.raises(ConfigError, match=f"momentum-rounds offers {name}"):
        strategies.of_config(TermsConfig(algorithm=name))


def test_the_review_page_names_code_that_the_code_hash_does_not_cover(package: Path) -> None:
    facts = DataConfig(task="multilabel", labels=("a", "b"), size=(32, 32))
    own = StudyConfig.of(name="chest", data=facts, train={"model": "resnet9-small"})
    assert approval_page.foreign_code(own) == []
    other = StudyConfig.of(
        name="chest", algorithm="server-momentum", data=facts, train={"model": "monai:DenseNet121"}
    )
    algorithm, network = approval_page.foreign_code(other)
    assert "the algorithm server-momentum is code of the package momentum-rounds 1.2" in algorithm
    assert "which the code hash does not cover" in algorithm
    assert "the network monai:DenseNet121 is code of the package monai" in network


@pytest.mark.slow
def test_a_simulation_with_momentum_at_the_server_and_masks_is_checked_at_every_site(
    package: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate(SITES):
        write_dataset(tmp_path / name, patients=12, size=16, seed=seed)
    train = {
        "model": "resnet9-small", "model_options": {"width": 8}, "batch_size": 4, "lr": 3e-3, "export": (),
        "eval_every": 50,
    }  # fmt: skip
    config = StudyConfig.of(algorithm="server-momentum", rounds=4, local_steps=2, train=train)
    folders = [tmp_path / name for name in SITES]
    result = simulate.run(config, folders, tmp_path / "study", device="cpu")
    record = artifacts.read(tmp_path / "study", FederatedRecord)
    assert record is not None
    assert (result.rounds, result.aborted, record.refusals) == (4, 0, {})
    assert all(set(entry.recomputed) == set(SITES) for entry in record.rounds)
    run = artifacts.read(result.runs["east"], artifacts.RunRecord)
    assert run is not None
    assert run.study is not None
    assert run.study.algorithm == "server-momentum"
