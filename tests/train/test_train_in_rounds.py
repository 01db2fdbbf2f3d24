"""A run folder that is trained in rounds: the steps of one run, one ledger, killed and resumed, released."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from meninx.core import artifacts
from meninx.core import run as runs
from meninx.core.artifacts import Lineage, PrivacyRecord, RunState, StudyPart
from meninx.core.errors import ConfigError, DataError, Interrupted, PrivacyRefusal
from meninx.core.manifest import Manifest
from meninx.learn import ledger_file
from meninx.learn.hooks import Hook, StepDone
from meninx.learn.state import TrainState
from meninx.synthetic import write_dataset
from meninx.train import evaluate, in_rounds, stage
from meninx.train.config import EvaluateConfig, PrivacyConfig, TrainConfig
from meninx.train.in_rounds import RunInRounds
from meninx.verify.stage import run as verify

PART = StudyPart(study="chest", run="r1", site="east", sites=3)
PLAIN = TrainConfig.of(
    model="resnet9-small",
    model_options={"width": 8},
    batch_size=4,
    steps=6,
    lr=3e-3,
    export=(),
    eval_every=50,
)
PRIVATE = PLAIN.replace(
    privacy=PrivacyConfig(noise_multiplier=1.0, delta=1e-3), attack_risk=False, deterministic=True
)
Weights = dict[str, Tensor]


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs of 10 invented patients, small."""
    return write_dataset(tmp_path_factory.mktemp("rounds") / "data", patients=10, size=16)


