"""The coordinator's rounds: sums, dropouts, a killed coordinator, killed sites, failures that end a study."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rounds_samples import (
    NAMES,
    START,
    Killed,
    Learner,
    Line,
    RestartingLine,
    Study,
    expected_model,
    update_of,
    weights,
    without_waiting_for_the_disk,
)

from meninx.core.errors import DataError, Interrupted, PrivacyRefusal, StorageError, UsageError
from meninx.federated import events, messages, secure_sides
from meninx.federated.contribution import Contribution, beginning
from meninx.federated.history_file import HistoryFile
from meninx.federated.messages import Reply, Request
from meninx.federated.rounds import ANSWER_SECONDS
from meninx.federated.strategies import Cyclic, FedAvg
from meninx.federated.study_state import RoundPhase, Stage, StudyState
from meninx.federated.vector import model_digest
from meninx.secagg.site_history import AttemptUsed, KeyDrawn, SitesMet, SurvivorsSigned, read_history
from meninx.secagg.statements import Announcement, sign


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting_for_the_disk(monkeypatch)


@pytest.mark.parametrize("method", ["plain", "masks", "shares", "ckks"])
def test_three_rounds_give_the_mean_of_the_updates_weighted_by_units(tmp_path: Path, method: str) -> None:
    study = Study(tmp_path, method)
    state = study.run()
    assert np.abs(weights(state) - expected_model([NAMES] * 3)).max() < 1e-5
    assert state.stage is Stage.FINISHED
    assert set(state.finished()) == set(NAMES)
    assert [entry.phase for entry in state.rounds()] == [RoundPhase.ACCEPTED] * 3
    assert all(entry.units == 100 and entry.survivors == NAMES for entry in state.rounds())
    assert {site.finished for site in study.sites.values()} != {""}
    assert study.events[-1].outcome is events.StudyOutcome.FINISHED


def test_the_sum_through_masks_is_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "masks").mkdir()
    plain, masked = (weights(Study(tmp_path / method, method).run()) for method in ("plain", "masks"))
    assert np.abs(plain - masked).max() < 1e-5


def test_five_rounds_through_masks_differ_from_plain_ones_by_a_millionth_at_most(tmp_path: Path) -> None:
    found = []
    for method, most_units in (("plain", 0), ("masks", 40)):
        (tmp_path / method).mkdir()
        study = Study(tmp_path / method, method, strategy=FedAvg(rounds=5), most_units=most_units)
        found.append(weights(study.run()).astype(np.float64))
    plain, masked = found
    assert np.linalg.norm(plain - masked) <= 1e-6 * np.linalg.norm(plain)


def test_every_site_computes_the_sum_again(tmp_path: Path) -> None:
    study = Study(tmp_path)
    state = study.run()
    assert all(entry.checked == dict.fromkeys(NAMES, 1.0) for entry in state.rounds())
    assert len(study.of(events.SumRecomputed)) == 12


def test_a_long_transcript_has_the_time_that_it_needs_at_one_megabit_per_second(tmp_path: Path) -> None:
    times: list[tuple[int, float]] = []

    class Timed(Line):
        def ask(self, requests: Mapping[str, Request], *, within: float) -> Mapping[str, Reply]:
            asked = [one for one in requests.values() if isinstance(one, messages.Recompute)]
            times.extend((len(messages.encode(one)), within) for one in asked)
            return super().ask(requests, within=within)

    study = Study(tmp_path)
    study.run(Timed(study.sites))
    assert len(times) == 12
    for size, within in times:
        assert within == pytest.approx(ANSWER_SECONDS + size / 125_000, abs=0.01)


def test_a_sum_that_a_site_cannot_confirm_is_not_accepted(tmp_path: Path) -> None:
    study = Study(tmp_path)

    class Lying(Line):
        def answer(self, name: str, request: Request) -> messages.Reply:
            if isinstance(request, messages.Recompute) and request.at.round == 1:
                false = bytes([request.total[0] ^ 1]) + request.total[1:]
                request = messages.Recompute(at=request.at, transcript=request.transcript, total=false)
            return super().answer(name, request)

    state = study.run(Lying(study.sites))
    second = state.rounds()[1]
    assert (second.phase, second.mismatches) == (RoundPhase.ABORTED, NAMES)
    assert "differs at" in second.words
    assert [entry.phase for entry in state.rounds()].count(RoundPhase.ACCEPTED) == 2


# dropouts


def gone(victim: str, kind: type, number: int) -> object:
    """Return a rule by which a site does not answer one kind of request of one round."""
    return lambda name, request: name == victim and isinstance(request, kind) and request.at.round == number


@pytest.mark.parametrize("kind", [messages.Train, messages.Agree, messages.Reveal, messages.Recompute])
def test_one_of_four_sites_may_be_lost_anywhere_and_the_sum_is_exact(tmp_path: Path, kind: type) -> None:
    study = Study(tmp_path)
    study.line.lose = gone("north", kind, 1)
    state = study.run()
    of_second = tuple(name for name in NAMES if name != "north") if kind is messages.Train else NAMES
    assert [entry.phase for entry in state.rounds()] == [RoundPhase.ACCEPTED] * 3
    assert state.rounds()[1].survivors == of_second
    assert np.abs(weights(state) - expected_model([NAMES, of_second, NAMES])).max() < 1e-5
    assert any(event.site == "north" for event in study.of(events.SiteLost))


def test_sums_whose_sites_differ_by_one_are_warned_about(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.line.lose = gone("north", messages.Train, 1)
    study.run()
    assert [(event.site, event.round, event.earlier) for event in study.of(events.SumsDiffer)] == [
        ("north", 1, 0), ("north", 2, 1),
    ]  # fmt: skip


def test_a_sum_that_was_opened_and_refused_counts_among_those_that_differ_by_one(tmp_path: Path) -> None:
    study = Study(tmp_path)

    class Lying(Line):
        def answer(self, name: str, request: Request) -> messages.Reply:
            if isinstance(request, messages.Recompute) and request.at.round == 0:
                false = bytes([request.total[0] ^ 1]) + request.total[1:]
                request = msgspec.structs.replace(request, total=false)
            return super().answer(name, request)

    state = study.run(Lying(study.sites, lose=gone("north", messages.Train, 1)))
    first, second, _ = state.rounds()
    assert (first.phase, first.opened) == (RoundPhase.ABORTED, True)
    assert first.model == second.model
    assert ("north", 1, 0) in [
        (event.site, event.round, event.earlier) for event in study.of(events.SumsDiffer)
    ]


def test_a_sum_that_is_too_large_to_be_computed_again_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure_sides, "WHOLE", 0)
    study = Study(tmp_path)
    state = study.run()
    assert len(study.of(events.SumUnchecked)) == 3
    assert {entry.unchecked for entry in state.rounds()} == {
        "the uploads are too large to send to every site"
    }


def test_below_the_quorum_nothing_is_revealed_and_the_same_updates_are_used_again(tmp_path: Path) -> None:
    study = Study(tmp_path)
    lost = {"north", "south"}

    def lose(name: str, request: Request) -> bool:
        second = isinstance(request, messages.Train) and (request.at.round, request.at.attempt) == (1, 0)
        return name in lost and second

    study.line.lose = lose
    state = study.run()
    first_attempt = [
        request for _, request in study.line.log if (request.at.round, request.at.attempt) == (1, 0)
    ]
    assert {type(request) for request in first_attempt} == {messages.Train}
    assert (state.rounds()[1].attempt, state.rounds()[1].survivors) == (1, NAMES)
    assert np.abs(weights(state) - expected_model([NAMES] * 3)).max() < 1e-5
    assert [event.reason for event in study.of(events.RoundAborted)] == [events.AbortReason.BELOW_QUORUM]


def test_after_the_agreement_a_lost_round_is_over_and_the_next_trains_anew_from_the_same_model(
    tmp_path: Path,
) -> None:
    study = Study(tmp_path, strategy=FedAvg(rounds=3))
    study.line.lose = lambda name, request: (
        name in ("north", "south", "west") and isinstance(request, messages.Reveal) and request.at.round == 1
    )
    state = study.run()
    assert [entry.phase for entry in state.rounds()] == [
        RoundPhase.ACCEPTED, RoundPhase.ABORTED, RoundPhase.ACCEPTED,
    ]  # fmt: skip
    assert state.rounds()[2].model == state.rounds()[1].model == 1
    stops = [request.until for name, request in study.line.log if isinstance(request, messages.Train)]
    assert stops == [1] * 4 + [2] * 4 + [3] * 4  # the second stretch of training is used up


def test_the_quorum_is_waited_for_and_too_long_an_absence_ends_the_run_until_it_is_resumed(
    tmp_path: Path,
) -> None:
    study = Study(tmp_path)
    state = study.begin()
    coordinator = study.coordinator(state)
    study.line.lose = lambda name, request: _leave(study.line, name, request)
    with pytest.raises(DataError, match="too few sites came"):
        coordinator.run()
    assert study.of(events.SitesAwaited)[-1].needed == 3
    assert study.events[-1].outcome is events.StudyOutcome.FAILED
    state.close()
    study.line.away.clear()
    study.line.lose = lambda name, request: False
    resumed = study.resume()
    study.coordinator(resumed).run()
    assert np.abs(weights(resumed) - expected_model([NAMES] * 3)).max() < 1e-5


def _leave(line: Line, name: str, request: Request) -> bool:
    """Two sites go away during the training of the second round and stay away."""
    if name in ("north", "south") and isinstance(request, messages.Train) and request.at.round == 1:
        line.away.add(name)
    return name in line.away


def test_a_site_that_connects_again_at_the_end_still_gets_the_model(tmp_path: Path) -> None:
    """A coordinator that is resumed in the last round finishes it before every site has connected again."""
    study = Study(tmp_path, waiting=20.0)
    back = threading.Timer(0.5, study.line.away.clear)

    def lost(name: str, request: Request) -> bool:
        last = name == "west" and isinstance(request, messages.Recompute) and request.at.round == 2
        if last:
            study.line.away.add(name)
            back.start()
        return last

    study.line.lose = lost
    state = study.begin()
    study.coordinator(state).run()
    assert set(state.finished()) == set(NAMES)
    assert study.sites["west"].finished == model_digest(weights(state))


def test_a_site_that_refuses_for_good_is_not_asked_again(tmp_path: Path) -> None:
    study = Study(tmp_path)

    class Budget(Line):
        def answer(self, name: str, request: Request) -> messages.Reply:
            if name == "west" and isinstance(request, messages.Train) and request.at.round == 1:
                return messages.Declined(
                    site=name, reason="the privacy budget is used up", code=4, final=True
                )
            return super().answer(name, request)

    line = Budget(study.sites)
    state = study.run(line)
    assert state.left() == {"west": "the privacy budget is used up"}
    assert max(request.at.round for name, request in line.log if name == "west") == 1
    assert [entry.survivors for entry in state.rounds()[1:]] == [("east", "north", "south")] * 2
    assert set(state.finished()) == {"east", "north", "south"}


def test_a_study_in_which_no_site_can_train_ends_with_their_reasons(tmp_path: Path) -> None:
    study = Study(tmp_path)

    class Unfit(Line):
        def answer(self, name: str, request: Request) -> messages.Reply:
            if isinstance(request, messages.Train):
                return messages.Declined(site=name, reason="expected fewer warmup steps")
            return super().answer(name, request)

    with pytest.raises(DataError, match=r"failed one after the other.*east.*: expected fewer warmup steps"):
        study.run(Unfit(study.sites))


def test_with_fewer_sites_left_than_the_quorum_the_study_ends_with_their_reasons(tmp_path: Path) -> None:
    study = Study(tmp_path)

    class Budget(Line):
        def answer(self, name: str, request: Request) -> messages.Reply:
            if name in ("west", "south") and isinstance(request, messages.Train) and request.at.round == 1:
                return messages.Declined(site=name, reason="no more epsilon", code=4, final=True)
            return super().answer(name, request)

    with pytest.raises(DataError, match=r"fewer than 3 sites are left.*no more epsilon"):
        study.run(Budget(study.sites))


def test_a_forged_upload_is_refused_and_the_round_goes_on(tmp_path: Path) -> None:
    study = Study(tmp_path)

    class Forged(Line):
        def answer(self, name: str, request: Request) -> messages.Reply:
            reply = super().answer(name, request)
            if name == "west" and isinstance(reply, messages.Uploaded) and request.at.round == 0:
                spoiled = reply.upload[:-1] + bytes([reply.upload[-1] ^ 1])
                return messages.Uploaded(site=name, at=reply.at, upload=spoiled)
            return reply

    state = study.run(Forged(study.sites))
    assert state.rounds()[0].survivors == ("east", "north", "south")
    assert "not accepted" in study.of(events.SiteRefused)[0].reason


# kills


class Counted(StudyState):
    """A state that is killed before or after one of its transactions."""

    kill, after, counted = 0, False, 0

    def _transaction(self):  # type: ignore[no-untyped-def]
        self.counted += 1
        mine = self.counted == self.kill
        context = super()._transaction()
        return _Dying(context, before=mine and not self.after, after=mine and self.after)


class _Dying:
    def __init__(self, context, *, before: bool, after: bool) -> None:  # type: ignore[no-untyped-def]
        self.context, self.before, self.after = context, before, after

    def __enter__(self) -> None:
        if self.before:
            raise Killed
        self.context.__enter__()

    def __exit__(self, *error) -> None:  # type: ignore[no-untyped-def]
        self.context.__exit__(*error)
        if self.after and error[0] is None:
            raise Killed


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "method", ["masks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "shares", "ckks"))]
)
def test_a_coordinator_that_is_killed_at_any_transition_ends_with_the_same_model(
    tmp_path: Path, method: str, after: bool
) -> None:
    whole = _counted(Study(_made(tmp_path / "whole"), method, strategy=FedAvg(rounds=2)))
    model = weights(whole)
    for kill in range(1, whole.counted + 1):
        study = Study(_made(tmp_path / f"{kill}"), method, strategy=FedAvg(rounds=2))
        state = study.begin()
        dying = Counted(state._base, study.path)
        dying.kill, dying.after = kill, after
        with pytest.raises(Killed):
            study.coordinator(dying).run()
        dying.close()
        resumed = study.resume()
        study.coordinator(resumed).run()
        assert np.abs(weights(resumed) - model).max() < 1e-6, kill
        assert resumed.stage is Stage.FINISHED
        assert [entry.phase for entry in resumed.rounds()] == [RoundPhase.ACCEPTED] * 2
        for site in study.sites.values():  # a round is trained again at most once, and from the same model
            assert len(site.trained) <= 3, kill
            assert len(set(site.trained)) == 2, kill


def _counted(study: Study) -> Counted:
    state = study.begin()
    counted = Counted(state._base, study.path)
    study.coordinator(counted).run()
    return counted


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("answered", [False, True])
def test_a_site_that_is_killed_at_any_request_ends_with_the_same_model(
    tmp_path: Path, answered: bool
) -> None:
    whole = Study(_made(tmp_path / "whole"), strategy=FedAvg(rounds=2))
    model = weights(whole.run())
    requests = sum(name == "north" for name, _ in whole.line.log)
    for at in range(1, requests + 1):
        study = Study(_made(tmp_path / f"{at}"), strategy=FedAvg(rounds=2))
        line = RestartingLine(study.sites, "north", at, answered=answered)
        state = study.run(line)
        assert np.abs(weights(state) - model).max() < 1e-6, at
        assert not study.of(events.SiteRefused), at
        assert not study.of(events.RoundAborted), at


def test_a_finished_study_is_not_run_again(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.run().close()
    asked = len(study.line.log)
    resumed = study.resume()
    study.coordinator(resumed).run()
    assert len(study.line.log) == asked


def test_stopping_the_coordinator_leaves_a_study_that_goes_on(tmp_path: Path) -> None:
    study = Study(tmp_path)
    state = study.begin()
    coordinator = study.coordinator(state)
    coordinator._stop = lambda: len(state.rounds()) >= 2
    with pytest.raises(Interrupted):
        coordinator.run()
    assert study.events[-1].outcome is events.StudyOutcome.STOPPED
    state.close()
    resumed = study.resume()
    study.coordinator(resumed).run()
    assert np.abs(weights(resumed) - expected_model([NAMES] * 3)).max() < 1e-5


# the state


def test_a_study_is_begun_once_and_resumed_with_its_own_terms(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with pytest.raises(UsageError, match="was not begun"):
        study.resume()
    study.begin().close()
    with pytest.raises(UsageError, match="begun before"):
        study.begin()
    with pytest.raises(DataError, match="other terms"):
        StudyState.resume(study.path, study="chest", terms="others", layout="l")


def test_a_phase_cannot_be_left_out(tmp_path: Path) -> None:
    state = Study(tmp_path).begin()
    now = state.begin_round(NAMES)
    with pytest.raises(DataError, match="cannot become"):
        state.advance(now, RoundPhase.CHECKING)
    with pytest.raises(DataError, match="a round is not over"):
        state.begin_round(NAMES)


def test_round_numbers_never_come_again_in_a_study(tmp_path: Path) -> None:
    study = Study(tmp_path)
    first = study.run()
    study.path.rename(tmp_path / "first.sqlite3")
    again = study.begin(first=first.next_number)
    study.coordinator(again).run()
    assert [entry.number for entry in again.rounds()] == [3, 4, 5]
    assert [entry.phase for entry in again.rounds()] == [RoundPhase.ACCEPTED] * 3
    study.path.rename(tmp_path / "second.sqlite3")
    third = study.begin()  # the numbers of the first run, which the sites closed
    study.line.log.clear()
    with pytest.raises(DataError, match=r"failed one after the other|too few sites"):
        study.coordinator(third).run()
    assert not any(isinstance(request, messages.Reveal) for _, request in study.line.log)


def test_a_damaged_state_and_a_full_disk_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path)
    state = study.begin()

    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(StudyState, "_write", full)
        with pytest.raises(StorageError, match="disk is full"):
            state.begin_round(NAMES)
    assert state.at_hand() is None  # nothing of it was kept
    state.close()
    content = study.path.read_bytes()
    study.path.write_bytes(b"not a database" + content[14:])
    with pytest.raises(DataError, match="damaged"):
        study.resume()


# cyclic transfer


def test_cyclic_transfer_hands_the_model_from_site_to_site(tmp_path: Path) -> None:
    study = Study(tmp_path, "plain", strategy=Cyclic(rounds=2))
    state = study.run()
    model = START
    for turn in range(8):
        model = model + update_of(NAMES[turn % 4], model, turn // 4 + 1)
    assert np.abs(weights(state) - model).max() < 1e-5
    assert [entry.survivors for entry in state.rounds()] == [(name,) for name in NAMES] * 2
    assert not study.of(events.SumsDiffer)


def test_the_turn_of_an_absent_site_is_passed_over(tmp_path: Path) -> None:
    study = Study(tmp_path, "plain", strategy=Cyclic(rounds=2))
    study.line.lose = lambda name, request: name == "south" and isinstance(request, messages.Train)
    state = study.run()
    phases = [entry.phase for entry in state.rounds()]
    assert (phases.count(RoundPhase.ABORTED), len(phases)) == (2, 8)


def test_turns_per_batch_move_the_model_after_every_step() -> None:
    strategy = Cyclic(rounds=2, steps=3, batches=True)
    assert strategy.turns(NAMES) == 2 * 3 * 4
    turns = [strategy.turn(number, NAMES) for number in range(24)]
    assert [turn.until for turn in turns] == [lap for lap in range(1, 7) for _ in NAMES]
    assert {turn.horizon for turn in turns} == {6}


# hostile replies


class Hostile(Line):
    """A line on which one site's replies are changed."""

    def __init__(self, study: Study, change: Callable[[messages.Reply], messages.Reply]) -> None:
        super().__init__(study.sites)
        self._change = change

    def answer(self, name: str, request: Request) -> messages.Reply:
        reply = super().answer(name, request)
        return self._change(reply) if name == "west" else reply


