"""Sites that train: secure and plain sums give one model, FedProx, local norms, privacy, kills, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, tzinfo
from pathlib import Path
from types import SimpleNamespace

import dp_accounting as dpa
import msgspec
import numpy as np
import pytest
from dp_accounting import pld
from rounds_samples import Killed, enrolled

from meninx.core import run as runs
from meninx.core.artifacts import RunState, StudyPart
from meninx.core.errors import DataError, PrivacyRefusal
from meninx.core.manifest import Manifest, TaskKind
from meninx.federated import events, messages, strategies
from meninx.federated.agent import InProcess, SiteAgent
from meninx.federated.aggregation_methods import fewest, round_sides, site_sides
from meninx.federated.config import DataConfig, StudyConfig
from meninx.federated.contribution import RoundSum
from meninx.federated.first_model import first_model
from meninx.federated.history_file import HistoryFile
from meninx.federated.messages import Position
from meninx.federated.rounds import Coordinator, Terms
from meninx.federated.site_rounds import SiteRounds
from meninx.federated.study_state import StudyState
from meninx.federated.vector import Vector, to_bytes
from meninx.learn import ledger_file
from meninx.learn.hooks import Hook, StepDone
from meninx.learn.inference import load_model
from meninx.learn.state import TrainState
from meninx.secagg.site_history import SurvivorsSigned, read_history
from meninx.synthetic import write_dataset
from meninx.train import planning

NETWORK = {"model": "resnet9-small", "model_options": {"width": 8}}
TRAIN = {**NETWORK, "batch_size": 4, "lr": 3e-3, "export": (), "eval_every": 50}
PRIVACY = {
    "noise_multiplier": 1.0, "delta": 1e-3, "attack_risk": False, "deterministic": True, "batch_size": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """Radiographs of 9 to 13 invented patients at each of three hospitals."""
    root = tmp_path_factory.mktemp("hospitals")
    sizes = {"east": 9, "north": 11, "west": 13}
    return {
        name: write_dataset(root / name, patients=patients, size=16, seed=seed)
        for seed, (name, patients) in enumerate(sizes.items())
    }


class House:
    """A study of real sites in one process."""

    def __init__(
        self, root: Path, data: dict[str, Manifest], *, hooks: dict[str, Hook] | None = None, **terms: object
    ) -> None:
        train = {**TRAIN, **terms.pop("train", {})}
        base = {"name": "chest", "rounds": 2, "local_steps": 2, "aggregation": "plain", "clip": 8.0}
        info = next(iter(data.values())).info
        self.config = StudyConfig.of(**{**base, **terms}, data=DataConfig.of_dataset(info), train=train)
        self.root, self.data, self.info, self.extra = root, data, info, hooks or {}
        self.strategy = strategies.of_config(self.config.study)
        self.roster, self.keys = enrolled(data)
        self.events: dict[str, list[events.AnyEvent]] = {name: [] for name in data}
        self.agents = {name: self.agent(name) for name in data}

    def agent(self, name: str, **changes: object) -> SiteAgent:
        own = (self.extra[name],) if name in self.extra else ()
        return SiteAgent(
            name, self.config.training, self.data[name].root, self.root / name, study="chest",
            part=lambda run: StudyPart(study="chest", run=run, site=name, sites=len(self.data)),
            sides=site_sides(
                self.config.aggregation, self.roster, name, self.keys[name], self.root / f"history-{name}"
            ),
            local=self.config.study.local_layers, hooks=(*self.strategy.hooks(), *own),
            aggregation=self.config.aggregation,
            **{
                "emit": self.events[name].append, "rounds": SiteRounds(self.strategy, tuple(self.data)),
                **changes,
            },
        )  # fmt: skip

    def begin(self) -> StudyState:
        local = self.config.study.local_layers
        self.first, self.layout = first_model(self.config.training, self.info, local)
        return StudyState.begin(
            self.root / "study.sqlite3", study="chest", terms="t", layout=self.layout.digest,
            weights=self.strategy.init(self.first),
        )  # fmt: skip

    def go(self, state: StudyState, exchange: InProcess | None = None) -> Vector:
        terms = Terms(
            sites=self.roster.names, quorum=fewest(self.config, len(self.data)),
            strategy=self.strategy, waiting_seconds=0.0,
        )  # fmt: skip
        sides = round_sides(self.config.aggregation, self.roster, self.layout.size)
        Coordinator(terms, state, exchange or InProcess(self.agents), sides).run()
        return state.model()[1].weights

    def run(self) -> Vector:
        try:
            return self.go(self.begin())
        finally:
            self.close()

    def close(self) -> None:
        for agent in self.agents.values():
            agent.close()

    def released(self, name: str) -> runs.Run:
        return runs.open_run(next((self.root / name).glob("*_s0")))


@pytest.fixture
def house(tmp_path: Path, hospitals: dict[str, Manifest]) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(**terms: object) -> House:
        root = tmp_path / f"house{len(made)}"
        root.mkdir()
        made.append(House(root, terms.pop("data", hospitals), **terms))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_training_through_secure_aggregation_gives_the_plain_model(house: Callable[..., House]) -> None:
    plain, masked = house(clip=2.0), house(aggregation="masks", clip=2.0)
    one, other = plain.run(), masked.run()
    assert np.abs(one - other).max() <= 1e-5
    assert np.abs(one - plain.first).max() > 1e-3


def test_all_sites_release_the_common_model(house: Callable[..., House]) -> None:
    study = house()
    final = study.run()
    for name in study.data:
        network, _, _ = load_model(study.released(name))
        assert np.array_equal(study.layout.flatten(network.state_dict()), final)


def test_no_secret_of_the_aggregation_stays_at_a_site_that_released_the_model(
    house: Callable[..., House],
) -> None:
    study = house(aggregation="masks", rounds=1)
    study.run()
    for name in study.data:
        records = HistoryFile(study.root / f"history-{name}").read()
        assert {type(entry) for entry in read_history(records, "chest")} == {SurvivorsSigned}


def test_fedprox_without_a_pull_is_fedavg_bit_for_bit(house: Callable[..., House]) -> None:
    average = house(rounds=1).run()
    without = house(rounds=1, algorithm="fedprox", mu=0.0).run()
    pulled = house(rounds=1, algorithm="fedprox", mu=5.0).run()
    assert np.array_equal(average, without)
    assert not np.array_equal(average, pulled)


def test_sites_follow_cyclic_transfer_to_its_last_turn(house: Callable[..., House]) -> None:
    study = house(algorithm="cyclic", rounds=2, local_steps=1)
    final = study.run()
    told = [event for emitted in study.events.values() for event in emitted]
    assert not [event for event in told if isinstance(event, events.SiteRefused)]
    assert all(study.released(name).record.state is RunState.RELEASED for name in study.data)
    assert not np.array_equal(final, study.first)


@pytest.mark.slow
def test_a_strong_pull_keeps_the_sites_at_the_common_model(house: Callable[..., House]) -> None:
    train = {"optimizer": "sgd", "lr": 0.05}
    moved = []
    for mu in (0.0, 19.0):
        study = house(algorithm="fedprox", mu=mu, rounds=1, local_steps=6, train=train)
        moved.append(np.linalg.norm(study.run() - study.first))
    assert moved[1] < 0.7 * moved[0]


def test_local_norms_differ_between_sites_and_nothing_else_does(house: Callable[..., House]) -> None:
    study = house(local_layers=("norms",))
    study.run()
    states = [load_model(study.released(name))[0].state_dict() for name in study.data]
    local = set(study.layout.local)
    differing = {
        name
        for name in states[0]
        if any(not bool((states[0][name] == other[name]).all()) for other in states[1:])
    }
    assert differing
    assert differing <= local


def _of_the_library(rate: float, noise: float) -> float:
    """Return what dp-accounting says of the four steps of a site."""
    accountant = pld.PLDAccountant(dpa.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    step = dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(noise))
    accountant.compose(dpa.SelfComposedDpEvent(step, 4))
    return accountant.get_epsilon(1e-3)


def test_a_patient_with_several_images_is_one_unit_of_privacy_and_of_weight(
    house: Callable[..., House],
) -> None:
    study = house(train=PRIVACY)
    for data in study.data.values():
        train = data.split("train")
        assert len(train) > len(train.patients)
        config = study.config.training
        assert planning.units_of(config, data) == len(train.patients)
        plan = planning.make_plan(config, data)
        assert plan is not None
        assert plan.n_units_declared == len(train.patients)


def test_every_site_has_its_own_ledger_and_epsilon(house: Callable[..., House]) -> None:
    study = house(train=PRIVACY)
    study.run()
    rounds_log = [event for event in study.events["east"] if isinstance(event, events.EpsilonSpent)]
    assert [event.epsilon for event in rounds_log] == sorted(event.epsilon for event in rounds_log)
    spent = {}
    for name in study.data:
        folder = study.released(name)
        ledger = ledger_file.read(folder)
        assert [account.steps for account in ledger.accounts] == [4]
        entry = ledger.accounts[0].first
        assert entry.sample_rate == pytest.approx(2 / len(study.data[name].split("train").patients))
        spent[name] = ledger.epsilon(1e-3)
        assert spent[name] == pytest.approx(
            _of_the_library(entry.sample_rate, entry.noise_multiplier), rel=1e-3
        )
        assert spent[name] == pytest.approx(folder.read_json("privacy.json")["epsilon"])
    assert len(set(spent.values())) == 3  # sites of other sizes spend otherwise


@pytest.mark.slow
def test_a_private_site_tells_no_loss(house: Callable[..., House]) -> None:
    private, public = house(train=PRIVACY, rounds=1), house(rounds=1)
    for study, expected in ((private, True), (public, False)):
        state = study.begin()
        study.go(state)
        study.close()
        assert (state.rounds()[0].loss is None) == expected


class DiesAt(Hook):
    """Kills the process, so to say, once after a step."""

    def __init__(self, step: int) -> None:
        self.step, self.died = step, False

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        if state.step == self.step and not self.died:
            self.died = True
            raise Killed


class Restarting(InProcess):
    """A carrier that asks a killed site again when its process is back."""

    def __init__(self, study: House) -> None:
        super().__init__(study.agents)
        self.study = study

    def ask(self, requests: dict[str, messages.Request], *, within: float) -> dict[str, messages.Reply]:
        replies = {}
        for name, request in requests.items():
            try:
                replies |= super().ask({name: request}, within=within)
            except Killed:
                self.study.agents[name].close()
                self._sites[name] = self.study.agents[name] = self.study.agent(name)
                replies |= super().ask({name: request}, within=within)
        return replies


@pytest.mark.parametrize(
    "train", [{}, pytest.param(PRIVACY, marks=pytest.mark.slow)], ids=["plain", "private"]
)
def test_a_site_that_is_killed_inside_a_round_changes_nothing(
    house: Callable[..., House], train: dict[str, object]
) -> None:
    quiet = house(train=train, aggregation="masks").run()
    study = house(train=train, aggregation="masks", hooks={"north": DiesAt(3)})
    killed = study.go(study.begin(), Restarting(study))
    study.close()
    assert np.abs(quiet - killed).max() <= 1e-6
    if train:
        ledger = ledger_file.read(study.released("north"))
        assert [account.steps for account in ledger.accounts] == [4]


# refusals


def position(number: int = 0, study: str = "chest") -> Position:
    return Position(study=study, run="r1", round=number, attempt=0)


def train_request(study: House, **changes: object) -> messages.Train:
    state = study.begin()
    model = to_bytes(state.model()[1].weights)
    state.close()
    (study.root / "study.sqlite3").unlink()
    given = {"at": position(), "members": tuple(study.data), "model": model, "until": 2, "horizon": 4}
    return messages.Train(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"at": position(study="other")}, "not of study chest"),
        ({"members": ("north", "west")}, "not a member"),
        ({"until": 5}, "0 < until <= 4"),
        ({"until": 0}, "0 < until <= 4"),
        ({"model": b"1234"}, "bytes of weights"),
    ],
    ids=["study", "member", "late", "early", "model"],
)
def test_a_request_that_makes_no_sense_is_declined_and_may_come_again(
    house: Callable[..., House], changes: dict[str, object], words: str
) -> None:
    study = house()
    reply = study.agents["east"].handle(train_request(study, **changes))
    assert isinstance(reply, messages.Declined)
    assert words in reply.reason
    assert not reply.final
    assert not list((study.root / "east").glob("*_s0"))  # nothing is left that a later start would trip over


def test_a_site_says_no_for_good_when_its_budget_is_used_up_or_its_policy_refuses(
    house: Callable[..., House],
) -> None:
    def never(config: object, data: object, resumed: object) -> None:
        raise PrivacyRefusal("the policy of the site allows epsilon 1")

    study = house(train=PRIVACY)
    strict = study.agent("east", admit=never)
    reply = strict.handle(train_request(study))
    assert isinstance(reply, messages.Declined)
    assert (reply.final, reply.code) == (True, 4)
    assert not list((study.root / "east").glob("*"))

    whole = SiteRounds(strategies.FedAvg(rounds=1, steps=4), tuple(study.data))
    once = study.agent("north", rounds=whole)
    assert isinstance(once.handle(train_request(study, until=4)), messages.Uploaded)
    once.close()
    agent = study.agents["north"]
    more = agent.handle(train_request(study, at=position(1), until=4, model=bytes(4 * study.layout.size)))
    assert isinstance(more, messages.Declined)
    assert more.final
    assert "used up" in more.reason
    assert isinstance(study.events["north"][-1], events.SiteRefused)


def test_a_new_run_is_told_before_its_first_step(house: Callable[..., House]) -> None:
    study, opened = house(), []
    agent = study.agent("east", opened=opened.append)
    request = train_request(study)
    agent.handle(request)
    agent.close()
    again = study.agent("east", opened=opened.append)
    again.handle(request)
    again.close()
    assert [path.name for path in opened] == [study.released("east").name]


def test_no_step_is_taken_for_a_round_that_the_aggregation_would_refuse(house: Callable[..., House]) -> None:
    study = house(aggregation="masks", train=PRIVACY)
    reply = study.agents["east"].handle(train_request(study))
    assert isinstance(reply, messages.Declined)
    assert "cannot upload" in reply.reason
    assert not list((study.root / "east").glob("*_s0"))


class StoppedClock(datetime):
    """A clock by which two run folders get one name."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> StoppedClock:
        return cls(2026, 1, 1, tzinfo=tz)


