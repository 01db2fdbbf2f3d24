"""What belongs to a run: measurements by run, weights, step, dataset and split.

Privacy.json by digest and ledger.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from meninx.core import artifacts, belonging, files
from meninx.core.artifacts import (
    Ancestry,
    EvaluationRecord,
    Lineage,
    Origin,
    PrivacyRecord,
    RunRecord,
    RunState,
)
from meninx.core.budget import NeighboringRelation, PrivacySpent, PrivacyUnit
from meninx.core.errors import DataError
from meninx.core.run import Run

RUN = RunRecord(
    id="a" * 32,
    name="a",
    state=RunState.RELEASED,
    data="d",
    weights="w",
    step=9,
    released_step=4,
    selected="best",
)
ORIGIN = Origin(run=RUN.id, data="d", weights="w", step=4, split="test")
SPENT = PrivacySpent(
    epsilon=2.0, delta=1e-3, unit=PrivacyUnit.PATIENT, relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    noise_multiplier=1.0, max_grad_norm=1.0, sample_rate=0.1, steps=9,
)  # fmt: skip
SAID = PrivacyRecord(
    private=True,
    epsilon=2.0,
    own_epsilon=2.0,
    delta=1e-3,
    unit=str(SPENT.unit),
    relation=str(SPENT.relation),
    noise_multiplier=1.0,
    max_grad_norm=1.0,
    sample_rate=0.1,
    steps=9,
    sampler="poisson",
    clipping="flat",
    ledger=(9, "h"),
    version=artifacts.FORMAT,
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"step": 9}, "other weights"),
        ({"step": 3}, "other weights"),
        ({"weights": "x"}, "other weights"),
        ({"run": "b" * 32}, "another run"),
        ({"data": "x"}, "another dataset"),
        ({"split": "valid"}, "under the name of another split"),
        ({"split": "../x"}, "a split that cannot be"),
    ],
    ids=str,
)
def test_a_measurement_belongs_to_the_released_weights_of_its_run(
    tmp_path: Path, change: dict[str, object], words: str
):
    record = EvaluationRecord(origin=replace(ORIGIN, **change), evaluation={"split": "test"})
    found = belonging.measured(record, RUN, "evaluation.json")
    assert words in found
    assert bool(words) == bool(found)
    artifacts.write(tmp_path, record)
    if words:
        with pytest.raises(DataError, match=words):
            belonging.require(tmp_path, RUN, EvaluationRecord, fix="")
    else:
        assert belonging.require(tmp_path, RUN, EvaluationRecord, fix="") == record


def test_a_run_that_did_not_record_its_released_step_goes_by_the_weights():
    older = replace(RUN, released_step=0)
    assert belonging.mismatch(ORIGIN, older) == ""
    assert "other weights" in belonging.mismatch(ORIGIN, replace(older, selected="last"))
    assert "not finished" in belonging.mismatch(ORIGIN, replace(RUN, state=RunState.TRAINING))
    assert "earlier version" in belonging.mismatch(None, RUN)


def test_privacy_json_is_the_file_that_the_run_names(tmp_path: Path):
    path = artifacts.write(tmp_path, SAID)
    run = replace(RUN, privacy=files.digest(path))
    assert not belonging.promise_changed(tmp_path, run)
    assert not belonging.promise_changed(tmp_path / "none", RUN)
    artifacts.write(tmp_path, replace(SAID, outside_guarantee=("x",)))
    assert belonging.promise_changed(tmp_path, run)
    path.unlink()
    assert belonging.promise_changed(tmp_path, run)


def test_privacy_json_is_of_all_steps_also_where_an_earlier_step_is_released():
    run = replace(RUN, private=True)
    assert list(belonging.promise(replace(SAID, origin=replace(ORIGIN, step=9)), run)) == []
    assert list(belonging.promise(replace(SAID, origin=ORIGIN), run)) == ["of step 4, the run has 9"]


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 2.1}, {"epsilon": None}, {"own_epsilon": 1.0}, {"delta": 1e-4}, {"unit": "case"},
        {"relation": "x"}, {"noise_multiplier": 2.0}, {"max_grad_norm": 2.0}, {"sample_rate": 0.2},
        {"steps": 8}, {"sampler": ""}, {"clipping": "\x1b[2J"}, {"ledger": (9, "x")}, {"declared_units": 7},
    ],
    ids=str,
)  # fmt: skip
def test_every_field_that_contradicts_the_ledger_is_named(change: dict[str, object]):
    def found(said: PrivacyRecord) -> list[belonging.Contradiction]:
        return list(belonging.contradictions(said, SPENT, totals=(2.0,), anchor=(9, "h"), declared=None))

    assert found(SAID) == []
    [item] = found(replace(SAID, **change))
    assert item.field == next(iter(change))
    assert item.words.isprintable()


def test_one_limit_holds_for_a_ledger_and_for_the_records_that_carry_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = Run(tmp_path)
    assert run.ledger_text() == ""
    files.write_text(run.ledger_path, "x\n")
    assert run.ledger_text() == "x\n"
    with run.ledger_path.open("r+b") as stream:
        stream.truncate(artifacts.LEDGER_LIMIT + 1)
    with pytest.raises(DataError, match=r"ledger\.jsonl"):
        run.ledger_text()
    limits = []
    monkeypatch.setattr(
        files, "read_bytes", lambda path, limit: limits.append(limit) or b'{"run": "a", "private": true}'
    )
    for kind in (Lineage, Ancestry):
        (tmp_path / artifacts.place(kind)).parent.mkdir(exist_ok=True)
        (tmp_path / artifacts.place(kind)).touch()
        artifacts.read(tmp_path, kind)
    assert min(limits) > artifacts.LEDGER_LIMIT
