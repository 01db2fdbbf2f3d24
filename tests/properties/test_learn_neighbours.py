"""The guarantee of the program's step: one unit less changes the clipped sums of a step by C at most.

Everything between the dataset and the noise is the program's: ``assemble.from_config``, the draw,
augmentation, patches, views, physical batches, shares of several processes, pooling. Only the release is
replaced, by one that hands out the sum before the noise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from torch import Tensor

from meninx.core import randomness
from meninx.core import run as run_folder
from meninx.core import settings as toml
from meninx.core.budget import PrivacyUnit
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.learn import assemble, runtime
from meninx.learn.assemble import Training
from meninx.learn.config import LearnConfig, learn_part
from meninx.learn.distributed import World
from meninx.learn.dp_step import PrivateStep
from meninx.learn.sampler import PrivateSampler, UnitBatch
from meninx.privacy.clipping import ClippedSum, engine
from meninx.privacy.plan import Plan
from meninx.train.config import TrainConfig

POOL = 40  # images of each kind
SHAPES = {"2d": (12, 12), "3d": (8, 8, 8)}
PRIVATE = tuple(name for name in toml.recipe_names() if "privacy" in toml.read_recipe(name)[0])
SMALLER = {
    "resnet9": {"width": 4, "groups": 2},
    "resnet9-small": {"width": 4, "groups": 2},
    "efficientnet-lite0": {"norm": "group"},  # with random weights the frozen norm gives all images alike
}
WAYS = ((1, 1), (3, 2), (64, 3))  # images in memory at once, processes
BOUND = 0.05  # below the length of every gradient here, so that each unit could move the sum by all of it
ROUNDING = 1 + 1e-5
DROPOUT: dict[str, Any] = {
    "init_features": 4,
    "growth_rate": 4,
    "block_config": (1, 1),
    "norm": ("GROUP", {"num_groups": 2}),
}
SMALL = LearnConfig.of(
    model="resnet9-small",
    model_options=SMALLER["resnet9-small"],
    physical_batch=64,
    device="cpu",
    attack_risk=False,
    deterministic=True,
    seed=3,
)


@dataclass(frozen=True)
class Pool:
    """Images on the disk, which datasets take their cases from."""

    root: Path

    def dataset(
        self, owners: Sequence[str], task: TaskKind = TaskKind.MULTICLASS, kind: str = "2d", order: int = 0
    ) -> Manifest:
        """Return the dataset in which image ``i`` is a case of patient ``owners[i]``, in random row order."""
        mapped, suffix = task is TaskKind.SEGMENTATION, ".png" if kind == "2d" else ".nii.gz"
        cases = [
            Case(
                case_id=f"c-{number}", patient_id=owner, image=f"{kind}/{number}{suffix}",
                mask=f"{kind}/mask{number}{suffix}" if mapped else "",
                labels={} if mapped else {"dark": float(number % 2), "bright": float(1 - number % 2)},
            )
            for number, owner in enumerate(owners)
        ]  # fmt: skip
        random.Random(order).shuffle(cases)
        labels = ("square",) if mapped else ("dark", "bright")
        size = SHAPES[kind]
        return Manifest(
            self.root,
            DatasetInfo(name="d", task=task, labels=labels, spatial_dims=len(size), size=size),
            tuple(cases),
        )


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    root, generator = tmp_path_factory.mktemp("pool"), np.random.default_rng(0)
    for kind, size in SHAPES.items():
        suffix = ".png" if kind == "2d" else ".nii.gz"
        for number in range(POOL):
            load.save(
                root / kind / f"{number}{suffix}",
                Image(generator.integers(0, 256, (1, *size)).astype(np.uint8)),
            )
            mask = (generator.random((1, *size)) < 0.3).astype(np.uint8)
            load.save(root / kind / f"mask{number}{suffix}", Image(mask))
    return Pool(root)


class Seen(Exception):
    """What the release was given."""

    def __init__(self, total: ClippedSum) -> None:
        super().__init__()
        self.sum = torch.cat([total.gradients[name].flatten() for name in sorted(total.gradients)]).double()
        self.units, self.norms = total.units, total.unit_norms


@dataclass(frozen=True)
class Together(World):
    """Process 0 of several, which finds what the others would send."""

    sent: tuple[tuple[list[Tensor], float, Tensor], ...] = ()

    def all_reduce(
        self, tensors: Sequence[Tensor], numbers: Sequence[float] = (), *, same: object = ""
    ) -> list[float]:
        for gradients, _, norms in self.sent:
            for tensor, part in zip(tensors, gradients if numbers else [norms], strict=True):
                tensor += part
        return [numbers[0] + sum(units for _, units, _ in self.sent), *numbers[1:]] if numbers else []


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Training]:
    """A function that builds a private run; its steps end with what they would release, before the noise."""

    def seen(plan: Plan, total: ClippedSum, *rest: Any) -> None:
        raise Seen(total)

    monkeypatch.setattr(Plan, "release", seen)
    monkeypatch.setattr(PrivateStep, "_enter", lambda *_: None)
    made = iter(range(10**6))

    def make(config: LearnConfig, data: Manifest, **changes: Any) -> Training:
        fields: dict[str, Any] = {
            "n_units": 64,
            "expected_batch_size": 64,
            "unit": PrivacyUnit.PATIENT,
            "steps": 9,
        }
        fields |= {
            "noise_multiplier": 1.0,
            "max_grad_norm": BOUND,
            "delta": 1e-3,
            "views": config.sampling.views,
        } | changes
        run = run_folder.create(tmp_path / "runs", f"r{next(made)}", config_toml="", deterministic=True)
        return assemble.from_config(
            config, data, run, Plan.build(**fields), device=torch.device("cpu"), data_digest="a dataset"
        )

    return make


def summed(
    training: Training,
    *,
    step: int = 2,
    physical: int = 64,
    ranks: int = 1,
    units: UnitBatch | None = None,
    threshold_now: float = 0.0,
) -> Tensor:
    """Return the clipped sum of one step as the program computes it with so many processes."""
    own, state = training.trainer.step, training.state
    assert isinstance(own, PrivateStep)
    own.physical_batch, state.step, state.threshold = physical, step, threshold_now
    drawn = training.trainer.sampler(step) if units is None else units
    start, sent = own.plan.threshold(), []
    for rank in range(1, ranks):
        own.world = World(rank=rank, size=ranks)
        threshold = replace(start, value=threshold_now) if threshold_now else start
        total, _ = own._clip(state.model, step, own.loader, drawn, len(drawn), threshold)
        sent.append(
            (
                [total.gradients[name] for name in sorted(total.gradients)],
                float(total.units),
                total.unit_norms,
            )
        )
    own.world = Together(rank=0, size=ranks, sent=tuple(sent))
    with pytest.raises(Seen) as found:
        own.gradients(state, drawn)
    return found.value.sum


def owners(seed: int, kind: str = "several") -> list[str]:
    """Return patients of one to four cases each, whose names contain what names may contain."""
    generator, found = random.Random(seed), []
    for number in range(4):
        found += [f"p{number}/{'x' * (number % 2)}"] * (generator.randint(1, 4) if kind == "several" else 1)
    return found


def ends(names: Sequence[str]) -> list[str]:
    """Return the first, the middle and the last."""
    return [names[0], names[len(names) // 2], names[-1]]


def without(data: Manifest, name: str, unit: PrivacyUnit = PrivacyUnit.PATIENT) -> Manifest:
    return data.select(
        lambda case: name != (case.patient_id if unit is PrivacyUnit.PATIENT else case.case_id)
    )


def worst(build: Callable[..., Training], config: LearnConfig, data: Manifest, **changes: Any) -> float:
    """Return the largest change of the sum, in units of C, when one unit is removed.

    The first, middle and last unit are removed, each sum computed another way.
    """
    unit = changes.get("unit", PrivacyUnit.PATIENT)
    whole, found = build(config, data, **changes), []
    names = data.patients if unit is PrivacyUnit.PATIENT else [case.case_id for case in data.cases]
    for gone, (physical, ranks) in zip(ends(names), WAYS, strict=True):
        before = summed(whole, physical=physical, ranks=ranks)
        assert float(before.norm()) > BOUND / 4  # somebody moves the sum
        after = summed(build(config, without(data, gone, unit), **changes), physical=physical, ranks=ranks)
        found.append(float((before - after).norm()) / BOUND)
    return max(found)


def recipe(name: str, data: Pool, **changes: Any) -> tuple[LearnConfig, Manifest, dict[str, Any]]:
    """Return a packaged recipe with a small network, a dataset of small images, and its plan's fields."""
    config = toml.build(TrainConfig, toml.read_recipe(name)[0], name)
    assert config.privacy is not None
    mapped = config.model.name.startswith("unet")
    options = {"base": 2, "depth": 2} if mapped else {**config.model.options, **SMALLER[config.model.name]}
    patch = (6,) * len(config.model.patch_size)
    learn = learn_part(config).replace(
        model_options=options,
        patch_size=patch,
        pretrained="",  # a package that is not installed here; the bound holds for any weights
        pretrained_source="",
        device="cpu",
        deterministic=True,
        attack_risk=False,
        **changes,
    )
    task = (
        TaskKind.SEGMENTATION
        if mapped
        else TaskKind.MULTILABEL
        if config.task.loss == "bce"
        else TaskKind.MULTICLASS
    )
    manifest = data.dataset(owners(sum(name.encode())), task, "3d" if mapped else "2d", order=1)
    return learn, manifest, {"unit": config.privacy.unit, "clipping": config.privacy.clipping}