def test_an_upload_of_another_round_does_not_count(tmp_path: Path) -> None:
    first: list[messages.Uploaded] = []

    def stale(reply: messages.Reply) -> messages.Reply:
        if isinstance(reply, messages.Uploaded):
            first.append(reply)
            return first[0]
        return reply

    study = Study(tmp_path, "plain")
    state = study.run(Hostile(study, stale))
    assert [entry.survivors for entry in state.rounds()] == [NAMES, NAMES[:3], NAMES[:3]]


@pytest.mark.parametrize("epsilon", [float("nan"), float("inf"), -1.0])
def test_an_impossible_epsilon_is_not_recorded(tmp_path: Path, epsilon: float) -> None:
    study = Study(tmp_path, "plain")
    line = Hostile(
        study,
        lambda reply: (
            messages.Finished(site="west", epsilon=epsilon) if isinstance(reply, messages.Finished) else reply
        ),
    )
    assert set(study.run(line).finished()) == set(NAMES[:3])


@pytest.mark.parametrize("share", [0.0, 7.0, float("nan")])
def test_an_impossible_share_of_a_sum_is_not_recorded(tmp_path: Path, share: float) -> None:
    study = Study(tmp_path)
    line = Hostile(
        study,
        lambda reply: (
            messages.Recomputed(site="west", share=share, matches=True)
            if isinstance(reply, messages.Recomputed)
            else reply
        ),
    )
    assert all(set(entry.checked) == set(NAMES[:3]) for entry in study.run(line).rounds())


