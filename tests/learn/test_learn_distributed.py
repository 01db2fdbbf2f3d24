"""Several processes give the run that one gives: the same draw, one sum, one noise, no deadlock."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meninx.cli import app
from meninx.core.errors import ConfigError, UsageError
from meninx.core.run import Run
from meninx.learn import checkpoint, distributed
from meninx.learn.distributed import World
from meninx.learn.sampler import UnitBatch
from meninx.synthetic import write_dataset

SCRIPT = Path(__file__).with_name("ranks.py")
UNITS, RATE, DRAWS = 24, 0.4, 3000
RECIPE = {"recipe": "tiny", "steps": 3, "batch-size": 6, "physical-batch": 4, "device": "cpu"}
TERMS = {"privacy.epsilon": 8, "privacy.delta": 1e-3}
WORDS = ["--deterministic", "-q", *(f"--{name}={value}" for name, value in {**RECIPE, **TERMS}.items())]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Seen:
    """What the script wrote down."""

    scenes: dict[str, list[Any]]
    runs: dict[str, str]

    def gave(self, scene: str) -> list[Any]:
        """Return what the processes of a scene gave; all of them must have come to an end."""
        said = self.scenes[scene]
        assert all("gave" in one for one in said), said
        return [one["gave"] for one in said]

    def errors(self, scene: str) -> list[str]:
        return [one.get("error", str(one)) for one in self.scenes[scene]]

    def run(self, name: str) -> Run:
        return Run(Path(self.runs[name]))

    def kept(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = torch.load(self.run(name).root / "seen.pt", weights_only=True)
        return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True, env=environment(), timeout=600)
    return Seen(**json.loads((folder / "seen.json").read_text()))


# one sum, one noise, equal weights


def difference(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).norm() / two.norm().clamp(min=1e-12))


@pytest.mark.parametrize("name", ["two", "four"])
def test_the_clipped_sum_is_that_of_one_process(seen: Seen, name: str) -> None:
    """Six steps: three Poisson draws, one unit (empty shares), an empty draw, and seven units."""
    one, many = seen.kept("one")["sums"], seen.kept(name)["sums"]
    assert len(one) == len(many) == 6
    assert [bool(total.any()) for total in one] == [True, True, True, True, False, True]
    assert max(difference(mine, theirs) for mine, theirs in zip(many, one, strict=True)) <= 1e-5


def noise_ratio(released: list[torch.Tensor], sums: list[torch.Tensor], std: float = 1.0) -> float:
    """Return the standard deviation of what was released beyond the sums, over that of the plan."""
    noise = torch.cat([value - total for value, total in zip(released, sums, strict=True)])
    return float(noise.double().std() / std)


@pytest.mark.parametrize("name", ["two", "four"])
def test_noise_is_added_once_to_the_sum_over_all_processes(seen: Seen, name: str) -> None:
    kept = seen.kept(name)
    assert kept["released"][0].numel() * 6 > 1e6
    assert noise_ratio(kept["released"], seen.kept("one")["sums"]) == pytest.approx(1.0, abs=0.005)


def test_noise_of_every_process_would_be_seen(seen: Seen) -> None:
    """The planted fault: each of two processes adds the noise to its own share."""
    planted = noise_ratio(seen.kept("double")["sums"][:1], seen.kept("one")["sums"][:1])
    assert planted != pytest.approx(1.0, abs=0.005)
    assert planted == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("name", ["two", "four"])
def test_all_processes_hold_the_same_weights_bit_for_bit(seen: Seen, name: str) -> None:
    said = seen.gave(name)
    assert len(said[0]["weights"]) == 6
    assert len(set(said[0]["weights"])) == 6
    assert all(one["weights"] == said[0]["weights"] for one in said)
    assert {one["epsilon"] for one in said} == {seen.gave("one")[0]["epsilon"]}
    final, alone = seen.kept(name)["final"], seen.kept("one")["final"]
    assert all(torch.allclose(value, alone[key], atol=1e-5) for key, value in final.items())


@pytest.mark.parametrize("name", ["one", "two", "four"])
def test_the_ledger_line_is_on_the_disk_before_anybody_has_the_sum(seen: Seen, name: str) -> None:
    for said in seen.gave(name):
        assert all(lines >= step for step, lines in enumerate(said["lines"], 1))
    assert len(seen.run(name).ledger_path.read_text().splitlines()) == 6


# one draw


def matrix(shares: list[list[list[int]]]) -> np.ndarray:
    """Return a (draws, units) table of who took part in what, over all processes; nobody twice."""
    table = np.zeros((DRAWS, UNITS), dtype=np.int64)
    for steps in shares:
        for step, units in enumerate(steps):
            np.add.at(table[step], units, 1)
    assert table.max() == 1
    return table


def frequency_off(table: np.ndarray) -> float:
    """Return the largest deviation of a unit's inclusion frequency, in standard deviations."""
    return float(np.abs(table.mean(0) - RATE).max() / np.sqrt(RATE * (1 - RATE) / DRAWS))