def test_a_folder_without_a_step_is_announced_before_it_is_removed(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "datetime", StoppedClock)
    study, removed = house(), []
    request = train_request(study)
    study.agents["east"].handle(request)
    study.close()
    study.released("east").update(state=RunState.STARTING)  # as after a kill before the first step
    begun: list[Path] = []
    again = study.agent(
        "east", discarding=lambda run: removed.append((run, run.is_dir())), opened=begun.append
    )
    assert isinstance(again.handle(request), messages.Uploaded)
    again.close()
    assert [there for _, there in removed] == [True]
    assert begun == [removed[0][0]]  # the new folder has the name of the removed one


# a coordinator that lies


@pytest.mark.parametrize(
    "changes",
    [
        {"until": 1}, {"until": 3}, {"until": 4}, {"horizon": 8}, {"until": 3, "horizon": 6},
        {"seconds": 1.0},
    ],
    ids=["shorter", "longer", "later turn", "horizon", "rounds", "seconds"],
)  # fmt: skip
def test_a_round_that_is_no_turn_of_the_signed_terms_is_declined_before_a_step(
    house: Callable[..., House], changes: dict[str, object]
) -> None:
    study = house()
    reply = study.agents["east"].handle(train_request(study, **changes))
    assert isinstance(reply, messages.Declined)
    assert "no turn of the signed terms" in reply.reason
    assert study.agents["east"].run_folder is None