class Dies(Hook):
    """Kills the process, so to say, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        if state.step == self.step:
            raise SystemExit


@contextmanager
def site(
    cases: Manifest, out: Path, config: TrainConfig = PLAIN, *, resume: Path | None = None, **more: object
) -> Iterator[RunInRounds]:
    with in_rounds.opened(config, cases.root, out, study=PART, resume=resume, **more) as run:
        yield run


def common(weights: Weights) -> Weights:
    """Return weights as if those of other sites had been added."""
    return {name: value * 0.5 if value.is_floating_point() else value for name, value in weights.items()}


def trained(run: RunInRounds, weights: Weights, number: int, *, rounds: int = 3, **more: object) -> Weights:
    run.train(
        lambda: weights, number=number, name=f"model {number}", share=Fraction(number + 1, rounds), **more
    )
    return run.weights()


def study(run: RunInRounds, *, first: Weights | None = None, begin: int = 0) -> Weights:
    """Go through the rounds from one on, and return what the last one gave."""
    weights = first or run.weights()
    for number in range(begin, 3):
        weights = common(trained(run, weights, number))
    return weights


def killed_at(step: int, cases: Manifest, out: Path, config: TrainConfig) -> None:
    """Go through the rounds and kill the process after a step."""

    def live() -> None:
        with site(cases, out, config, hooks=[Dies(step)]) as run:
            study(run)

    with pytest.raises(SystemExit):
        live()


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_rounds_without_exchange_are_the_run_of_meninx_train(cases: Manifest, tmp_path: Path) -> None:
    whole = stage.run(PLAIN.replace(select="last"), cases.root, tmp_path / "whole")
    with site(cases, tmp_path / "rounds") as run:
        weights = run.weights()
        for number in range(3):
            weights = trained(run, weights, number)
        result = run.finish(weights, name="last")
    assert result.steps == whole.steps == 6
    record = [artifacts.require(path, artifacts.RunRecord, fix="") for path in (whole.out, result.out)]
    assert record[0].weights == record[1].weights


@pytest.mark.parametrize("config", [PLAIN, PRIVATE], ids=["plain", "private"])
def test_a_finished_part_is_an_ordinary_run_that_names_its_study(
    cases: Manifest, tmp_path: Path, config: TrainConfig
) -> None:
    with site(cases, tmp_path, config.replace(export=("bundle",))) as run:
        weights = study(run)
        result = run.finish(weights, name="last")
        assert run.closed
    folder = runs.open_run(result.out)
    assert folder.record is not None
    assert (folder.record.state, folder.record.study) == (RunState.RELEASED, PART)
    lineage = artifacts.read(result.out, Lineage)
    assert lineage is not None
    assert lineage.study == PART
    assert verify(result.out).ok
    measured = evaluate.run(EvaluateConfig(predictions=(), draws=20), result.out)
    assert measured.metrics
    released = torch.load(folder.release / "bundle/models/model.pt", weights_only=True)
    assert same(released, weights)


def test_epsilon_of_a_part_is_that_of_the_plan(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path, PRIVATE) as run:
        assert run.epsilon == 0
        weights = study(run)
        result = run.finish(weights, name="last")
        plan, spent = run.plan, run.epsilon
    assert plan is not None
    assert spent == pytest.approx(plan.epsilon())
    assert result.privacy is not None
    assert result.privacy.epsilon == pytest.approx(plan.epsilon())
    lines = runs.open_run(result.out).ledger_path.read_text().splitlines()
    assert len(lines) == 6


KILLS = [(PLAIN, 3), (PRIVATE, 4)]
SLOW_KILLS = [
    pytest.param(config, step, marks=pytest.mark.slow)
    for config, step in [*((PLAIN, step) for step in (1, 2, 4)), *((PRIVATE, step) for step in (1, 2, 3, 5))]
]


@pytest.mark.parametrize(("config", "step"), [*KILLS, *SLOW_KILLS])
def test_a_site_that_is_killed_inside_a_round_goes_on_inside_it(
    cases: Manifest, tmp_path: Path, config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is lost or counted twice: the ledger has each once, and the weights are the same."""
    monkeypatch.setattr(in_rounds, "CHECKPOINT_SECONDS", 0.0 if step % 2 else 1e9)
    with site(cases, tmp_path / "whole", config) as run:
        start = run.weights()
        expected = study(run)
    killed_at(step, cases, tmp_path / "killed", config)
    folder = next((tmp_path / "killed").glob("*_s0"))
    number, weights = (step - 1) // 2, start
    with site(cases, tmp_path / "shadow", config) as run:  # what the coordinator has: the model of the round
        for earlier in range(number):
            weights = common(trained(run, weights, earlier))
    with site(cases, tmp_path / "killed", config, resume=folder) as run:
        assert same(study(run, first=weights, begin=number), expected)
    if config is PRIVATE:
        ledger = ledger_file.read(runs.open_run(folder))
        assert [account.steps for account in ledger.accounts] == [6]
        assert ledger.epsilon(1e-3) == pytest.approx(run.plan.epsilon())


def test_a_round_that_is_asked_for_again_is_not_trained_again(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path, PRIVATE) as run:
        weights = run.weights()
        once = trained(run, weights, 0)
        assert same(trained(run, weights, 0), once)
        folder = run.run.root
    with site(cases, tmp_path, PRIVATE, resume=folder) as run:
        assert same(trained(run, weights, 0), once)
        assert len(run.run.ledger_path.read_text().splitlines()) == 2


def test_the_update_of_one_round_number_is_not_given_to_another(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path) as run:
        weights = run.weights()
        run.train(lambda: weights, number=0, name="m", share=Fraction(1, 3))
        with pytest.raises(DataError, match="taken for round 0"):
            run.train(lambda: weights, number=1, name="m", share=Fraction(1, 3))
        before = run.weights()
        run.train(lambda: weights, number=1, name="m", share=Fraction(2, 3))  # later steps, same model
        assert not same(before, run.weights())


def test_other_weights_never_repeat_a_private_step(cases: Manifest, tmp_path: Path) -> None:
    """A coordinator that sends another model for a round in progress gets steps with noise of their own."""
    killed_at(1, cases, tmp_path, PRIVATE)
    folder = next(tmp_path.glob("*_s0"))
    with site(cases, tmp_path, PRIVATE, resume=folder) as run:
        weights = run.weights()
        run.train(lambda: common(weights), number=1, name="another model", share=Fraction(1, 3))
        ledger = ledger_file.read(run.run)
        states = [entry for entry in ledger.states.items() if entry[0][1] < 2]
        assert ledger.entries == 2
        assert len({state for _, state in states}) == 2
        assert run.at_hand.first == 1