def test_a_long_reason_is_cut_and_cleaned(tmp_path: Path) -> None:
    study = Study(tmp_path, "plain")
    line = Hostile(
        study, lambda reply: messages.Declined(site="west", reason="no\x1b[31m" + "x" * 9999, final=True)
    )
    (reason,) = study.run(line).left().values()
    assert len(reason) == 500
    assert "\x1b" not in reason


def test_an_answer_to_another_question_is_refused_and_the_study_goes_on(tmp_path: Path) -> None:
    study = Study(tmp_path, "plain")
    line = Hostile(study, lambda reply: messages.Done(site="west"))
    state = study.run(line)
    assert all(entry.survivors == NAMES[:3] for entry in state.rounds())
    assert any("another question" in event.reason for event in study.of(events.SiteRefused))


@pytest.mark.parametrize("method", ["masks", "shares", "ckks"])
def test_a_site_that_was_given_another_model_is_in_no_sum(tmp_path: Path, method: str) -> None:
    """Otherwise a coordinator could read its update: others get a model from which theirs are zero."""
    study = Study(tmp_path, method, strategy=FedAvg(rounds=1))

    class TwoFaced(Line):
        def answer(self, name: str, request: Request) -> messages.Reply:
            if name == "west" and isinstance(request, messages.Train):
                request = msgspec.structs.replace(request, model=bytes(len(request.model)))
            return super().answer(name, request)

    line = TwoFaced(study.sites)
    if method != "shares":
        state = study.run(line)
        assert state.rounds()[0].survivors == ("east", "north", "south")
        assert np.abs(weights(state) - expected_model([NAMES[:3]])).max() < 1e-5
    else:  # which need every site
        with pytest.raises(DataError, match="failed one after the other"):
            study.run(line)
    assert any("not accepted" in event.reason for event in study.of(events.SiteRefused))