class Lying(InProcess):
    """A coordinator that gives one site another model than the sums lead to, from a round on."""

    def __init__(self, study: House, kind: type, number: int) -> None:
        super().__init__(study.agents)
        self.kind, self.number = kind, number
        self.replies: list[messages.Reply] = []

    def ask(self, requests, *, within):  # type: ignore[no-untyped-def]
        changed = dict(requests)
        request = changed.get("east")
        if isinstance(request, self.kind) and request.at.round >= self.number:
            other = np.frombuffer(request.model, "<f4") + np.float32(1e-3)
            changed["east"] = msgspec.structs.replace(request, model=to_bytes(other))
        replies = super().ask(changed, within=within)
        if request is not changed.get("east"):
            self.replies.append(replies["east"])
        return replies


@pytest.mark.parametrize(
    ("method", "kind", "number"),
    [
        ("masks", messages.Train, 1),
        ("masks", messages.Finish, 2),
        ("shares", messages.Train, 1),
        pytest.param("shares", messages.Finish, 2, marks=pytest.mark.slow),
        pytest.param("ckks", messages.Train, 1, marks=pytest.mark.slow),
        pytest.param("ckks", messages.Finish, 2, marks=pytest.mark.slow),
    ],
)
def test_a_model_that_the_sum_does_not_lead_to_is_declined(
    house: Callable[..., House], kind: type, number: int, method: str
) -> None:
    if method == "ckks":
        pytest.importorskip("tenseal")
    study = house(aggregation=method, algorithm="fedprox")
    line = Lying(study, kind, number)
    with suppress(DataError):  # three sites tolerate no dropout
        study.go(study.begin(), line)
    assert "not what the sum of round" in line.replies[0].reason
    assert any(isinstance(event, events.SiteRefused) for event in study.events["east"])