def test_a_crafted_model_with_the_same_bit_sums_is_another_model(cases: Manifest, tmp_path: Path) -> None:
    """The ledger binds outside weights by their SHA-256: who chooses them can meet sums over bits."""
    with site(cases, tmp_path, PRIVATE) as run:
        weights = run.weights()
        trained(run, weights, 0)
        state = run.training.state
        assert state.loads == 1
        before = state.loaded
        state.load_weights(weights)
        assert state.loaded != before
        other = dict(weights)
        name = next(name for name, value in weights.items() if value.dim() == 1)
        other[name] = weights[name] + 1
        chained = state.loaded
        state.load_weights(other)
        assert state.loaded not in (before, chained)


def test_the_budget_ends_before_the_step_that_would_exceed_it(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path, PRIVATE) as run:
        weights = study(run)
        spent = len(run.run.ledger_path.read_text().splitlines())
        with pytest.raises(PrivacyRefusal, match="used up after 6 steps"):
            run.train(lambda: weights, number=3, name="more", share=Fraction(1, 1))
        assert len(run.run.ledger_path.read_text().splitlines()) == spent


def test_the_time_of_a_round_ends_it_after_a_whole_step(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path, PRIVATE) as run:
        weights = run.weights()
        outcome = run.train(lambda: weights, number=0, name="m", share=Fraction(1, 1), seconds=1e-6)
        assert outcome.new == outcome.steps == 1
        assert run.at_hand.done
        again = run.train(lambda: weights, number=0, name="m", share=Fraction(1, 1), seconds=1e-6)
        assert again.steps == 1


def test_who_is_asked_to_stop_goes_on_later(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path / "whole") as run:
        start = run.weights()
        expected = study(run)
    with site(cases, tmp_path / "stopped") as run:
        asked = iter([False, True, True])
        with pytest.raises(Interrupted, match="it can go on"):
            trained(run, start, 0, stop=lambda: next(asked, True))
        folder = run.run.root
    with site(cases, tmp_path / "stopped", resume=folder) as run:
        assert same(study(run, first=start), expected)


def test_a_part_that_took_no_step_is_begun_anew(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path, PRIVATE) as run:
        run.weights()
        folder, first = run.run.root, run.run.record.id
    with site(cases, tmp_path, PRIVATE, resume=folder) as run:
        assert run.run.record.id != first
        assert run.run.root == folder or not folder.exists()  # a folder of the same second has the same name
        with pytest.raises(DataError, match="took part in no round"):
            run.finish(run.weights(), name="last")


def test_a_run_of_another_part_is_not_taken_up(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path) as run:
        trained(run, run.weights(), 0)
        folder = run.run.root
    other = StudyPart(study="chest", run="r2", site="east", sites=3)
    with pytest.raises(DataError, match="not this site's part"):
        in_rounds.opened(PLAIN, cases.root, tmp_path, study=other, resume=folder).__enter__()


def test_a_released_part_answers_again_with_its_own_weights_only(cases: Manifest, tmp_path: Path) -> None:
    with site(cases, tmp_path) as run:
        weights = study(run)
        first = run.finish(weights, name="last")
    with site(cases, tmp_path, resume=first.out) as run:
        again = run.finish({}, name="last")
        assert again.closed
        with pytest.raises(DataError, match="released with other weights"):
            run.finish({}, name="another")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("select", "best"), ("early_stopping", 2), ("ema", 0.9)],
    ids=lambda item: str(item),
)
def test_a_site_does_not_choose_weights_of_its_own(
    cases: Manifest, tmp_path: Path, setting: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=setting), site(cases, tmp_path, PLAIN.replace(**{setting: value})):
        pass


