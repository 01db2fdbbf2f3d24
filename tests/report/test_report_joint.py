"""Which runs share patients, and their joint cost, independent of the order in which they are given."""

from __future__ import annotations

import html
import itertools
import math

import pytest
from report_samples import write_dataset, write_run

from meninx.core.artifacts import DeidRecord, Departure, Lineage, StartRecord
from meninx.core.budget import TRAINING_STATISTICS, UNPROTECTED_START, VALIDATION_CASES
from meninx.metrics.estimates import Estimate
from meninx.report import context, formatting, joint_privacy, sources, stage, training_log
from meninx.report.config import ReportConfig
from meninx.report.table_model import estimates


def members(first: int, last: int) -> list[str]:
    return [f"p{number}" for number in range(first, last)]


def reported(run):
    """Return the verdict on the privacy of a run, and the text of the page."""
    result = stage.run(ReportConfig(date="2026-11-20"), [run], run.parent / "page.html")
    return result.verdicts["Privacy of training?"], html.unescape((run.parent / "page.html").read_text())


@pytest.fixture
def chain(tmp_path):
    """Three runs of which the first shares patients with the second and the second with the third."""
    groups = (members(0, 30), members(20, 50), members(40, 70))
    for name, group in zip("abc", groups, strict=True):
        write_run(tmp_path / name, private=True, members=group, evaluated=False)
    return sources.read([tmp_path])


def test_a_chain_of_shared_patients_is_one_group_in_every_order(chain):
    found = {
        tuple((group.names, group.epsilon) for group in joint_privacy.groups(order))
        for order in itertools.permutations(chain)
    }
    [[(names, epsilon)]] = found
    assert names == "a, b and c"
    assert epsilon > max(run.account.spent.epsilon for run in chain)


def test_without_the_link_there_are_two_groups(chain):
    assert [group.names for group in joint_privacy.groups([chain[0], chain[2]])] == ["a", "c"]
    assert joint_privacy.groups([]) == ()


@pytest.mark.parametrize(
    ("left", "right", "link"),
    [
        ({"members": members(0, 9)}, {"members": members(8, 20)}, "yes"),
        ({"members": members(0, 9)}, {"members": members(9, 20)}, "no"),
        ({"members": None}, {"members": members(9, 20)}, "unknown"),
        ({"members": []}, {"members": members(9, 20)}, "unknown"),
        ({"members": members(0, 9), "patients_known": False}, {"members": members(9, 20)}, "unknown"),
        (
            {"members": members(0, 9), "known": {"identifiers": ("a", "b")}},
            {"members": members(9, 20), "known": {"identifiers": ("b", "c")}},
            "unknown",
        ),
        (
            {"members": members(0, 9), "known": {"images": ("a", "b")}},
            {"members": members(9, 20), "known": {"images": ("b", "c")}},
            "yes",
        ),
    ],
)
def test_sharing(tmp_path, left, right, link):
    runs = [
        write_run(tmp_path / name, private=True, evaluated=False, **kind)
        for name, kind in (("l", left), ("r", right))
    ]
    assert joint_privacy.shared(*sources.read(runs)) == link


def test_the_same_dataset_without_members_is_shared(tmp_path):
    data = write_dataset(tmp_path / "data")
    for name in "ab":
        write_run(tmp_path / name, private=True, evaluated=False, members=None, dataset=data)
    assert joint_privacy.shared(*sources.read([tmp_path / "a", tmp_path / "b"])) == "yes"


def test_the_same_dataset_is_shared_whatever_the_members_say(tmp_path):
    data = write_dataset(tmp_path / "data")
    for name, group in (("a", members(0, 9)), ("b", members(9, 20))):
        write_run(tmp_path / name, private=True, evaluated=False, members=group, dataset=data)
    assert joint_privacy.shared(*sources.read([tmp_path / "a", tmp_path / "b"])) == "yes"


@pytest.mark.parametrize(
    ("outside", "word"),
    [
        (f"the weights were selected by auroc on {VALIDATION_CASES}", "selection on patients"),
        (TRAINING_STATISTICS, "normalisation from patients"),
        (
            f"the starting weights come from run 1, {UNPROTECTED_START}: nothing is promised to them",
            "start without privacy",
        ),
    ],
)
def test_what_a_run_says_of_itself_keeps_its_verdict_from_being_green(tmp_path, outside, word):
    write_run(tmp_path / "run", private=True, noise=20.0, evaluated=False, outside=(outside,))
    found, text = reported(tmp_path / "run")
    assert found == f"amber: {word}"
    assert outside in text