LARGE = ("imagenet-features-dp", "radimagenet-dp")  # networks that need seconds


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in PRIVATE]
)
def test_a_packaged_recipe_keeps_its_bound(name: str, pool: Pool, build: Callable[..., Training]) -> None:
    config, data, fields = recipe(name, pool)
    assert worst(build, config, data, **fields) <= ROUNDING


def test_all_packaged_private_recipes_are_covered() -> None:
    assert len(PRIVATE) >= 7
    assert set(PRIVATE) >= {name for name in toml.recipe_names() if name.endswith("-dp")}


AUGMENTED = SMALL.replace(augment=("flip", "vflip", "shift", "rotate", "crop", "intensity"))
DENSE = {"model": "monai:DenseNet", "model_options": {**DROPOUT, "dropout_prob": 0.4}}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "augment": ({}, {}),
    "views": ({"views": 4}, {}),
    "few cases": ({"cases_per_patient": 1, "augment": ()}, {}),
    "case": ({"views": 2}, {"unit": PrivacyUnit.CASE}),
    "patches": ({"patch_size": (6, 6), "model": "unet-small", "model_options": {"base": 2, "depth": 2}}, {}),
    "dropout": (DENSE, {}),
    "dropout and views": ({**DENSE, "views": 4, "cases_per_patient": 2}, {}),
    "adaptive": ({"views": 2}, {"clipping": "adaptive"}),
    "per-layer": ({"views": 2}, {"clipping": "per-layer"}),
    "auto-s": ({"views": 2}, {"clipping": "auto-s"}),
}


