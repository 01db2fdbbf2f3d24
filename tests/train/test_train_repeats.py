"""Several pairs of a private run and its baseline are averaged, and pairs that do not belong are refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from meninx.core import artifacts
from meninx.core.artifacts import ComparisonRecord
from meninx.core.errors import ConfigError, DataError, MeninxError, UsageError
from meninx.core.run import Run
from meninx.train import evaluate, repeats, stage
from meninx.train.config import EvaluateConfig, PrivacyConfig, TrainConfig

CONFIG = TrainConfig.of(
    model="resnet9-small", model_options={"width": 8}, steps=2, batch_size=6, physical_batch=8, select="last",
    attack_risk=False, device="cpu", export=(),
)  # fmt: skip
TERMS = PrivacyConfig(epsilon=8.0, delta=1e-3)


@pytest.fixture(scope="module")
def pairs(data, tmp_path_factory):
    """Return (private, plain) runs of two seeds."""
    root = tmp_path_factory.mktemp("pairs")
    return [
        tuple(
            Run(
                stage.run(
                    CONFIG.replace(seed=seed, privacy=terms, name=f"{name}-{seed}"), data.root, root
                ).out
            )
            for name, terms in (("private", TERMS), ("plain", None))
        )
        for seed in (1, 2)
    ]


@pytest.fixture
def measured(pairs, tmp_path):
    shutil.copytree(pairs[0][0].root, tmp_path / "run")
    return Run(tmp_path / "run")


def asked(baseline, *further):
    texts = tuple(f"{run.root}={other.root}" for run, other in further)
    return EvaluateConfig(predictions=(), draws=50, baseline=baseline.root, repeats=texts)


def differences(run):
    record = artifacts.read(run.root, ComparisonRecord)
    return record, [row["value"] for row in record.differences]


def test_the_difference_is_the_mean_over_the_pairs(pairs, measured):
    (_, plain), second = pairs
    result = evaluate.run(asked(plain, second), measured.root)
    record, together = differences(measured)
    [repeat] = record.repeats
    assert repeat.run.run == second[0].record.id
    assert repeat.baseline.run == second[1].record.id
    assert (repeat.run.split, repeat.run.dataset) == (record.origin.split, record.origin.dataset)
    assert record.margin == 0.02
    evaluate.run(asked(plain), measured.root)
    _, first = differences(measured)
    evaluate.run(asked(second[1]), second[0].root)
    _, other = differences(second[0])
    known = [(a, b, c) for a, b, c in zip(together, first, other, strict=True) if None not in (a, b, c)]
    assert known
    for mean, one, two in known:
        assert mean == pytest.approx(np.mean([one, two]), abs=1e-12)
    by_run = [tuple(row["by_run"]) for row in record.differences]
    assert by_run[0] == (first[0], other[0])
    assert "loss of a group beyond that of the others" in result.summary()
    assert {row.name for row in result.gap_differences} <= {"auroc_gap_difference", "auroc_trend_difference"}


def test_a_comparison_without_repeats_names_none(pairs, measured):
    evaluate.run(asked(pairs[0][1]), measured.root)
    assert artifacts.read(measured.root, ComparisonRecord).repeats == ()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ("same", "a run is given twice"),
        ("swapped", "one seed for a run and its baseline"),
        ("private twice", "the runs differ in"),
    ],
)
def test_pairs_that_do_not_belong_are_refused(wrong, what, pairs, measured):
    (private, plain), (other, other_plain) = pairs
    further = {
        "same": (other, other),
        "swapped": (other, plain),
        "private twice": (other_plain, other),
    }[wrong]
    before = sorted(measured.root.rglob("*"))
    baseline = plain if wrong != "swapped" else other_plain
    with pytest.raises(MeninxError, match=what):
        evaluate.run(asked(baseline, further), measured.root)
    assert sorted(measured.root.rglob("*")) == before
    assert private.root.is_dir()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lr": 0.5}, "the runs differ in lr"),
        ({"image_size": (40, 40)}, "the runs differ in image_size"),
        ({"seed": 1}, "another seed for every pair"),
    ],
)
def test_runs_of_other_settings_are_refused(change, what, pairs, measured, data, tmp_path):
    config = CONFIG.replace(**{"seed": 3, **change})
    run, baseline = (
        Run(stage.run(config.replace(privacy=terms), data.root, tmp_path / str(terms is None)).out)
        for terms in (TERMS, None)
    )
    with pytest.raises((DataError, UsageError), match=what):
        evaluate.run(asked(pairs[0][1], (run, baseline)), measured.root)


def test_runs_of_another_dataset_are_refused(pairs, measured, public, tmp_path):
    config = CONFIG.replace(seed=3, image_size=(32, 32))
    run, baseline = (
        Run(stage.run(config.replace(privacy=terms), public.root, tmp_path / str(terms is None)).out)
        for terms in (TERMS, None)
    )
    with pytest.raises(DataError, match="different data"):
        evaluate.run(asked(pairs[0][1], (run, baseline)), measured.root)


@pytest.mark.parametrize("text", ["", "a", "a=", "=b", "a=b=c"])
def test_a_text_that_names_no_pair_is_refused(text):
    with pytest.raises(ConfigError, match="run=baseline"):
        repeats.paths([text])
    with pytest.raises(ConfigError, match="fewer than"):
        repeats.paths(["a=b"] * 20)


def test_repeats_need_a_baseline(measured):
    with pytest.raises(ConfigError, match="repeats has no effect"):
        evaluate.run(EvaluateConfig(predictions=(), repeats=("a=b",)), measured.root)