def dependence(table: np.ndarray) -> float:
    """Return the largest chi-square statistic (one degree of freedom) of all pairs of units."""
    correlation = np.corrcoef(table.T)
    return float(max(DRAWS * correlation[pair] ** 2 for pair in itertools.combinations(range(UNITS), 2)))


CHI_SQUARE = 30.0  # exceeded by one of 276 independent pairs with probability 1e-5


def test_equal_user_seeds_give_one_draw_of_the_whole_dataset(seen: Seen) -> None:
    table = matrix(seen.gave("masks"))
    assert frequency_off(table) < 5  # standard errors; the largest of 24 passes 4 once in 700 runs
    assert dependence(table) < CHI_SQUARE
    both = [steps for steps in zip(*seen.gave("masks"), strict=True) if steps[0] and steps[1]]
    assert len(both) > DRAWS / 2  # the work is really shared


@pytest.mark.parametrize("scene", ["equal masks", "opacus"])
def test_draws_of_each_process_from_the_same_seed_would_be_seen(seen: Seen, scene: str) -> None:
    """A planted fault, and the sampler of Opacus: units of two processes always come together."""
    assert dependence(matrix(seen.gave(scene))) > 10 * CHI_SQUARE


def test_processes_that_draw_differently_are_stopped(seen: Seen) -> None:
    assert seen.errors("unequal draws") == ["DataError", "DataError"]


# nobody waits for ever, nothing is forgotten


def test_kill_9_of_all_and_resuming_with_another_number_of_processes_spends_the_same(seen: Seen) -> None:
    assert [one["signal"] for one in seen.scenes["killed"]] == [9, 9]
    whole = seen.gave("one")[0]
    assert seen.gave("resumed") == [{"epsilon": whole["epsilon"], "steps": 6}] * 3
    lines = [json.loads(line)["step"] for line in seen.run("killed").ledger_path.read_text().splitlines()]
    # Rounding with another number of processes moves the weights: step 3 is passed over, not repeated.
    assert lines == [0, 1, 2, 3, 2, 4, 5]


def test_an_error_or_silence_of_one_process_ends_the_others(seen: Seen) -> None:
    assert seen.errors("error") == ["Interrupted", "MemoryError"]
    assert seen.errors("silence")[0] == "Interrupted"
    assert "gone or silent" in seen.scenes["silence"][0]["message"]


def test_a_wish_to_stop_of_one_process_stops_all_after_the_same_step(seen: Seen) -> None:
    assert seen.errors("stop") == ["Interrupted", "Interrupted"]
    messages = {one["message"] for one in seen.scenes["stop"]}
    assert len(messages) == 1
    step = checkpoint.load(seen.run("stop"), "last")["step"]
    assert f"after step {step};" in messages.pop()


def test_what_is_refused_is_refused_by_all(seen: Seen) -> None:
    assert seen.errors("begun") == ["UsageError", "UsageError"]
    assert seen.errors("disagree") == ["Interrupted", "DataError"]
    assert seen.errors("batch norm") == ["ConfigError", "ConfigError"]


def test_without_privacy_the_run_is_the_same_too(seen: Seen) -> None:
    (one,), two = seen.gave("plain1"), seen.gave("plain2")
    assert two == [pytest.approx(one, rel=1e-5)] * 2
    alone, shared = (
        checkpoint.load(seen.run(name), "last")["players"]["model"]["weights"]
        for name in ("plain1", "plain2")
    )
    assert all(torch.allclose(value, shared[key], atol=1e-5) for key, value in alone.items())


def test_a_threshold_that_follows_the_norms_follows_those_of_all_processes(seen: Seen) -> None:
    (one,) = seen.gave("adaptive1")
    assert one != 1.0
    assert seen.gave("adaptive3") == [pytest.approx(one, rel=1e-6)] * 3


