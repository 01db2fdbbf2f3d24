"""Batches made ahead: the same for any number of workers, few at a time, with clean ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meninx.core import integrity
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import DataError, Interrupted
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.learn import checkpoint
from meninx.learn import loader as loading
from meninx.learn.augment import augmenter
from meninx.learn.batches import Assembler, Batch
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore
from meninx.learn.distributed import World
from meninx.learn.fitting import fit
from meninx.learn.loader import BatchLoader, worker_count
from meninx.learn.runtime import memory_format
from meninx.learn.sampler import ShuffleSampler, UnitBatch
from meninx.privacy.plan import Plan

Data = Callable[..., Manifest]
ALL = ("flip", "vflip", "shift", "rotate", "crop", "intensity")
STEPS = 5


def made(data: Manifest, count: int = 0, **changes: Any) -> BatchLoader:
    config = LearnConfig.of(**{"augment": ALL, "views": 2, **changes})
    store = CaseStore(data, config.model)
    device = torch.device("cpu")
    return BatchLoader(
        Assembler(store, augmenter(config.augment, data.info), config.sampling.views, 0.5, 7, device),
        workers=count,
    )


def sampler(data: Manifest, batch: int = 5) -> ShuffleSampler:
    return ShuffleSampler(len(data), batch, 3)


def everything(loader: BatchLoader, draw: Callable[[int], UnitBatch], most: int = 3) -> list[Batch]:
    return [batch for step in range(STEPS) for batch in loader.batches(draw(step), step, most)]


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("inputs", "targets", "unit", "row_keys"):
            assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that assembled a batch."""
    names: list[str] = []
    original = Assembler.assembled

    def noted(self: Assembler, *args: Any, **more: Any) -> Batch:
        names.append(threading.current_thread().name)
        return original(self, *args, **more)

    monkeypatch.setattr(Assembler, "assembled", noted)
    return names


@pytest.mark.parametrize(
    ("task", "size", "changes"),
    [
        (TaskKind.MULTICLASS, (224, 224), {}),  # large enough for torch to use several threads
        (TaskKind.SEGMENTATION, (40, 40), {"patch_size": (24, 24)}),
        (TaskKind.SEGMENTATION, (14, 12, 16), {"patch_size": (8, 8, 8)}),
    ],
)
def test_any_number_of_workers_gives_the_same_tensors(
    dataset: Data, alone: list[str], task: TaskKind, size: tuple[int, ...], changes: dict[str, Any]
) -> None:
    data = dataset(task, cases=12, valid=0, size=size)
    expected = everything(made(data, **changes), sampler(data))
    for count in (1, 2):
        alone.clear()
        with made(data, count, **changes) as loader:
            loader.follow(sampler(data), until=STEPS)
            assert_same(everything(loader, sampler(data)), expected)
        assert sum(name.startswith("batches") for name in alone) == len(expected) - 1  # all but the first