# sites that lie


class Forger(Learner):
    """Announces keys that no other site would meet."""

    def announced(self, run: str) -> bytes:
        return b"garbage"

    def _answered(self, request: Request) -> messages.Reply:
        reply = super()._answered(request)
        if isinstance(request, messages.Hello):
            announced = self.announced(request.at.run)
            return messages.Greeting(site=self.name, announcement=announced, layout="l")
        return reply


class OtherNetwork(Learner):
    """Has a network with as many weights in another order."""

    def _answered(self, request: Request) -> messages.Reply:
        reply = super()._answered(request)
        if isinstance(request, messages.Hello):
            return messages.Greeting(site=self.name, announcement=reply.announcement, layout="other")
        return reply


@pytest.mark.parametrize("method", ["masks", "plain"])
def test_a_site_whose_weights_have_another_layout_is_refused_before_the_first_round(
    tmp_path: Path, method: str
) -> None:
    study = Study(tmp_path, method)
    study.sites["west"] = OtherNetwork("west", study.sites["west"]._sides)
    study.line = Line(study.sites)
    with closing(study.run()) as state:
        assert all("west" not in entry.members for entry in state.rounds())
        assert "have another layout than those of the study" in state.left()["west"]
    assert study.sites["west"].trained == []
    assert any(event.site == "west" for event in study.of(events.SiteRefused))