# a whole recipe, as a user starts it


def start(folder: Path, data: Path, processes: int) -> Path:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        "meninx",
    ]
    words = ["train", str(data), *WORDS, "--out", str(folder)]
    done = subprocess.run(
        [*command, *words], env=environment(), timeout=300, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("privacy: epsilon") == 1  # one of them speaks
    return folder / "latest"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_recipe_runs_unchanged_under_torchrun(tmp_path: Path, processes: int) -> None:
    data = write_dataset(tmp_path / "data", patients=18, size=32).root
    assert app.run(["train", str(data), *WORDS, "--out", str(tmp_path / "alone")]) == 0
    alone, shared = Run(tmp_path / "alone" / "latest"), Run(start(tmp_path / "shared", data, processes))
    one, many = (checkpoint.load(run, "last")["players"]["model"]["weights"] for run in (alone, shared))
    assert all(torch.allclose(value, many[key], atol=1e-5) for key, value in one.items())
    one, several = alone.read_json("privacy.json"), shared.read_json("privacy.json")
    bounds = [table.pop("risk") for table in (one, several)]
    same_steps = {"origin": None, "ledger": None}  # its lines name the weights, which rounding moves
    assert {**one, **same_steps} == {**several, **same_steps}
    assert one["ledger"][0] == several["ledger"][0] == 3
    assert bounds[0].pop("tpr_at_fpr") == pytest.approx(bounds[1].pop("tpr_at_fpr"), rel=1e-9)
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-9)  # sums of a table, in another order
    assert (shared.release / "bundle" / "models" / "model.pt").is_file()
    assert len(shared.ledger_path.read_text().splitlines()) == 3
    assert alone.metrics_path.read_text().count("\n") == shared.metrics_path.read_text().count("\n")


# pieces


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 8))
def test_shares_are_runs_of_whole_units_and_together_everything(sizes: list[int], size: int) -> None:
    groups = tuple((number,) * count for number, count in enumerate(sizes))
    shares = [UnitBatch(groups).share(rank, size) for rank in range(size)]
    assert tuple(group for part in shares for group in part.units) == groups
    assert all(groups[part.first : part.first + len(part)] == part.units for part in shares)
    fair = sum(sizes) / size
    assert all(abs(part.cases - fair) <= max(sizes, default=0) for part in shares)


def test_a_world_of_one_changes_nothing() -> None:
    world, tensor = World(), torch.ones(3)
    assert world.all_reduce([tensor], [2.0], same="draw") == [2.0]
    assert tensor.tolist() == [1.0] * 3
    assert world.shared(lambda: (1, "two")) == (1, "two")
    world.agree("settings", lambda: pytest.fail("nobody to agree with"))
    with distributed.joined() as joined:
        assert joined == world


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], World]]:
    """A function that makes this process the second of two on a machine with so many GPUs."""
    chosen: list[int] = []

    def make(gpus: int) -> World:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return World(rank=1, size=2, local=1)
        return World(rank=1, size=2, local=1)

    yield make
    assert chosen in ([], [1])


def test_every_process_has_a_gpu_of_its_own(second_of_two: Callable[[int], World]) -> None:
    assert distributed.own_device("cuda:1", World()) == "cuda:1"  # one process: as asked
    world = second_of_two(2)
    assert distributed.own_device("auto", world) == "cuda:1"
    assert distributed.own_device("cpu", world) == "cpu"
    with pytest.raises(ConfigError, match="each of several"):
        distributed.own_device("cuda:0", world)
    second_of_two(1)
    with pytest.raises(ConfigError, match="a GPU for each process"):
        distributed.own_device("cuda", world)


def test_without_gpus_the_processes_share_the_cpu(second_of_two: Callable[[int], World]) -> None:
    assert distributed.own_device("auto", second_of_two(0)) == "cpu"


def test_layers_that_keep_statistics_are_refused_on_several_processes_unless_frozen(
    second_of_two: Callable[[int], World],
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    distributed.refuse_shared_statistics(model, World())
    world = second_of_two(0)
    with pytest.raises(ConfigError, match="group normalisation"):
        distributed.refuse_shared_statistics(model, world)
    distributed.refuse_shared_statistics(model.eval(), world)


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK"), distributed.joined():
        pass


def test_only_training_runs_in_several_processes() -> None:
    several = environment() | {"WORLD_SIZE": "2", "RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "meninx", "prepare"], env=several, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "expected the verb train" in done.stderr