@pytest.fixture
def nine(dataset: Data) -> Manifest:
    return dataset(cases=9, valid=0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_asked_for_is_what_comes(data: st.DataObject, nine: Manifest) -> None:
    group = st.lists(st.integers(0, 8), min_size=1, max_size=3).map(tuple)
    asked = data.draw(
        st.lists(st.tuples(st.lists(group, max_size=4).map(tuple), st.integers(0, 6)), max_size=6)
    )
    guessed = data.draw(st.booleans())
    plain = made(nine)
    with made(nine, data.draw(st.integers(1, 3))) as loader:
        draws = {step: UnitBatch(units) for units, step in asked if guessed}
        loader.follow(lambda step: draws.get(step, UnitBatch(((0,),))), until=data.draw(st.integers(0, 7)))
        for units, step in asked:
            batch, most = UnitBatch(units), data.draw(st.integers(1, 4))
            assert_same(list(loader.batches(batch, step, most)), list(plain.batches(batch, step, most)))


def test_processes_that_share_a_step_guess_their_own_part(dataset: Data, alone: list[str]) -> None:
    data = dataset(cases=12, valid=0)
    draw = sampler(data)
    for rank in range(2):

        def own(step: int, rank: int = rank) -> UnitBatch:
            return draw(step).share(rank, 2)

        expected = everything(made(data), own)
        alone.clear()
        with made(data, 1) as loader:
            loader.follow(draw, until=STEPS, world=World(rank=rank, size=2))
            assert_same(everything(loader, own), expected)
        assert sum(name.startswith("batches") for name in alone) == len(expected) - 1


def test_few_batches_wait(dataset: Data, alone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(cases=12, valid=0)
    with made(data, 2) as loader:
        loader.follow(sampler(data), until=1000)
        stream = loader.batches(sampler(data)(0), 0, 1)
        next(stream)
        next(stream)
        assert len(loader._waiting) <= 4
    monkeypatch.setattr(loading, "AHEAD_BYTES", 1)
    with made(data, 2) as loader:
        loader.follow(sampler(data), until=1000)
        stream = loader.batches(sampler(data)(0), 0, 1)
        for _ in range(5):
            next(stream)
        assert len(loader._waiting) == 1


def threads() -> int:
    return sum(thread.name.startswith("batches") for thread in threading.enumerate())


def test_a_consumer_that_stops_early_leaves_no_thread_and_waits_for_nothing(dataset: Data) -> None:
    data = dataset(cases=12, valid=0)
    for stop_at in (0, 1, 3):
        with made(data, 2) as loader:
            loader.follow(sampler(data), until=10**9)
            stream = loader.batches(sampler(data)(0), 0, 1)
            for _ in range(stop_at):
                next(stream)
            stream.close()
        assert threads() == 0
        assert len(list(loader.batches(sampler(data)(2), 2, 9))) == 1  # a closed one works again
        loader.close()


def test_close_waits_for_the_batch_at_hand_and_not_for_those_that_wait(
    dataset: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def slow(self: Assembler, units: Any, step: int, *, first: int = 0) -> Batch:
        begun.append(step)
        time.sleep(0.05)
        return original(self, units, step, first=first)

    original = Assembler.assembled
    monkeypatch.setattr(Assembler, "assembled", slow)
    data = dataset(cases=12, valid=0)
    with made(data, 1) as loader:
        loader.follow(sampler(data), until=100)
        next(loader.batches(sampler(data)(0), 0, 1))
    assert len(begun) <= 3
    assert threads() == 0


def test_the_error_of_a_worker_comes_when_its_batch_is_asked_for_and_names_the_row(
    dataset: Data, alone: list[str]
) -> None:
    data = dataset(cases=6, valid=0)
    (data.root / data.cases[3].image).write_bytes(b"torn")
    order = [UnitBatch(((case,),)) for case in range(6)]
    with made(data, 2) as loader:
        loader.follow(lambda step: order[step], until=6)
        for step in range(3):
            assert len(list(loader.batches(order[step], step, 1))) == 1
        with pytest.raises(DataError, match=r"manifest\.csv, row 5") as found:
            list(loader.batches(order[3], 3, 1))
        assert data.cases[3].patient_id not in str(found.value)
        assert data.cases[3].case_id not in str(found.value)
        assert len(list(loader.batches(order[4], 4, 1))) == 1
    assert all(name.startswith("batches") for name in alone[1:])


def test_the_threads_of_the_step_stay_as_many_as_they_were(dataset: Data) -> None:
    data, before = dataset(cases=4, valid=0), torch.get_num_threads()
    seen: list[int] = []
    with made(data, 1) as loader:
        loader.follow(sampler(data), until=3)
        everything(loader, sampler(data))
        seen.append(loader._threads().submit(torch.get_num_threads).result())
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
    assert seen == [1, before]
    assert torch.get_num_threads() == before


def test_workers_of_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.machine, "processors", lambda: 16)
    assert worker_count("auto", torch.device("cuda")) == 8
    assert worker_count("auto", torch.device("cpu")) == 0
    assert worker_count(3, torch.device("cpu")) == 3
    monkeypatch.setattr(loading.machine, "processors", lambda: 1)
    assert worker_count("auto", torch.device("cuda")) == 0


def test_a_batch_for_a_gpu_is_pinned_and_copied_without_waiting(
    dataset: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(cases=4, valid=0)
    loader = made(data)
    pinned: list[Any] = []
    moved: list[tuple[Any, Any]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, device, **more: moved.append((device, more)) or tensor
    )
    loader.assembler = replace(loader.assembler, device=torch.device("cuda"))
    (batch,) = loader.batches(UnitBatch(((0,), (1,))), 0, 2)
    assert any(tensor is batch.inputs for tensor in pinned)
    assert len(pinned) == 3
    assert moved == [(torch.device("cuda"), {"non_blocking": True})] * 3


# whole runs

SMALL = {
    "model": "resnet9-small",
    "model_options": {"width": 4, "groups": 2},
    "batch_size": 4,
    "physical_batch": 3,
    "device": "cpu",
    "augment": ALL,
    "deterministic": True,
    "steps": 6,
    "eval_every": 3,
    "attack_risk": False,
}


def plan() -> Plan:
    return Plan.build(
        n_units=8,
        expected_batch_size=4,
        unit=PrivacyUnit.PATIENT,
        steps=6,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        delta=1e-3,
    )


def listed(manifest: Manifest) -> Manifest:
    """Return the dataset with digests and a private room, as ``prepare`` leaves it."""
    root = manifest.root
    integrity.write(root, integrity.measured(root, [path for path in root.rglob("*.*") if path.is_file()]))
    (root / "private").mkdir(mode=0o700)
    return Manifest.read(root)


def trained(
    data: Manifest, run: Run, *, private: bool = False, progress: Any = None, **changes: Any
) -> dict[str, Any]:
    """Return the weights and the state of the optimiser after a run."""
    config = LearnConfig.of(**SMALL, **changes)
    fit(config, data, run, plan=plan() if private else None, progress=progress or Silent())
    return dict(checkpoint.load(run, "last")["players"]["model"]["weights"])


@pytest.mark.parametrize("private", [False, True])
def test_a_run_is_the_same_for_any_number_of_workers_with_and_without_a_cache(
    dataset: Data, new_run: Callable[..., Run], alone: list[str], private: bool
) -> None:
    data = listed(dataset())
    expected = trained(data, new_run(), private=private, cache="off")
    assert not any(name.startswith("batches") for name in alone)
    for count in (1, 2):
        weights = trained(data, new_run(), private=private, workers=count)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        assert (data.root / "private" / "cache" / "decoded.bin").is_file()
        assert threads() == 0
    assert any(name.startswith("batches") for name in alone)
    assert "decoded.bin" not in Path("/proc/self/maps").read_text()


def test_a_run_that_is_stopped_leaves_no_thread(dataset: Data, new_run: Callable[..., Run]) -> None:
    class Stopping(Silent):
        def advance(self, count: int = 1, **fields: float | str) -> None:
            if "loss" in fields:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="go on with --resume"):
        trained(dataset(), new_run(), workers=2, progress=Stopping())
    assert threads() == 0


def test_ctrl_c_while_images_are_decoded_ends_after_the_first_step(
    dataset: Data, new_run: Callable[..., Run]
) -> None:
    data = listed(dataset())

    class Pressing(Silent):
        label = ""

        def start(self, label: str, total: int | None) -> None:
            self.label = label

        def advance(self, count: int = 1, **fields: float | str) -> None:
            if self.label == "decoding images":
                signal.raise_signal(signal.SIGINT)
                self.label = ""

    with pytest.raises(Interrupted, match="after step 1"):
        trained(data, new_run(), workers=1, progress=Pressing())
    assert threads() == 0
    assert not (data.root / "private" / "cache" / "decoded.bin").exists()


@pytest.mark.parametrize("private", [False, True])
def test_channels_last_changes_nothing_but_rounding(
    dataset: Data, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    data, seen = dataset(), []
    original = BatchLoader.batches

    def noted(self: BatchLoader, *rest: Any) -> Any:
        for batch in original(self, *rest):
            seen.append(batch.inputs.stride()[1])
            yield batch

    monkeypatch.setattr(BatchLoader, "batches", noted)
    colour = replace(data, info=replace(data.info, channels=3))
    plain = trained(colour, new_run(), private=private)
    assert set(seen) == {256}
    seen.clear()
    last = trained(colour, new_run(), private=private, memory_format="channels_last")
    assert set(seen) == {1}
    for name, value in plain.items():
        assert torch.allclose(last[name], value, atol=1e-4)


def test_the_memory_format_that_auto_means() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert memory_format("auto", gpu, dims=2, private=False) == "channels_last"
    for device, dims, private in ((cpu, 2, False), (cpu, 2, True), (gpu, 3, False), (gpu, 2, True)):
        assert memory_format("auto", device, dims=dims, private=private) == "contiguous"
    assert memory_format("channels_last", cpu, dims=2, private=True) == "channels_last"