class LowOrder(Forger):
    def announced(self, run: str) -> bytes:
        protocol = self._side._session
        roster = protocol.roster
        statement = Announcement(
            site=self.name, study=roster.study, run=run, roster=roster.hash, exchange_key=bytes(32)
        )
        return sign(statement, protocol._signing_key)


class Unwilling(Learner):
    """Refuses before the first round."""

    def _answered(self, request: Request) -> messages.Reply:
        return messages.Declined(site=self.name, reason="the site has more units than 4,096", code=2)


class Short(Learner):
    """Uploads a vector of another length, first of all sites."""

    def _answered(self, request: Request) -> messages.Reply:
        if isinstance(request, messages.Train):
            at, vector = request.at, np.zeros(1, "<u4")
            begun = beginning(request.model, request.until, request.horizon)
            upload = self._side._session.upload(at.round, at.attempt, request.members, vector, model=begun)
            return messages.Uploaded(site=self.name, at=at, upload=upload)
        return super()._answered(request)


class Denier(Learner):
    """Says of every sum that it is wrong."""

    def _answered(self, request: Request) -> messages.Reply:
        if isinstance(request, messages.Recompute):
            return messages.Recomputed(site=self.name, share=1.0, matches=False)
        return super()._answered(request)


def lied_to(root: Path, liar: type[Learner]) -> Study:
    study = Study(root, strategy=FedAvg(rounds=2), waiting=2.0)
    study.sites["east"] = study.line.sites["east"] = liar("east", study.sites["east"]._sides)
    return study


