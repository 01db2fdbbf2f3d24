"""The game of a viewmaker and its attackers, and what is released afterwards."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_attribute import planted
from torch import nn

from meninx.core.errors import DataError
from meninx.core.progress import SILENT
from meninx.learn.batches import Batch
from meninx.learn.release_attackers import fit_release_network
from meninx.learn.state import TrainState
from meninx.learn.step import AlternatingStep
from meninx.learn.viewmaker_losses import entropy_gap
from meninx.models.viewmaker_networks import viewmaker
from meninx.obfuscate import viewmaker_game
from meninx.obfuscate.config import ObfuscateConfig
from meninx.obfuscate.obfuscator import create
from meninx.obfuscate.viewmaker_game import OPPONENTS, VIEWMAKER, AttackerResets, Game, Standardized, frozen

KEY = bytes(range(32))
QUICK = {"method": "viewmaker-seed", "budget": 0.1, "steps": 2, "viewmaker_batch": 8, "residual_blocks": 1}


@pytest.fixture(autouse=True)
def one_epoch(monkeypatch):
    """Attackers and the network of the labels see the originals once before the game."""
    monkeypatch.setattr(viewmaker_game, "fit_release_network", brief)


def brief(*given, **named):
    return fit_release_network(*given, **{**named, "epochs": 1})


def fitted(table, key=KEY, **given):
    config = ObfuscateConfig.of(**{**QUICK, "device": "cpu", **given})
    return create(config.method, config, key=key).fit(table, seed=3, progress=SILENT)


@pytest.fixture(scope="module")
def table():
    return planted(40, images=1)


class WithStatistics(nn.Module):
    """An attacker with batch norm and dropout."""

    def __init__(self, outputs=2):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.LazyLinear(outputs)
        )
        self.network(torch.rand(2, 1, 8, 8))

    def forward(self, images):
        return self.network(images)


def statistics(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def game_of(loss, *, labels=1):
    """A game whose networks have batch norm, and a batch of it."""
    settings = ObfuscateConfig.of(method="viewmaker", loss=loss).viewmaker.in_force("viewmaker")
    task_network = WithStatistics(labels).requires_grad_(False).eval()
    game = Game(settings, torch.ones(2), task_network, torch.device("cpu"))
    networks = {
        VIEWMAKER: viewmaker("slim", channels=1, budget=0.1, residual_blocks=1),
        OPPONENTS: nn.ModuleList([WithStatistics(), WithStatistics()][: 1 if loss == "contrastive" else 2]),
    }
    truth = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 1, float("nan")], [0, 0, 1]])
    batch = Batch(torch.rand(4, 1, 8, 8), truth, torch.arange(4), 1, torch.arange(4))
    return game, networks, batch


@pytest.mark.parametrize("loss", ["adversarial", "entropy", "contrastive"])
def test_networks_that_do_not_move_keep_their_statistics_and_modes(loss):
    game, networks, batch = game_of(loss)
    for network in networks.values():
        network.train()
    opponents, labels = statistics(networks[OPPONENTS]), statistics(game.task_network)
    losses = game.losses()[VIEWMAKER](networks, batch)
    losses.sum().backward(inputs=list(networks[VIEWMAKER].parameters()))
    assert losses.shape == (4,)
    assert same(opponents, statistics(networks[OPPONENTS]))
    assert same(labels, statistics(game.task_network))
    assert all(module.training for module in networks[OPPONENTS].modules())
    assert not any(module.training for module in game.task_network.modules())
    assert all(value.grad is None for value in networks[OPPONENTS].parameters())
    assert any(value.grad.abs().sum() > 0 for value in networks[VIEWMAKER].parameters())
    game.losses()[OPPONENTS](networks, batch).sum().backward()  # whoever moves does learn statistics
    assert not same(opponents, statistics(networks[OPPONENTS]))
    assert networks[VIEWMAKER].training


def test_modules_return_to_their_own_modes_also_after_an_error():
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())

    def failing():
        with frozen(network):
            assert not network[0].training
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert network[0].training
    assert not network[1].training


def test_the_network_of_the_labels_is_fixed_during_the_whole_game(table, monkeypatch):
    seen = []
    made = viewmaker_game._Opening.task_network
    monkeypatch.setattr(
        viewmaker_game._Opening,
        "task_network",
        lambda self, labels: seen.append((net := made(self, labels), statistics(net))) or net,
    )
    fitted(table, steps=3)
    ((network, before),) = seen
    assert same(before, statistics(network))
    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())
    seen.clear()
    fitted(table, task_weight=0.0)
    assert not seen


def test_attackers_move_as_often_as_asked_and_at_the_rates_of_the_settings(table, monkeypatch):
    moves, rates, first = [], {}, []
    update = AlternatingStep.update

    def watched(self, state):
        name = self.turn(state.step)
        moves.append(name)
        rates[name] = state.players[name].optimizer.param_groups[0]["lr"]
        update(self, state)

    monkeypatch.setattr(AlternatingStep, "update", watched)
    monkeypatch.setattr(
        viewmaker_game, "fit_release_network", lambda *a, **b: first.append(b["rate"]) or brief(*a, **b)
    )
    asked = {"attackers": 1, "attacker_steps": 3, "viewmaker_rate": 0.01, "attacker_rate": 0.02}
    fitted(table, method="maxent", task_rate=0.03, **asked)
    assert moves == [OPPONENTS, OPPONENTS, OPPONENTS, VIEWMAKER] * 2
    assert rates == {VIEWMAKER: 0.01, OPPONENTS: 0.02}
    assert sorted(first) == [0.02, 0.03]


def test_one_attacker_in_turn_starts_again():
    attackers = nn.ModuleList(Standardized(nn.Linear(2, 2), torch.zeros(1), torch.ones(1)) for _ in range(2))
    player = viewmaker_game._player(attackers, 0.1)
    attackers[0].network(torch.ones(1, 2)).sum().backward()
    player.optimizer.step()
    state, built = TrainState({OPPONENTS: player}), []

    def build(number, seed):
        built.append((number, seed))
        return nn.Linear(2, 2)

    resets = AttackerResets(6, build, seed=0)
    for step in range(1, 19):
        before = [statistics(attacker) for attacker in attackers]
        resets.on_step_end(state, viewmaker_game.StepDone(step, 1, {}, {}))
        changed = [not same(one, statistics(other)) for one, other in zip(before, attackers, strict=True)]
        assert changed == [step in (6, 18), step == 12]
        assert (attackers[0].network.weight in player.optimizer.state) == (step < 6)
    assert [number for number, _ in built] == [0, 1, 0]
    assert len({seed for _, seed in built}) == 3


def test_a_release_depends_on_case_draw_and_key_alone(table):
    method = fitted(table)
    once = method.release(table)
    rows = np.random.default_rng(0).permutation(len(table))
    assert np.array_equal(method.release(table.select(rows)), once[rows])
    assert np.array_equal(method.release(table.select(rows[:1])), once[rows[:1]])
    assert not np.array_equal(method.release(table, draw=1), once)
    assert not np.array_equal(fitted(table, key=bytes(32)).release(table), once)
    assert np.array_equal(fitted(table).release(table), once)
    renamed = replace(table, cases=tuple(f"{case}x" for case in table.cases))
    assert not np.array_equal(method.release(renamed), once)


def test_rows_of_other_splits_and_their_attribute_do_not_train_the_viewmaker(table):
    changed = {
        **table.private,
        "sex": np.where(table.where("test"), 1 - table.private["sex"], table.private["sex"]),
    }
    values = np.where(table.where("test")[:, None, None, None], 1 - table.values, table.values)
    other = replace(table, private=changed, values=values)
    assert fitted(other).private_files() == fitted(table).private_files()


def test_facts_and_private_files(table):
    method = fitted(table)
    facts = method.facts()
    assert facts["mean_change_of_training_images"] <= 0.1
    assert (facts["network"], facts["loss"], facts["attackers_in_the_game"]) == ("slim", "adversarial", 1)
    weights = torch.load(io.BytesIO(method.private_files()["viewmaker.pt"]), weights_only=True)
    assert same(weights, statistics(method.network))


@pytest.mark.parametrize(
    "given",
    [
        {"method": "viewmaker", "loss": "contrastive"},
        {"method": "viewmaker", "loss": "entropy", "attackers": 2, "reset_every": 1},
        {"method": "maxent", "attackers": 1, "network": "full", "dct": True},
        {"method": "viewmaker-seed", "task_weight": 0.0},
    ],
)
def test_every_loss_and_network_with_four_joint_classes_in_colour(given):
    grey = planted(48, images=1, classes=4)
    table = replace(grey, values=np.repeat(grey.values, 3, axis=1)[:, :, :, :], private={
        "sex+age": np.where(np.arange(len(grey)) % 9, grey.private["sex"], -1)
    }, classes={"sex+age": grey.classes["sex"]})  # fmt: skip
    method = fitted(table, attribute="sex+age", **given)
    released = method.release(table)
    assert released.shape == table.values.shape
    assert 0 < np.abs(released - table.values).mean() <= 0.1


def test_what_cannot_be_trained_or_released_is_refused(table):
    with pytest.raises(DataError, match="no label is there in some images"):
        fitted(replace(table, labels={"ill": np.full(len(table), np.nan)}))
    with pytest.raises(DataError, match="at least 8 pixels a side"):
        fitted(replace(table, values=table.values[:, :, :7]))
    with pytest.raises(DataError, match="another size"):
        fitted(table).release(replace(table, values=np.pad(table.values, ((0, 0), (0, 0), (0, 1), (0, 0)))))


@pytest.mark.parametrize("loss", ["adversarial", "entropy", "contrastive"])
def test_the_viewmaker_moves_against_opponents_that_stand_still(loss):
    torch.manual_seed(0)
    game, networks, batch = game_of(loss)
    optimizer = torch.optim.Adam(networks[VIEWMAKER].parameters(), lr=0.01)

    def opponents():
        """How well the opponents do: the viewmaker wants this loss to be large, or their guesses uniform."""
        torch.manual_seed(1)
        with torch.no_grad(), frozen(networks[OPPONENTS]):
            if loss == "entropy":
                views = networks[VIEWMAKER].draw(batch.inputs)
                return -sum(entropy_gap(one(views)).mean() for one in networks[OPPONENTS])
            return game.losses()[OPPONENTS](networks, batch).mean()

    before = opponents()
    for _ in range(30):
        optimizer.zero_grad()
        game.losses()[VIEWMAKER](networks, batch).mean().backward()
        optimizer.step()
    assert opponents() > before
