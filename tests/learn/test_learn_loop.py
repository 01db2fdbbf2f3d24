"""The loop without privacy: it learns, stops, resumes and says what went wrong."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from meninx.core.errors import ConfigError, DataError, Interrupted, UsageError
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.imaging import load
from meninx.learn import checkpoint, inference
from meninx.learn.config import LearnConfig
from meninx.learn.fitting import fit
from meninx.metrics import segmentation

TINY = {
    "model": "resnet9-small",
    "model_options": {"width": 8},
    "batch_size": 4,
    "physical_batch": 4,
    "device": "cpu",
}


class StopAfter(Silent):
    """Progress of a user who presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= count
        if not self.left:
            raise KeyboardInterrupt


class Listener(Silent):
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.fields: list[dict[str, float | str]] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.fields.append(fields)


def weights(run: Run, name: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.load(run, name)["players"]["model"]["weights"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_eight_pictures_are_learnt_by_heart(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data, run = dataset(), new_run()
    result = fit(LearnConfig.of(**TINY, steps=40, lr=3e-3, ema=0.9), data, run)
    model, config, info = inference.load_model(run, weights="last")
    said = inference.predict(model, info, data.split("train"), config)
    assert np.array_equal(said.probabilities.argmax(1), data.split("train").targets().argmax(1))
    assert result.train_loss < 0.3
    assert result.steps == 40
    assert result.metric_name == "auroc"
    assert not result.private
    assert math.isinf(result.epsilon)
    assert run.read_json("privacy.json")["private"] is False


def test_unet_reaches_dice_of_95_percent_on_four_pictures(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data, run = dataset(TaskKind.SEGMENTATION, cases=4), new_run()
    config = LearnConfig.of(
        **TINY | {"model": "unet-small", "model_options": {"depth": 2}}, steps=60, lr=1e-2
    )
    fit(config, data, run)
    model, loaded, info = inference.load_model(run, weights="last")
    train = data.split("train")
    scores = [
        segmentation.dice(label_map, load.load(data.root / case.mask).array[0], 1)
        for case, label_map in inference.predict_maps(model, info, train, loaded)
    ]
    assert np.mean(scores) > 0.95


EVERYTHING = {
    "optimizer": "nadam",
    "ema": 0.9,
    "augment": ("flip", "shift", "rotate", "intensity"),
    "views": 2,
    "schedule": "cosine",
    "sampling": "poisson",
}


@pytest.mark.parametrize("extra", [{}, EVERYTHING], ids=["plain", "everything"])
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    extra: dict[str, object], dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data = dataset()
    config = LearnConfig.of(**TINY, steps=6, deterministic=True, **extra)  # type: ignore[arg-type]
    straight, broken = new_run("straight"), new_run("broken")
    fit(config, data, straight)
    with pytest.raises(Interrupted, match="step 3"):
        fit(config, data, broken, progress=StopAfter(3))
    fit(config, data, broken, resume=True)
    assert same(weights(straight), weights(broken))
    first, second = checkpoint.load(straight, "last"), checkpoint.load(broken, "last")
    assert first["best"] == second["best"]
    if extra:
        assert same(
            first["players"]["model"]["average"]["shadow"], second["players"]["model"]["average"]["shadow"]
        )
    assert straight.metrics_path.read_text() == broken.metrics_path.read_text()


def test_dropout_is_the_same_after_resuming(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data = dataset(TaskKind.SEGMENTATION)
    network = {
        "model": "monai:SegResNet",
        "model_options": {"init_filters": 8, "dropout_prob": 0.3, "blocks_down": [1, 1]},
    }
    network["model_options"]["blocks_up"] = [1]  # type: ignore[index]
    config = LearnConfig.of(**TINY | network, steps=4, deterministic=True)  # type: ignore[arg-type]
    straight, broken = new_run("straight"), new_run("broken")
    fit(config, data, straight)
    with pytest.raises(Interrupted):
        fit(config, data, broken, progress=StopAfter(3))
    torch.rand(7)
    fit(config, data, broken, resume=True)
    assert same(weights(straight), weights(broken))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_ends_after_the_step_and_leaves_the_handlers_as_they_were(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run], number: signal.Signals
) -> None:
    class Press(Silent):
        def advance(self, count: int = 1, **fields: float | str) -> None:
            os.kill(os.getpid(), number)

    def unheard(*given: object) -> None:
        raise AssertionError("the signal interrupts a step")

    before, run = signal.signal(number, unheard), new_run()
    try:
        with pytest.raises(Interrupted, match=r"after step 1;.*--resume"):
            fit(LearnConfig.of(**TINY, steps=4), dataset(), run, progress=Press())
        assert signal.getsignal(number) is unheard
    finally:
        signal.signal(number, before)
    assert checkpoint.load(run, "last")["step"] == 1


def test_early_stopping_ends_a_run_that_does_not_improve(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    run = new_run()
    config = LearnConfig.of(**TINY, steps=50, eval_every=1, lr=1e-12, optimizer="sgd", early_stopping=3)
    result = fit(config, dataset(), run)
    assert result.stopped_early
    assert (result.best_step, result.steps) == (1, 4)
    assert fit(config, dataset(seed=0), run, resume=True).steps == 4  # it stays stopped


def test_a_second_start_is_refused_and_more_steps_are_welcome(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data, run = dataset(), new_run()
    config = LearnConfig.of(**TINY, steps=2, deterministic=True)
    fit(config, data, run)
    with pytest.raises(UsageError, match="--resume"):
        fit(config, data, run)
    with pytest.raises(ConfigError, match=r"started with: optimizer, lr"):
        fit(config.replace(lr=0.5, optimizer="sgd"), data, run, resume=True)
    assert fit(config.replace(steps=4), data, run, resume=True).steps == 4
    straight = new_run("straight")
    fit(config.replace(steps=4), data, straight)
    assert same(weights(run), weights(straight))


def test_divergence_is_said_with_advice(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    config = LearnConfig.of(**TINY, steps=30, lr=1e30, optimizer="sgd")
    with pytest.raises(DataError, match=r"finite loss.*lower lr"):
        fit(config, dataset(), new_run())


def test_data_that_cannot_be_trained_on_is_refused(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data = dataset()
    config = LearnConfig.of(**TINY, steps=1)
    with pytest.raises(DataError, match="training split"):
        fit(config, data.split("valid"), new_run("a"))
    with pytest.raises(ConfigError, match="validation cases"):
        fit(config.replace(early_stopping=1), data.split("train"), new_run("b"))
    bare = dataset(TaskKind.SEGMENTATION)
    bare = replace(bare, cases=tuple(replace(case, mask="") for case in bare.cases))
    with pytest.raises(DataError, match="has a mask"):
        fit(config.replace(model="unet-small", model_options={}), bare, new_run("c"))


def test_the_physical_batch_changes_nothing_but_rounding(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data, large, small = dataset(), new_run("large"), new_run("small")
    config = LearnConfig.of(**TINY | {"batch_size": 8}, steps=3, optimizer="sgd", augment=("flip",), views=2)
    fit(config.replace(physical_batch=16), data, large)
    fit(config.replace(physical_batch=5), data, small)
    for one, two in zip(weights(large).values(), weights(small).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_tensorboard_and_the_metrics_file_hold_the_curves(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    run, listener = new_run(), Listener()
    fit(LearnConfig.of(**TINY, steps=3, tensorboard=True, eval_every=2), dataset(), run, progress=listener)
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 1),
        ("train", 2),
        ("valid", 2),
        ("train", 3),
        ("valid", 3),
    ]
    assert {"loss", "auroc"} <= set(lines[2])
    assert any((run.private / "tensorboard").iterdir())
    assert all("loss" in fields and "epsilon" not in fields for fields in listener.fields)


def test_balanced_weights_favour_the_rare_class(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data = dataset()
    rare = tuple(
        replace(case, labels={"dark": float(number != 0), "bright": float(number == 0)})
        for number, case in enumerate(data.cases)
    )
    result = fit(
        LearnConfig.of(**TINY, steps=1, class_weights="balanced"), replace(data, cases=rare), new_run()
    )
    assert result.steps == 1


def test_labels_that_are_partly_unknown_are_learnt_from(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    data = dataset(TaskKind.MULTILABEL)
    cases = tuple(replace(case, labels={**case.labels, "dark": None}) for case in data.cases)
    result = fit(LearnConfig.of(**TINY, steps=20, lr=3e-3), replace(data, cases=cases), new_run())
    assert result.train_loss < 0.5


def test_training_leaves_the_global_generators_alone(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    fit(LearnConfig.of(**TINY, steps=1, deterministic=True, threads=1), dataset(), new_run())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())


def test_an_unknown_device_is_refused(dataset: Callable[..., Manifest], new_run: Callable[..., Run]) -> None:
    for name in ("gpu", "cuda:77"):
        with pytest.raises(ConfigError, match="device"):
            fit(LearnConfig.of(**TINY | {"device": name}, steps=1), dataset(), new_run(name))


def test_gradual_unfreezing_frees_more_and_more(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    listener = Listener()
    config = LearnConfig.of(**TINY, epochs=3, freeze="features", unfreeze_every=1)
    fit(config, dataset(), new_run(), progress=listener)
    counts = [int(note.split(": ")[1].split(" of ")[0]) for note in listener.notes]
    assert len(counts) == 3
    assert counts == sorted(counts, reverse=True)