@pytest.mark.parametrize("method", ["shares", pytest.param("ckks", marks=pytest.mark.slow)])
def test_honest_models_are_checked_and_accepted(house: Callable[..., House], method: str) -> None:
    if method == "ckks":
        pytest.importorskip("tenseal")
    study = house(aggregation=method)
    study.go(study.begin())
    told = [event for log in study.events.values() for event in log]
    assert not [event for event in told if isinstance(event, (events.ModelUnchecked, events.SiteRefused))]


def test_a_plain_study_cannot_check_its_models(house: Callable[..., House]) -> None:
    study = house(aggregation="plain")
    line = Lying(study, messages.Finish, 2)
    study.go(study.begin(), line)
    assert isinstance(line.replies[0], messages.Finished)  # as the review page says


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("masks", messages.Recompute),
        pytest.param("shares", messages.Recompute, marks=pytest.mark.slow),
        pytest.param("ckks", messages.Reveal, marks=pytest.mark.slow),
    ],
)
def test_a_model_that_cannot_be_checked_is_accepted_and_the_site_says_so(
    house: Callable[..., House], method: str, kind: type
) -> None:
    if method == "ckks":
        pytest.importorskip("tenseal")
    study = house(aggregation=method)

    class Silent(InProcess):
        def ask(self, requests, *, within):  # type: ignore[no-untyped-def]
            left = {name: item for name, item in requests.items() if name != "east"}
            skipped = isinstance(requests.get("east"), kind)
            return super().ask(left if skipped else requests, within=within)

    study.go(study.begin(), Silent(study.agents))
    unchecked = {
        name: [event.round for event in told if isinstance(event, events.ModelUnchecked)]
        for name, told in study.events.items()
    }
    assert unchecked == {"east": [1, 2], "north": [], "west": []}


