"""The loop with differential privacy: records before each step, refusals, and resuming."""

from __future__ import annotations

import copy
import json
import math
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, Interrupted, PrivacyRefusal, UsageError
from meninx.core.intensity import Intensity
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.learn import checkpoint, guarantee, inference, ledger_file
from meninx.learn.config import LearnConfig
from meninx.learn.fitting import fit
from meninx.models import registry
from meninx.privacy.plan import Plan

SMALL = LearnConfig.of(
    model="resnet9-small",
    model_options={"width": 4},
    physical_batch=4,
    device="cpu",
    lr=1e-2,
    optimizer="momentum",
    attack_risk=False,
    deterministic=True,
)
Data = Callable[..., Manifest]
NewRun = Callable[..., Run]


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "n_units": 8,
        "expected_batch_size": 4,
        "unit": PrivacyUnit.CASE,
        "steps": 6,
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
        "delta": 1e-3,
    }
    return Plan.build(**fields | changes)


class Crash(Silent):
    """Progress that ends the process after some steps, with Ctrl-C or worse."""

    def __init__(self, steps: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.left, self.error = steps, error

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= count
        if not self.left:
            raise self.error


class Killed(BaseException):
    """As good as kill -9: nobody catches it."""


def last(run: Run) -> dict[str, Any]:
    return checkpoint.load(run, "last")


def weights(run: Run) -> dict[str, Tensor]:
    return last(run)["players"]["model"]["weights"]


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.ledger_path.read_text().splitlines()]


def test_a_private_run_has_one_ledger_line_a_step_and_says_what_it_spent(
    dataset: Data, new_run: NewRun
) -> None:
    run = new_run()
    result = fit(SMALL, dataset(), run, plan=plan())
    assert [entry["step"] for entry in lines(run)] == list(range(6))
    table = run.read_json("privacy.json")
    assert table["epsilon"] == pytest.approx(plan().epsilon(), rel=1e-6)
    assert table["epsilon"] == result.epsilon
    assert (table["unit"], table["steps"], table["sampler"]) == ("case", 6, "poisson")
    assert "epsilon =" in table["sentence"]
    assert table["deterministic"]
    assert result.private
    assert result.weights == "last"