def test_a_patient_with_ten_images_is_one_unit(cases: Manifest, tmp_path: Path) -> None:
    """The weight of a site counts patients: copies of their images change neither weight nor epsilon."""
    many = _slices(cases, tmp_path / "slices", copies=10)
    assert len(many) == 10 * len(cases)
    with site(cases, tmp_path / "one", PRIVATE) as one, site(many, tmp_path / "ten", PRIVATE) as ten:
        assert ten.units == one.units == len(cases.split("train").patients)
        trained(ten, ten.weights(), 0, rounds=6)
        assert one.plan is not None
        assert ten.epsilon == pytest.approx(one.plan.epsilon(1))


def _slices(cases: Manifest, root: Path, *, copies: int) -> Manifest:
    """Return the dataset with several images of each case, under the same patient."""
    from dataclasses import replace
    from shutil import copyfile

    rows = []
    for case in cases.cases:
        for number in range(copies):
            image = f"images/{case.case_id}-{number}.png"
            (root / "images").mkdir(parents=True, exist_ok=True)
            copyfile(cases.root / case.image, root / image)
            rows.append(replace(case, case_id=f"{case.case_id}-{number}", image=image))
    made = Manifest(root, cases.info, tuple(rows))
    made.write()
    return Manifest.read(root)


def test_on_another_machine_begun_steps_stay_spent_and_the_round_goes_on(
    cases: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding makes other weights there, so the noise of the begun steps must not be used again."""
    monkeypatch.setattr(in_rounds, "CHECKPOINT_SECONDS", 1e9)
    killed_at(4, cases, tmp_path, PRIVATE)
    folder = next(tmp_path.glob("*_s0"))
    with site(cases, tmp_path, PRIVATE, resume=folder) as run:
        before = ledger_file.read(run.run).entries
        with torch.no_grad():
            next(run.training.state.model.parameters()).add_(1e-4)
        known = run.at_hand
        assert known is not None
        outcome = run.train(lambda: {}, number=known.number, name=known.model, share=Fraction(2, 3))
        assert outcome.steps == 4
        assert ledger_file.read(run.run).entries == before == 4
        run.train(lambda: run.weights(), number=2, name="next", share=Fraction(1, 1))
        assert [account.steps for account in ledger_file.read(run.run).accounts] == [6]


def test_who_starts_from_a_federated_model_is_told_of_the_patients_of_the_other_sites(
    cases: Manifest, tmp_path: Path
) -> None:
    config = PRIVATE.replace(export=("bundle",), deterministic=False)
    with site(cases, tmp_path / "runs", config) as run:
        first = run.finish(study(run), name="last")
    record = artifacts.require(first.out, artifacts.RunRecord, fix="")
    assert verify(first.out).ok
    weights = first.out / "release/bundle/models/model.pt"
    again = config.replace(pretrained=str(weights), keep_head=True, steps=2, export=())
    second = stage.run(again, cases.root, tmp_path / "runs")
    promise = artifacts.require(second.out, PrivacyRecord, fix="")
    assert promise.epsilon is not None
    assert promise.own_epsilon is not None
    assert promise.epsilon > promise.own_epsilon  # the study's steps on these patients count
    assert any("federated study chest of 3 sites" in item for item in promise.outside_guarantee)
    lineage = artifacts.require(second.out, Lineage, fix="")
    assert [parent.study for parent in lineage.parents] == [record.study]
    path = first.out / "release/lineage.json"
    path.write_text(path.read_text().replace('"site": "east"', '"site": "west"'))
    assert not verify(first.out).ok


def test_steps_of_missed_rounds_are_not_made_up(cases: Manifest, tmp_path: Path) -> None:
    def took_part(run: RunInRounds, number: int) -> int:
        since, share = Fraction(number, 3), Fraction(number + 1, 3)
        outcome = run.train(run.weights, number=number, name="same", since=since, share=share)
        return outcome.new

    with site(cases, tmp_path, PRIVATE) as run:
        assert took_part(run, 1) == 2  # it missed the first round
        assert took_part(run, 2) == 2
        assert ledger_file.read(run.run).entries == 4