def test_a_site_warns_of_sums_that_differ_by_one_site_by_what_it_signed(tmp_path: Path) -> None:
    rounds = SiteRounds(strategies.FedAvg(rounds=4), ("a", "b", "c", "d"))
    everybody, model = ("a", "b", "c", "d"), np.zeros(2, np.float32)
    found = []
    for number, survivors in enumerate((everybody, everybody, everybody[:2], everybody[:3])):
        rounds.begin(tmp_path, position(number), number, model)
        found.append(rounds.signed(tmp_path, position(number), survivors))
    assert found == [(), (), (), (("d", 0), ("d", 1), ("c", 2))]


def test_a_site_emits_the_sums_that_differ_by_one_site_when_it_signs(
    house: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = house()
    rounds = SimpleNamespace(signed=lambda folder, at, survivors: (("north", 0),))
    agent = study.agent("east", rounds=rounds)
    monkeypatch.setattr(agent, "_side_of", lambda at: SimpleNamespace(agree=lambda at, survivors: b"signed"))
    monkeypatch.setattr(agent, "_folder", lambda at: tmp_path)
    reply = agent.handle(messages.Agree(at=position(1), survivors=("east", "west")))
    assert isinstance(reply, messages.Agreed)
    (warned,) = [event for event in study.events["east"] if isinstance(event, events.SumsDiffer)]
    assert (warned.site, warned.round, warned.earlier) == ("north", 1, 0)


@pytest.mark.parametrize("method", ["masks", "shares", "ckks"])
def test_a_site_with_more_units_than_the_terms_allow_says_so_before_the_first_round(
    house: Callable[..., House], method: str
) -> None:
    study = house(aggregation=method, max_units=2)
    reply = study.agents["west"].handle(messages.Hello(at=position()))
    assert isinstance(reply, messages.Declined)
    assert "more units than the 2" in reply.reason
    assert "set max_units = 8" in reply.reason or "set max_units = 16" in reply.reason


def test_a_site_logs_how_many_values_of_its_update_were_cut(house: Callable[..., House]) -> None:
    study = house(rounds=1, clip=1e-4)
    study.run()
    (cut,) = [event for event in study.events["east"] if isinstance(event, events.UpdatesClipped)]
    assert cut.site == "east"
    assert 0 < cut.elements <= study.layout.size
    assert cut.share == pytest.approx(cut.elements / study.layout.size)


def test_the_model_after_a_sum_that_the_site_denied_is_refused(tmp_path: Path) -> None:
    rounds = SiteRounds(strategies.FedAvg(rounds=4), ("a", "b", "c"))
    model = np.zeros(2, np.float32)
    rounds.begin(tmp_path, position(0), 0, model)
    rounds.computed(tmp_path, position(0), None)
    for later in (1, 2, 3):  # also where the coordinator leaves the site out of a round
        with pytest.raises(DataError, match="computed another sum of round 1"):
            rounds.begin(tmp_path, position(later), later, model + 1)
    with pytest.raises(DataError, match="computed another sum of round 1"):
        rounds.finish(tmp_path, position(4), model + 1)
    assert rounds.begin(tmp_path, position(1), 1, model) == ""  # the round was aborted


def test_a_model_that_was_refused_is_not_accepted_a_round_later(tmp_path: Path) -> None:
    rounds = SiteRounds(strategies.FedAvg(rounds=4), ("a", "b", "c"))
    model, step = np.zeros(2, np.float32), np.ones(2, np.float32)
    rounds.begin(tmp_path, position(0), 0, model)
    rounds.computed(tmp_path, position(0), RoundSum(step, 10))
    for later in (1, 2, 3):
        with pytest.raises(DataError, match="not what the sum of round 1 leads to"):
            rounds.begin(tmp_path, position(later), later, model + 5)
    with pytest.raises(DataError, match="not what the sum of round 1 leads to"):
        rounds.finish(tmp_path, position(4), model + 5)
    assert rounds.begin(tmp_path, position(3), 3, model + step) == ""


def test_the_last_model_is_checked_whatever_number_the_coordinator_gives_its_request(tmp_path: Path) -> None:
    rounds = SiteRounds(strategies.FedAvg(rounds=1), ("a", "b", "c"))
    model, step = np.zeros(2, np.float32), np.ones(2, np.float32)
    rounds.begin(tmp_path, position(0), 0, model)
    rounds.computed(tmp_path, position(0), RoundSum(step, 10))
    with pytest.raises(DataError, match="end before round 10"):
        rounds.finish(tmp_path, position(9), model + 5)
    assert rounds.finish(tmp_path, position(1), model + step) == ""


@pytest.mark.parametrize("spoiled", ["undecodable", "of another model"])
def test_after_a_sum_that_no_updates_add_up_to_only_the_same_model_follows(
    house: Callable[..., House], spoiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = house(aggregation="masks")
    agent = study.agents["east"]
    state = study.begin()
    model = state.model()[1].weights
    state.close()
    folder = study.root / "east" / "private"
    folder.mkdir(parents=True)
    rounds = SiteRounds(study.strategy, tuple(study.data))
    rounds.begin(folder, position(0), 0, model)
    monkeypatch.setattr(agent, "_folder", lambda at: folder)
    side = agent._side_of(position(0))
    length = side._encoding.quantiser.length(len(model))
    ring = np.zeros(length if spoiled == "undecodable" else length - 1, "<u4")
    ring[-1] = 0 if spoiled == "undecodable" else 3  # the weight
    agent._note_sum(position(0), side, ring.tobytes())
    with pytest.raises(DataError, match="not what the sum of round 1 leads to"):
        rounds.begin(folder, position(1), 1, model + np.float32(1e-3))
    assert rounds.begin(folder, position(1), 1, model) == ""  # one site can spoil a sum: the study goes on


# other tasks


@pytest.mark.parametrize("dimensions", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_segmentation_of_pictures_and_volumes_trains_together(
    house: Callable[..., House], tmp_path: Path, dimensions: int
) -> None:
    data = {
        name: write_dataset(
            tmp_path / name, task=TaskKind.SEGMENTATION, patients=6, size=16, spatial_dims=dimensions,
            seed=seed, prevalence=0.9,
        )
        for seed, name in enumerate(("east", "north", "west"))
    }  # fmt: skip
    network = {"model": "unet", "model_options": {"base": 4, "depth": 2}, "batch_size": 2}
    study = house(data=data, rounds=1, aggregation="masks", train=network)
    start = study.begin()
    before = start.model()[1].weights
    final = study.go(start)
    assert np.abs(final - before).max() > 1e-4