def test_a_start_without_privacy_on_other_patients_is_seen_in_the_lineage(tmp_path):
    parent = Lineage(run="1", private=False)
    start = StartRecord(file="w.pt", origin="run", run="1")
    write_run(tmp_path / "run", private=True, noise=20.0, evaluated=False, parents=(parent,), start=start)
    found, text = reported(tmp_path / "run")
    assert found == "amber: start without privacy"
    assert UNPROTECTED_START in text


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"augment": [], "views": 1, "precision": "fp32", "cases_per_patient": 0, "patch_size": []}, ""),
        ({"augment": ["flip"], "views": 2}, "augment, views"),
        ({"model_options": {"dropout_prob": 0.3}, "precision": "bf16"}, "precision, dropout"),
        ({"patch_size": [32, 32], "cases_per_patient": 1}, "patch_size, cases_per_patient"),
    ],
)
def test_settings_under_which_an_earlier_epsilon_does_not_hold(config, found):
    assert joint_privacy.affected(config) == found


def test_epsilon_in_a_sentence():
    assert "at most 2.72 times as likely" in formatting.meaning(1.0, 1e-5, "patient")
    assert "1 in 100,000" in formatting.meaning(1.0, 1e-5, "patient")
    assert "more than a million times" in formatting.meaning(40.0, 1e-5, "image")
    assert "No epsilon bounds" in formatting.meaning(math.inf, 1e-5, "image")


def log_of(train=(), valid=(), auroc=()):
    named = {training_log.TRAIN: train, training_log.VALID: valid, "valid auroc": auroc}
    return training_log.Log({name: tuple(enumerate(values)) for name, values in named.items() if values})


RISING, FALLING = [0.65 + step / 30 for step in range(30)], [0.9 - step / 100 for step in range(30)]
NOISY = [0.7 + (0.4 if step % 3 else -0.4) * (step % 5) / 4 for step in range(29)] + [1.4]


@pytest.mark.parametrize(
    ("log", "diverged", "doubt"),
    [
        (log_of(RISING, [0.7, 0.9, 1.4]), True, ""),
        (log_of(RISING), True, ""),
        (log_of([0.0] * 10 + [0.5] * 20), True, ""),
        (log_of([0.65, 0.9, 2.25]), False, ""),  # one noisy batch at each end
        (log_of([0.4] * 5 + [1.1], [0.7, 0.6, 0.5]), False, ""),
        (log_of(NOISY), False, ""),
        (log_of(FALLING, [0.7, 0.6, 0.5]), False, ""),
        (log_of(FALLING, [0.7, 0.6, 0.9]), False, ""),  # one point
        (log_of(RISING, [0.7, 0.6, 0.5]), False, "divergence not known"),
        (log_of([0.7, 0.5], [0.7, 0.9, 1.1]), False, "divergence not known"),
        (log_of(FALLING, [0.7, 0.9, 1.1], [0.6, 0.7, 0.8]), False, "mis-calibrated"),
    ],
)
def test_divergence_is_what_both_losses_say_over_enough_points(log, diverged, doubt):
    assert bool(training_log.divergence(log)) == diverged
    assert "".join(word for word, _ in training_log.doubts(log)) == doubt


def test_departures_of_older_summaries():
    assert context.departures_of(DeidRecord(profile="basic")) == ()
    [kept] = context.departures_of(DeidRecord(profile="basic", overrides={"OperatorsName": "K"}))
    assert context.keeps_attribute(kept)
    [strange] = context.departures_of(DeidRecord(profile="basic", overrides=["x"]))
    assert strange.chosen == "of unknown form"
    [age] = context.departures_of(DeidRecord(profile="basic", max_age=120))
    assert (age.kind, age.chosen) == ("age", "120")
    named = Departure(kind="override", name="OperatorsName", chosen="K", usual="X")
    assert context.departures_of(
        DeidRecord(profile="basic", departures=(named,), overrides={"OperatorsName": "K"})
    ) == (named,)


@pytest.mark.parametrize(
    ("patients", "remark"), [(True, "fewer than 10 patients"), (False, "fewer than 10 images")]
)
def test_a_remark_says_images_where_patients_are_not_known(patients, remark):
    row = Estimate(name="auroc", value=0.5, low=0.4, high=0.6, n=5, patients=5, note="fewer than 10 patients")
    assert estimates("", [row], patients=patients).rows[0][-1].text == remark