def setting(name: str, pool: Pool) -> tuple[LearnConfig, Manifest, dict[str, Any]]:
    changes, fields = SETTINGS[name]
    task = TaskKind.SEGMENTATION if name == "patches" else TaskKind.MULTICLASS
    return AUGMENTED.replace(**changes), pool.dataset(owners(len(name)), task, order=2), fields


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_that_draws_random_numbers_keeps_the_bound(
    name: str, pool: Pool, build: Callable[..., Training]
) -> None:
    config, data, fields = setting(name, pool)
    assert worst(build, config, data, **fields) <= ROUNDING


@pytest.mark.parametrize("name", ["augment", "dropout and views", "patches"])
def test_bfloat16_keeps_the_bound(name: str, pool: Pool, build: Callable[..., Training]) -> None:
    config, data, fields = setting(name, pool)
    assert worst(build, config.replace(precision="bf16"), data, **fields) <= ROUNDING


def test_bfloat16_keeps_the_bound_in_a_large_physical_batch(
    tmp_path: Path, build: Callable[..., Training]
) -> None:
    units, generator = 256, np.random.default_rng(1)
    base, data = (
        generator.integers(100, 156, (1, 8, 8)),
        Pool(tmp_path).dataset([f"p{number}" for number in range(units)]),
    )
    for case in data.cases:  # alike, so that the sum is long and its rounding is, too
        load.save(
            tmp_path / case.image, Image((base + generator.integers(0, 3, base.shape)).astype(np.uint8))
        )
    alike = tuple(replace(case, labels=data.cases[0].labels) for case in data.cases)
    data = replace(data, cases=alike, info=replace(data.info, size=(8, 8)))
    fields = {"n_units": units, "expected_batch_size": units}
    pair = [build(SMALL.replace(precision="bf16"), each, **fields) for each in (data, without(data, "p0"))]
    first, second = (summed(training, physical=units) for training in pair)
    assert float((first - second).norm()) <= BOUND * ROUNDING


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_datasets_keep_the_bound(
    data: st.DataObject, pool: Pool, build: Callable[..., Training]
) -> None:
    counts = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=5))
    people = [f"p{number}" for number, count in enumerate(counts) for _ in range(count)]
    manifest = pool.dataset(people, order=data.draw(st.integers(0, 99)))
    config = SMALL.replace(augment=data.draw(st.sampled_from([(), ("shift",), ("flip", "intensity")])),
        views=data.draw(st.sampled_from([1, 4])),
        cases_per_patient=data.draw(st.integers(0, 2)), seed=data.draw(st.integers(0, 9)),
    )  # fmt: skip
    gone = data.draw(st.sampled_from(manifest.patients))
    way = {"physical": data.draw(st.sampled_from([1, 3, 64])), "ranks": data.draw(st.integers(1, 3))}
    way["step"] = data.draw(st.integers(0, 8))
    pair = [summed(build(config, each), **way) for each in (manifest, without(manifest, gone))]
    assert float((pair[0] - pair[1]).norm()) <= BOUND * ROUNDING


