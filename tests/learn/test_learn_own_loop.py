"""A loop of one's own: the ledger, resume, patients as units, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, RunLocked, UsageError
from meninx.learn import own_arguments, own_loop
from meninx.privacy import PrivateTraining, training

ROWS = 24
PATIENTS = [f"p{row // 2}" for row in range(ROWS)]
IMAGES = torch.randn(ROWS, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(ROWS) % 2


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))


def opened(run: Path, model: nn.Module | None = None, **changes: Any) -> Any:
    model = model or network()
    terms: dict[str, Any] = {
        "units": PATIENTS,
        "run": run,
        "noise_multiplier": 1.0,
        "delta": 1e-3,
        "batch": 6,
        "steps": 6,
        **changes,
    }
    loss = terms.pop("loss", nn.CrossEntropyLoss(reduction="none"))
    return training(model, torch.optim.SGD(model.parameters(), lr=0.5), loss, **terms)


def taken(dp: PrivateTraining, most: int = 100) -> list[tuple[int, ...]]:
    """Take steps and return the rows of each."""
    seen = []
    for rows in dp:
        dp.step(IMAGES[rows], LABELS[rows])
        seen.append(tuple(rows.tolist()))
        if len(seen) == most:
            break
    return seen


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def test_a_loop_trains_with_whole_patients_and_the_ledger_says_what_was_spent(tmp_path):
    model = network()
    before = weights(model)
    with opened(tmp_path / "run", model) as dp:
        seen = taken(dp)
        planned = dp.plan.epsilon()
    assert len(seen) == dp.spent.steps == 6
    assert dp.spent.epsilon == planned
    assert str(dp.spent.unit) == "patient"
    assert all({row ^ 1 for row in rows} == set(rows) for rows in seen)  # both rows of a patient or none
    assert not torch.equal(before, weights(model))
    assert not (tmp_path / "run" / "private" / "keys").exists()  # the keys live in memory alone


def test_a_run_that_was_left_goes_on_where_it_was_and_spends_no_more_than_planned(tmp_path):
    model = network()
    with opened(tmp_path / "run", model) as dp:
        taken(dp, 2)
    after_two = weights(model)
    again = network()
    with opened(tmp_path / "run", again, resume=True) as dp:
        assert torch.equal(weights(again), after_two)
        assert len(dp) == 4
        taken(dp)
    assert dp.spent.steps == 6
    with opened(tmp_path / "run", again, resume=True) as dp:
        assert taken(dp) == []


def test_an_interrupted_run_equals_one_without_interruption(tmp_path):
    whole, parts = network(), network()
    with opened(tmp_path / "whole", whole, deterministic_seed=1) as dp:
        taken(dp)
    with opened(tmp_path / "parts", parts, deterministic_seed=1) as dp:
        taken(dp, 3)
    parts = network()
    with opened(tmp_path / "parts", parts, deterministic_seed=1, resume=True) as dp:
        taken(dp)
    assert torch.equal(weights(whole), weights(parts))
    assert (tmp_path / "parts" / "NOT_FOR_RELEASE").is_file()


def test_steps_lost_to_a_crash_stay_spent_and_their_noise_is_not_used_again(tmp_path):
    run = tmp_path / "run"
    with opened(run) as dp:
        taken(dp, 2)
        dp.save()
        saved = (run / "private/checkpoints/last.pt").read_bytes()
        taken(dp, 1)
    (run / "private/checkpoints/last.pt").write_bytes(saved)  # the crash came before the next checkpoint
    with pytest.warns(UserWarning, match="1 steps .* stay spent"), opened(run, resume=True) as dp:
        assert len(taken(dp)) == 3  # of six, two were saved and one was lost
    assert dp.spent.steps == 6
    lines = (run / "private/ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(6))  # each under noise of its own


def test_a_line_that_a_crash_cut_short_counts_as_a_step_of_the_budget(tmp_path):
    run = tmp_path / "run"
    with opened(run) as dp:
        taken(dp, 2)
    path = run / "private/ledger.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0][:50])
    with opened(run, resume=True) as dp:
        assert len(taken(dp)) == 3  # of six, two were taken and one was begun
    assert dp.spent.steps == 6
    assert dp.spent.epsilon == dp.plan.epsilon()


def test_correlated_noise_is_not_gone_on_with_under_other_keys(tmp_path):
    run = tmp_path / "run"
    with opened(run, batch=3, noise_bands=2) as dp:
        taken(dp, 3)
    with pytest.raises(PrivacyRefusal, match="correlated"), opened(run, batch=3, noise_bands=2, resume=True):
        pass
    whole = tmp_path / "whole"
    for resume in (False, True):  # without a step that is left, no key is used
        with opened(whole, batch=3, noise_bands=2, resume=resume) as dp:
            assert len(taken(dp)) == (0 if resume else 6)


def test_a_folder_whose_ledger_was_removed_is_not_begun_anew(tmp_path):
    run = tmp_path / "run"
    with opened(run) as dp:
        taken(dp, 2)
    (run / "private/ledger.jsonl").unlink()
    saved = (run / "private/checkpoints/last.pt").read_bytes()
    with pytest.raises(PrivacyRefusal, match="ledger of the run is missing"), opened(run):
        pass
    assert (run / "private/checkpoints/last.pt").read_bytes() == saved


def test_a_run_that_was_killed_before_its_first_step_begins_anew(tmp_path):
    with opened(tmp_path / "run"):
        pass
    with opened(tmp_path / "run") as dp:
        assert len(taken(dp)) == 6


def test_rows_without_units_are_units_themselves(tmp_path):
    with opened(tmp_path / "run", units=None, rows=ROWS) as dp:
        taken(dp)
    assert str(dp.spent.unit) == "case"


def test_the_seed_of_a_row_does_not_depend_on_the_other_patients(tmp_path):
    seeds = []
    for left_out in (0, 4):
        patients, images = PATIENTS[left_out:], IMAGES[left_out:]
        changes = {"units": patients, "batch": 4, "declared_units": 12, "deterministic_seed": 3}
        with opened(tmp_path / str(left_out), **changes) as dp:
            found = {}
            for step, rows in enumerate(dp):
                for row, seed in zip(rows.tolist(), dp.row_seeds.tolist(), strict=True):
                    found[step, patients[row], row % 2] = seed
                dp.step(images[rows], LABELS[: len(images)][rows])
        seeds.append(found)
    both = seeds[0].keys() & seeds[1].keys()
    assert both
    assert all(seeds[0][key] == seeds[1][key] for key in both)


def test_a_draw_that_is_left_out_is_refused(tmp_path):
    with (
        opened(tmp_path / "run", batch=12) as dp,
        pytest.raises(PrivacyRefusal, match="not used in a step"),
    ):
        for _ in dp:
            pass


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"loss": nn.CrossEntropyLoss()}, ConfigError, "one loss for each"),
        ({"units": None, "rows": None}, ConfigError, "units"),
        ({"units": []}, ConfigError, "no row"),
        ({"declared_units": 3, "batch": 2}, PrivacyRefusal, "declared_units"),
        ({"resume": True}, UsageError, "no run to resume"),
        ({"epsilon": 8.0}, ConfigError, "exactly two"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, error, says):
    with pytest.raises(error, match=says), opened(tmp_path / "run", **{"batch": 12, **change}) as dp:
        taken(dp)


def test_a_network_whose_rows_see_each_other_is_refused_before_a_step_is_taken(tmp_path):
    class Centred(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0)

    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), Centred())
    with pytest.raises(PrivacyRefusal), opened(tmp_path / "run", model, batch=12) as dp:
        taken(dp)
    assert not (tmp_path / "run" / "private" / "ledger.jsonl").exists()


def test_rows_of_another_draw_are_refused(tmp_path):
    with opened(tmp_path / "run", batch=12) as dp:
        rows = next(iter(dp))
        with pytest.raises(UsageError, match="rows that were drawn"):
            dp.step(IMAGES[rows][1:], LABELS[rows][1:])
    with opened(tmp_path / "other") as dp, pytest.raises(UsageError, match="without a draw"):
        dp.step(IMAGES, LABELS)


def test_a_run_is_not_begun_twice_nor_from_two_processes(tmp_path):
    with opened(tmp_path / "run") as dp:
        taken(dp, 1)
        with pytest.raises(RunLocked), opened(tmp_path / "run", resume=True):
            pass
    with pytest.raises(UsageError, match="resume=True"), opened(tmp_path / "run"):
        pass


def test_another_plan_a_shortened_ledger_and_a_damaged_checkpoint_are_refused(tmp_path):
    run = tmp_path / "run"
    with opened(run) as dp:
        taken(dp, 3)
    with pytest.raises(PrivacyRefusal), opened(run, resume=True, batch=5):
        pass
    ledger = run / "private/ledger.jsonl"
    whole = ledger.read_text()
    ledger.write_text("".join(whole.splitlines(keepends=True)[:2]))
    with pytest.raises(PrivacyRefusal), opened(run, resume=True):
        pass
    ledger.write_text(whole)
    path = run / "private/checkpoints/last.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"), opened(run, resume=True):
        pass


class Failing(torch.optim.SGD):
    """Moves the weights and then fails, once."""

    failures = 1

    def step(self, closure: Any = None) -> None:
        super().step()
        if self.failures:
            self.failures -= 1
            raise MemoryError("out of memory")


def test_a_step_that_failed_is_spent_and_the_next_one_has_noise_of_its_own(tmp_path):
    model = network()
    loss = nn.CrossEntropyLoss(reduction="none")
    terms = {"units": PATIENTS, "noise_multiplier": 1.0, "delta": 1e-3, "batch": 12, "steps": 4}
    with training(model, Failing(model.parameters(), lr=0.5), loss, run=tmp_path / "run", **terms) as dp:
        rows = next(iter(dp))
        with pytest.raises(MemoryError):
            dp.step(IMAGES[rows], LABELS[rows])
        with pytest.raises(UsageError, match="without a draw"):
            dp.step(IMAGES[rows], LABELS[rows])
        assert len(taken(dp)) == 3
    lines = (tmp_path / "run/private/ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]


def test_a_closed_context_takes_no_step(tmp_path):
    with opened(tmp_path / "run", batch=12) as dp:
        rows = next(iter(dp))
    with pytest.raises(UsageError, match="closed"):
        dp.step(IMAGES[rows], LABELS[rows])


def test_a_copied_folder_goes_on_with_other_noise(tmp_path):
    run, copy = tmp_path / "run", tmp_path / "copy"
    with opened(run) as dp:
        taken(dp, 2)
    shutil.copytree(run, copy)
    ends = []
    for folder in (run, copy):
        model = network()
        with opened(folder, model, resume=True) as dp:
            taken(dp, 1)
        ends.append((weights(model), (folder / "private/ledger.jsonl").read_text().splitlines()[-1]))
    assert not torch.equal(ends[0][0], ends[1][0])
    assert json.loads(ends[0][1])["stream"] != json.loads(ends[1][1])["stream"]


def test_a_network_that_changes_after_the_proof_is_proved_again(tmp_path):
    class Late(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0) if self.training else x

    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), Late()).eval()
    with opened(tmp_path / "run", model, batch=12) as dp:
        taken(dp, 1)
        model.train()
        with pytest.raises(PrivacyRefusal):
            taken(dp)


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_a_row_without_a_patient_is_refused_by_its_number(tmp_path, missing):
    with (
        pytest.raises(ConfigError, match="row 5 has no unit"),
        opened(tmp_path / "run", units=[*PATIENTS[:5], missing, *PATIENTS[6:]]),
    ):
        pass


def test_an_optimizer_of_another_network_and_other_units_are_refused(tmp_path):
    model, other = network(), network()
    loss = nn.CrossEntropyLoss(reduction="none")
    terms = {
        "units": PATIENTS,
        "run": tmp_path / "run",
        "noise_multiplier": 1.0,
        "delta": 1e-3,
        "batch": 6,
        "steps": 6,
    }
    with pytest.raises(ConfigError, match="not of the network"):
        training(model, torch.optim.SGD(other.parameters(), lr=0.5), loss, **terms).__enter__()
    with pytest.raises(ConfigError, match="leaves out"):
        training(model, torch.optim.SGD(model[3].parameters(), lr=0.5), loss, **terms).__enter__()
    with opened(tmp_path / "run") as dp:
        taken(dp, 1)
    for units in ([f"p{row % 12}" for row in range(ROWS)], [f"z{row // 2}" for row in range(ROWS)]):
        with (
            pytest.raises(PrivacyRefusal, match="other units"),
            opened(tmp_path / "run", resume=True, units=units),
        ):
            pass


def test_a_run_whose_checkpoint_was_removed_is_not_resumed(tmp_path):
    with opened(tmp_path / "run") as dp:
        taken(dp, 2)
    (tmp_path / "run/private/checkpoints/last.pt").unlink()
    with pytest.raises(PrivacyRefusal, match="no checkpoint"), opened(tmp_path / "run", resume=True):
        pass


@given(
    patients=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    physical=st.integers(1, 8),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_the_rows_reach_the_step_as_they_were_given_whatever_the_physical_batch(patients, physical, seed):
    chosen = [unit for unit in range(6) if (seed >> unit) & 1]
    members, names, _ = own_arguments.grouped(patients, None)
    units = tuple(rows for rows, name in zip(members, names, strict=True) if int(name) in chosen)
    drawn = own_loop.UnitBatch(units)
    rows = torch.tensor([row for unit in units for row in unit], dtype=torch.int64)
    loader = own_loop._GivenRows()
    loader.give(drawn, rows * 10, rows, rows + 7)
    parts = list(loader.batches(drawn, 0, physical))
    assert torch.cat([part.inputs for part in parts] or [rows]).tolist() == (rows * 10).tolist()
    assert torch.cat([part.row_keys for part in parts] or [rows + 7]).tolist() == (rows + 7).tolist()
    owner = {row: index for index, unit in enumerate(units) for row in unit}
    assert torch.cat([part.unit for part in parts] or [rows[:0]]).tolist() == [
        owner[row] for row in rows.tolist()
    ]