@pytest.mark.parametrize("liar", [Forger, LowOrder, Short])
def test_one_site_of_four_that_lies_is_left_out(tmp_path: Path, liar: type[Learner]) -> None:
    study = lied_to(tmp_path, liar)
    state = study.run()
    honest = NAMES[1:]
    assert [(one.phase, one.survivors) for one in state.rounds()] == [(RoundPhase.ACCEPTED, honest)] * 2
    assert np.allclose(weights(state), expected_model([honest, honest]), atol=1e-5)
    assert {event.site for event in study.of(events.SiteRefused)} == {"east"}


def test_the_word_of_one_site_against_a_sum_that_is_right_is_recorded_and_the_round_is_accepted(
    tmp_path: Path,
) -> None:
    study = lied_to(tmp_path, Denier)
    state = study.run()
    assert [(one.phase, one.mismatches) for one in state.rounds()] == [(RoundPhase.ACCEPTED, ("east",))] * 2
    assert [event.site for event in study.of(events.SumRecomputed) if not event.matches] == ["east"] * 2


def test_a_study_without_an_accepted_round_fails_and_releases_nothing(tmp_path: Path) -> None:
    study = Study(tmp_path, strategy=FedAvg(rounds=2))
    line = Line(study.sites, lose=lambda name, request: isinstance(request, messages.Reveal))
    with pytest.raises(DataError, match="no round was accepted"):
        study.run(line)
    assert not [request for _, request in line.log if isinstance(request, messages.Finish)]
    assert study.of(events.StudyEnded)[-1].outcome == events.StudyOutcome.FAILED
    state = study.resume()
    with pytest.raises(DataError, match="no round was accepted"):
        study.coordinator(state).run()