def test_adaptive_clipping_keeps_whatever_threshold_is_in_force(
    pool: Pool, build: Callable[..., Training]
) -> None:
    config, data, fields = setting("adaptive", pool)
    pair = [build(config, each, **fields) for each in (data, without(data, data.patients[0]))]
    for threshold in (0.01, 0.2):
        first, second = (summed(training, threshold_now=threshold, ranks=2) for training in pair)
        assert float((first - second).norm()) <= threshold * ROUNDING


def test_units_that_take_turns_under_correlated_noise_keep_the_bound(
    pool: Pool, build: Callable[..., Training]
) -> None:
    data = pool.dataset(owners(5), order=3)
    gone = data.patients[-1]  # the groups are coins in the order of the patients: those of the others stay
    pair = [
        build(AUGMENTED, each, noise_bands=2, expected_batch_size=32) for each in (data, without(data, gone))
    ]
    moved = [float((summed(pair[0], step=step) - summed(pair[1], step=step)).norm()) for step in (2, 3)]
    assert sum(value > BOUND / 2 for value in moved) == 1  # the patient takes part in one of the two
    assert max(moved) <= BOUND * ROUNDING


# planted faults: what each kind of random number did when it depended on the position


def _by_row(monkeypatch: pytest.MonkeyPatch, data: Manifest) -> None:
    """Key random numbers by the row in the dataset at hand instead of by the ids of the case."""
    original = randomness.child
    rows: dict[str, int] = {}

    def planted(seed: int, *names: str | int) -> np.random.Generator:
        if names[0] == "augment":
            names = ("augment", names[1], rows[str(names[3])], names[4])
        return original(seed, *names)

    def cases_of(self: PrivateSampler, step: int, unit: int) -> tuple[int, ...]:
        cases = self.members[unit]
        order = original(self.seed, "cases", step, cases[0]).permutation(len(cases))[: self.most or None]
        return tuple(cases[int(position)] for position in sorted(order))

    def begin(config: LearnConfig, manifest: Manifest, *rest: Any, **more: Any) -> Training:
        rows.update({case.case_id: row for row, case in enumerate(manifest.cases)})
        return build(config, manifest, *rest, **more)

    build = assemble.from_config
    monkeypatch.setattr(randomness, "child", planted)
    monkeypatch.setattr(PrivateSampler, "cases_of", cases_of)
    monkeypatch.setattr(assemble, "from_config", begin)