def test_progress_shows_an_epsilon_that_is_never_too_small(dataset: Data, new_run: NewRun) -> None:
    seen: list[float] = []

    class Listen(Silent):
        def advance(self, count: int = 1, **fields: float | str) -> None:
            seen.append(float(fields["epsilon"]))

    fit(SMALL, dataset(), new_run(), plan=plan(), progress=Listen())
    assert all(shown >= plan().epsilon(step) * (1 - 1e-9) for step, shown in enumerate(seen, 1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
def test_resuming_a_private_run_gives_the_same_weights_and_the_same_epsilon(
    error: type[BaseException], dataset: Data, new_run: NewRun
) -> None:
    data, straight, broken = dataset(), new_run("straight"), new_run("broken")
    config = SMALL.replace(eval_every=2, augment=("flip", "shift"), ema=0.9)
    fit(config, data, straight, plan=plan())
    with pytest.raises(Interrupted if error is KeyboardInterrupt else Killed):
        fit(config, data, broken, plan=plan(), progress=Crash(3, error))
    fit(config, data, broken, plan=plan(), resume=True)
    assert same(weights(straight), weights(broken))
    assert straight.read_json("privacy.json")["epsilon"] == broken.read_json("privacy.json")["epsilon"]
    assert len(lines(broken)) == (
        6 if error is KeyboardInterrupt else 7
    )  # a killed step is written twice, spent once
    assert straight.metrics_path.read_text() == broken.metrics_path.read_text()


def test_the_line_is_on_the_disk_before_the_optimiser_moves(
    dataset: Data, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, written = new_run(), []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *rest: Any) -> Any:
        written.append(len(lines(run)))
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    fit(SMALL, dataset(), run, plan=plan(steps=3))
    assert written == [1, 2, 3]


def test_a_checkpoint_ahead_of_its_ledger_is_refused(dataset: Data, new_run: NewRun) -> None:
    run, data = new_run(), dataset()
    with pytest.raises(Interrupted):
        fit(SMALL, data, run, plan=plan(), progress=Crash(3))
    kept = run.ledger_path.read_text().splitlines(keepends=True)
    run.ledger_path.write_text("".join(kept[:-1]))
    with pytest.raises(PrivacyRefusal, match="shortened"):
        fit(SMALL, data, run, plan=plan(), resume=True)


def test_a_run_cannot_change_between_private_and_plain(dataset: Data, new_run: NewRun) -> None:
    data, plain, private = dataset(), new_run("plain"), new_run("private")
    config = SMALL.replace(steps=6, batch_size=4)
    other = plan(max_grad_norm=2.0)
    for run, first, second in (
        (plain, None, plan()),
        (private, plan(), None),
        (new_run("other"), plan(), other),
    ):
        with pytest.raises(Interrupted):
            fit(config, data, run, plan=first, progress=Crash(2))
        with pytest.raises(PrivacyRefusal, match="plan"):
            fit(config, data, run, plan=second, resume=True)


def test_a_lost_key_is_refused_and_keys_are_for_the_owner_alone(dataset: Data, new_run: NewRun) -> None:
    run, data = new_run(), dataset()
    with pytest.raises(Interrupted):
        fit(SMALL, data, run, plan=plan(), progress=Crash(2))
    keys = sorted((run.private / "keys").iterdir())
    assert [path.name for path in keys] == ["noise.key", "sampling.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    keys[0].unlink()
    with pytest.raises(PrivacyRefusal, match="noise key"):
        fit(SMALL, data, run, plan=plan(), resume=True)


def test_without_deterministic_two_runs_draw_different_noise(dataset: Data, new_run: NewRun) -> None:
    data, config = dataset(), SMALL.replace(deterministic=False)
    first, second = new_run("first"), new_run("second")
    for run in (first, second):
        fit(config, data, run, plan=plan(steps=1))
    assert not same(weights(first), weights(second))
    assert (first.private / "keys/noise.key").read_bytes() != (second.private / "keys/noise.key").read_bytes()


def test_a_draw_of_nobody_is_a_noisy_step(dataset: Data, new_run: NewRun) -> None:
    run = new_run()
    nobody = plan(n_units=10**6, expected_batch_size=1, steps=2, delta=1e-8)
    fit(SMALL, dataset(), run, plan=nobody)
    log = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert [entry["units"] for entry in log if entry["kind"] == "train"] == [0, 0]
    assert len(lines(run)) == 2
    fresh = new_run("fresh")
    fit(SMALL.replace(lr=1e-30), dataset(), fresh, plan=nobody)
    assert not same(weights(run), weights(fresh))


def test_all_cases_of_a_patient_are_clipped_once(
    dataset: Data, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    original = Plan.clipped_sum

    def watched(self: Plan, model: nn.Module, loss: Any, inputs: Tensor, targets: Tensor, **rest: Any) -> Any:
        part = original(self, model, loss, inputs, targets, **rest)
        norm = math.sqrt(sum(float(value.square().sum()) for value in part.gradients.values()))
        seen.append((part.units, len(inputs)))
        assert norm <= part.units * self.max_grad_norm * (1 + 1e-5)
        return part

    monkeypatch.setattr(Plan, "clipped_sum", watched)
    patients = plan(n_units=4, expected_batch_size=4, unit=PrivacyUnit.PATIENT, steps=1)
    fit(SMALL, dataset(cases_per_patient=2), new_run(), plan=patients)
    assert seen == [(2, 4), (2, 4)]  # physical batches of four images never divide a patient
    seen.clear()
    fit(SMALL.replace(cases_per_patient=1), dataset(cases_per_patient=2), new_run("few"), plan=patients)
    assert seen == [(4, 4)]


def test_views_are_the_average_of_their_gradients(dataset: Data, new_run: NewRun) -> None:
    data = dataset()
    everyone = plan(expected_batch_size=8, steps=1, max_grad_norm=1e6, noise_multiplier=1e-12)
    runs = [new_run(name) for name in ("one", "two")]
    fit(SMALL.replace(optimizer="sgd"), data, runs[0], plan=everyone)
    fit(SMALL.replace(optimizer="sgd", views=3), data, runs[1], plan=replace(everyone, views=3))
    for one, two in zip(weights(runs[0]).values(), weights(runs[1]).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)  # three equal views average to one


def test_the_private_step_without_clipping_and_noise_is_the_plain_step(
    dataset: Data, new_run: NewRun
) -> None:
    data, config = (
        dataset(),
        SMALL.replace(optimizer="sgd", batch_size=8, steps=1, augment=("flip", "shift")),
    )
    plain, private = new_run("plain"), new_run("private")
    fit(config, data, plain)
    everyone = plan(expected_batch_size=8, steps=1, max_grad_norm=1e6, noise_multiplier=1e-12)
    fit(config, data, private, plan=everyone)
    for one, two in zip(weights(plain).values(), weights(private).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_private_run_learns_what_a_plain_one_does(dataset: Data, new_run: NewRun) -> None:
    run = new_run()
    data = dataset(cases=16)
    quiet = plan(n_units=16, expected_batch_size=16, steps=30, noise_multiplier=0.0)
    fit(SMALL.replace(lr=0.05, physical_batch=16, model_options={"width": 8}), data, run, plan=quiet)
    assert run.read_json("privacy.json")["epsilon"] is None  # without noise nothing is promised
    model, config, info = inference.load_model(run)
    said = inference.predict(model, info, data.split("train"), config)
    assert (said.probabilities.argmax(1) == data.split("train").targets().argmax(1)).mean() > 0.9


def test_segmentation_trains_privately_too(dataset: Data, new_run: NewRun) -> None:
    run = new_run()
    config = SMALL.replace(model="unet-small", model_options={"base": 2, "depth": 2}, patch_size=(8, 8))
    result = fit(config, dataset(TaskKind.SEGMENTATION), run, plan=plan(steps=2))
    assert result.metric_name == "dice"
    assert len(lines(run)) == 2


def test_batch_norm_is_refused(dataset: Data, new_run: NewRun) -> None:
    config = SMALL.replace(
        model="monai:BasicUNet", model_options={"features": (4, 4, 4, 4, 4, 4), "norm": "batch"}
    )
    with pytest.raises(PrivacyRefusal, match="GroupNorm"):
        fit(
            config,
            dataset(TaskKind.SEGMENTATION, size=(32, 32)),
            new_run(),
            plan=plan(steps=1, expected_batch_size=8),
        )


def test_class_weights_from_private_labels_are_refused(dataset: Data, new_run: NewRun) -> None:
    with pytest.raises(PrivacyRefusal, match="class_weights"):
        fit(SMALL.replace(class_weights="balanced"), dataset(), new_run(), plan=plan())


def test_plan_and_config_must_agree(dataset: Data, new_run: NewRun) -> None:
    with pytest.raises(ConfigError, match="views"):
        fit(SMALL.replace(views=2), dataset(), new_run(), plan=plan())
    with pytest.raises(PrivacyRefusal, match="at most 6 units"):
        fit(SMALL, dataset(), new_run("more"), plan=plan(n_units=6))


def test_an_intensity_from_the_training_images_is_refused(dataset: Data, new_run: NewRun) -> None:
    data = dataset()
    data = replace(data, info=replace(data.info, intensity=Intensity(source="train")))
    run = new_run()
    with pytest.raises(PrivacyRefusal, match=r"intensity.*--intensity format"):
        fit(SMALL, data, run, plan=plan(steps=1))
    assert not run.ledger_path.exists()
    assert fit(SMALL.replace(epochs=1), data, new_run("plain")).steps


def test_what_lies_outside_the_guarantee_is_named(dataset: Data, new_run: NewRun) -> None:
    data, run = dataset(), new_run()
    config = SMALL.replace(select="best", early_stopping=50, schedule="plateau", deterministic=False)
    result = fit(config, data, run, plan=plan(steps=2))
    said = " ".join(run.read_json("privacy.json")["outside_guarantee"])
    for word in ("selected", "stopped early", "learning rate"):
        assert word in said
    assert result.weights == "best"
    silent = SMALL.replace(deterministic=False)
    units, *always = fit(silent, dataset(), new_run("silent"), plan=plan(steps=1)).outside_guarantee
    assert "training units" in units
    assert "counts as public" in units
    declared = fit(silent, dataset(), new_run("declared"), plan=plan(n_units=40, steps=1))
    assert declared.outside_guarantee == tuple(always)
    size, classes, measured = always
    assert "input size" in size
    assert classes == guarantee.CLASSES
    assert measured == guarantee.MEASURED
    nameless = dataset()
    nameless = replace(nameless, info=replace(nameless.info, patients_known=False))
    assert any(
        "single image" in item
        for item in fit(silent, nameless, new_run("nameless"), plan=plan()).outside_guarantee
    )


def test_a_second_start_in_the_same_folder_is_refused(dataset: Data, new_run: NewRun) -> None:
    run, data = new_run(), dataset()
    fit(SMALL, data, run, plan=plan(steps=1))
    with pytest.raises(UsageError, match="--resume"):
        fit(SMALL, data, run, plan=plan(steps=1))


def test_only_trained_parameters_get_noise(dataset: Data, new_run: NewRun) -> None:
    run, start = new_run(), new_run("start")
    data = dataset()
    fit(SMALL.replace(freeze="features"), data, run, plan=plan(steps=2))
    fit(SMALL.replace(freeze="features", lr=1e-30), data, start, plan=plan(steps=1))
    before, after = weights(start), weights(run)
    head = registry.head_prefix(inference.load_model(run)[0])
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in after if name.startswith(head)}


def test_the_loss_of_a_private_run_stays_in_the_private_room(dataset: Data, new_run: NewRun) -> None:
    run = new_run()
    fit(SMALL, dataset(), run, plan=plan(steps=1))
    outside = [path for path in run.root.rglob("*") if path.is_file() and run.private not in path.parents]
    assert not any("loss" in path.read_text() for path in outside)


def test_every_part_that_determines_a_step_is_in_its_binding(dataset: Data) -> None:
    data, before = dataset(), nn.Linear(3, 2)
    moved, frozen = copy.deepcopy(before), copy.deepcopy(before)
    with torch.no_grad():
        moved.weight[0, 0] += 1e-3
    frozen.bias.requires_grad_(False)
    terms: dict[str, Any] = {
        "config": SMALL,
        "data": data,
        "network": before,
        "plan": plan(),
        "stream": "keys",
    }
    others: list[dict[str, Any]] = [
        {"config": SMALL.replace(lr=SMALL.optim.lr * 2)},
        {"config": SMALL.replace(seed=SMALL.runtime.seed + 1)},
        {"data_digest": "d1"},
        {"data_digest": "d2"},
        {"network": moved},
        {"network": frozen},
        {"plan": plan(noise_multiplier=3.0)},
        {"stream": "other keys"},
    ]
    found = [ledger_file.binding_of(**{**terms, **change}) for change in ({}, *others)]
    assert len(set(found)) == len(found)
    assert ledger_file.binding_of(**{**terms, "network": copy.deepcopy(before)}) == found[0]
    assert ledger_file.binding_of(**{**terms, "config": SMALL.replace(physical_batch=3)}) == found[0]