# what stays on the disk


@pytest.mark.parametrize("method", ["masks", "shares", "ckks"])
def test_no_secret_stays_in_the_history_after_a_round_or_a_run(tmp_path: Path, method: str) -> None:
    study = Study(tmp_path, method)
    study.run()
    for name, site in study.sites.items():
        kinds = {type(entry) for entry in kept(study, name)}
        if method == "masks":  # every site computed the last sum again, so its seeds are gone
            assert kinds == {SurvivorsSigned, KeyDrawn, SitesMet, AttemptUsed}
        site._side.finish()
        assert not {type(entry) for entry in kept(study, name)} - {SurvivorsSigned}


def test_attempts_that_fail_do_not_make_the_history_grow(tmp_path: Path) -> None:
    study = Study(tmp_path)
    sides = {name: one._sides("run") for name, one in study.sites.items()}
    announced = tuple(side.announce() for side in sides.values())
    sides["east"].meet(announced)
    given = Contribution(START, 10)
    at = messages.Position(study="chest", run="run", round=0, attempt=0)
    sizes = []
    for attempt in range(6):
        here = msgspec.structs.replace(at, attempt=attempt)
        sides["east"].check_round(here, NAMES)
        sides["east"].upload(here, NAMES, given)
        sizes.append(len(kept(study, "east")))
    assert max(sizes) <= 4
    with pytest.raises(PrivacyRefusal, match="masked before"):
        sides["east"].check_round(at, NAMES)
    with pytest.raises(PrivacyRefusal, match="at least 3"):
        sides["east"].check_round(msgspec.structs.replace(at, round=1), NAMES[:2])


def kept(study: Study, name: str) -> list:
    records = HistoryFile(study.root / f"history-{name}").read()
    return list(read_history(records, "chest"))


def test_a_study_with_too_few_keys_ends_with_the_reasons_of_the_sites(tmp_path: Path) -> None:
    study = Study(tmp_path, names=NAMES[:3])
    study.sites["east"] = study.line.sites["east"] = Unwilling("east", study.sites["east"]._sides)
    with pytest.raises(DataError, match=r"fewer than 3 sites .*east: the site has more units than 4,096"):
        study.run()