@pytest.mark.parametrize("name", ["augment", "views", "few cases", "patches"])
def test_keys_by_row_break_the_bound(
    name: str, pool: Pool, build: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data, fields = setting(name, pool)
    _by_row(monkeypatch, data)
    whole = build(config, data, **fields)
    total = summed(whole)
    part = build(config, without(data, data.cases[0].patient_id), **fields)
    assert float((total - summed(part)).norm()) > 1.5 * BOUND


def test_masks_from_the_public_seed_in_batch_order_break_the_bound(
    pool: Pool, build: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data, fields = setting("dropout", pool)
    pair = [
        build(config.replace(augment=()), each, **fields) for each in (data, without(data, data.patients[0]))
    ]
    monkeypatch.setattr(engine, "keyed_dropout", lambda *_, **more: nullcontext())
    monkeypatch.setattr(engine, "no_other_randomness", lambda *_: nullcontext())
    found = []
    for training in pair:
        runtime.seed_torch(config.runtime.seed, "step", 2)
        found.append(summed(training))
    assert float((found[0] - found[1]).norm()) > 1.5 * BOUND


def test_a_sum_with_dropout_is_the_same_however_it_is_computed(
    pool: Pool, build: Callable[..., Training]
) -> None:
    config, data, fields = setting("dropout and views", pool)
    whole = build(config, data, **fields)
    sums = [summed(whole, physical=physical, ranks=ranks) for physical, ranks in WAYS]
    assert max(float((other - sums[0]).norm()) for other in sums[1:]) <= 1e-4 * BOUND  # rounding


# an attack on the released gradient

DRAWS, NOISE, RATE = 10_000, 2.0, 0.5


def proven(apart: npt.NDArray[np.float64], without: npt.NDArray[np.float64], delta: float) -> float:
    """Return the epsilon that a threshold on a statistic proves, from its values with and without a patient.

    The first half of the values chooses the threshold; the second proves, by two Clopper-Pearson limits of
    99.5 %.
    """
    half = len(apart) // 2
    places = np.quantile(without[:half], (0.5, 0.8, 0.9, 0.95, 0.98))
    place = max(places, key=lambda place: _ratio(apart[:half], without[:half], place, delta))
    return _ratio(apart[half:], without[half:], place, delta)


def _ratio(
    apart: npt.NDArray[np.float64], without: npt.NDArray[np.float64], place: float, delta: float
) -> float:
    count, hits, alarms = len(apart), int((apart > place).sum()), int((without > place).sum())
    low = beta.ppf(0.005, hits, count - hits + 1) if hits else 0.0
    return math.log(max(low - delta, 1e-12) / beta.ppf(0.995, alarms + 1, count - alarms))


def attacked(build: Callable[..., Training], data: Manifest) -> tuple[float, float]:
    """Return the epsilon that an attack on one released gradient proves, and the one that is claimed.

    The attacker knows all data and looks along the difference of the two sums. Given the step, each unit's
    clipped gradient is fixed, so a release is a choice of some of them plus Gaussian noise.
    """
    given = {"expected_batch_size": RATE * 64, "noise_multiplier": NOISE}
    pair = [
        build(SMALL.replace(cases_per_patient=1), each, **given)
        for each in (data, without(data, data.patients[0]))
    ]
    own, plan = [], pair[0].plan
    for training in pair:
        assert isinstance(training.trainer.sampler, PrivateSampler)
        sampler = training.trainer.sampler
        units = [UnitBatch((sampler.cases_of(2, unit),)) for unit in range(len(sampler.members))]
        own.append(torch.stack([summed(training, units=unit) for unit in units]).numpy())
    towards = own[0].sum(0) - own[1].sum(0)
    towards /= np.linalg.norm(towards)
    generator = np.random.default_rng(0)
    seen = []
    for each in own:
        chosen = generator.random((DRAWS, len(each))) < RATE
        seen.append(chosen @ (each @ towards) + NOISE * BOUND * generator.standard_normal(DRAWS))
    assert plan is not None
    return proven(seen[0], seen[1], plan.delta), plan.epsilon(1)


def test_an_attack_proves_no_more_than_is_claimed_and_did_with_keys_by_row(
    pool: Pool, build: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pool.dataset([f"p{number // 2:02d}" for number in range(POOL)])
    attack, claimed = attacked(build, data)
    assert attack <= claimed
    _by_row(monkeypatch, data)
    planted, _ = attacked(build, data)
    assert planted > 2 * claimed


@pytest.mark.parametrize("name", ["augment", "dropout and views", "patches"])
def test_workers_change_no_bit_of_a_sum(name: str, pool: Pool, build: Callable[..., Training]) -> None:
    config, data, fields = setting(name, pool)
    expected = [summed(build(config, data, **fields), step=step, physical=3) for step in (2, 3)]
    training = build(config.replace(workers=2), data, **fields)
    with training.loader:
        for step, total in zip((2, 3), expected, strict=True):
            assert torch.equal(summed(training, step=step, physical=3), total)
