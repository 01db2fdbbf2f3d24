"""What a site states about epsilon: over all runs of the study, with the limit at which the site stops."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rounds_samples import Line, Study

from meninx import api
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT
from meninx.federated import approval, enrolment, events, messages, site_budget, site_folder
from meninx.federated import study as studies
from meninx.federated.config import DataConfig, StudyConfig
from meninx.federated.first_model import first_model
from meninx.federated.messages import Position, Request
from meninx.federated.policy import PolicyConfig
from meninx.federated.site_folder import SiteFolder
from meninx.federated.site_process import SiteResult, _agent
from meninx.federated.status_metrics import prometheus
from meninx.federated.status_page import cards, page
from meninx.federated.study_status import status_of, view_of
from meninx.federated.study_watch import terms_of
from meninx.federated.vector import to_bytes
from meninx.synthetic import write_dataset

NETWORK = {"model": "resnet9-small", "model_options": {"width": 8}, "batch_size": 4, "physical_batch": 4}
ASKED, DELTA = 2.0, 1e-3


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve invented patients."""
    root = tmp_path_factory.mktemp("few") / "data"
    write_dataset(root, patients=12, size=16)
    return root


@pytest.fixture(scope="module")
def earlier(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that spent epsilon 2 in four steps."""
    root = tmp_path_factory.mktemp("earlier")
    return api.train(
        few, out=root, recipe=None, **NETWORK, steps=4, epsilon=ASKED, delta=DELTA, attack_risk=False
    ).out


@pytest.fixture
def site(tmp_path: Path, few: Path) -> SiteFolder:
    """A site that approved a study which asks for epsilon 2, under a policy of 8."""
    train = NETWORK | {"epsilon": ASKED, "delta": DELTA, "attack_risk": False}
    config = StudyConfig.of(
        rounds=2, local_steps=2, aggregation="plain", data=DataConfig.of_dataset(Manifest.read(few).info),
        train=train,
    )  # fmt: skip
    folder = studies.create(tmp_path / "chest", config)
    policy = PolicyConfig(
        max_epsilon=8.0,
        max_delta=DELTA,
        allowed_recipes=("any",),
        require_secure_aggregation=False,
        min_quorum=2,
    )
    sites = [site_folder.create(tmp_path / name, name, policy) for name in ("east", "west")]
    for one in sites:
        enrolment.request(one)
    enrolment.accept(folder, [one.request_path for one in sites])
    for one in sites:
        approval.approve(one, folder.study(), few)
        approval.receive(folder, one.approval_path("chest"))
    return sites[0]


def trained(site: SiteFolder, rounds: int = 1) -> tuple[list[events.AnyEvent], messages.Finished | None]:
    """Return the events of a run at the site, and its last reply if all rounds were trained."""
    approved = approval.approved(site, "chest")
    _, roster = approval.agreed(studies.open_folder(site.root.parent / "chest"))
    config = approved.study.config
    seen: list[events.AnyEvent] = [terms_of(approved.study)]
    agent = _agent(
        site, approved, roster, "cpu", site.private / "history", seen.append, SILENT, lambda: False
    )
    model, _ = first_model(config.training, config.data.info(), config.study.local_layers)
    last = None
    try:
        for number in range(rounds):
            at = Position(study="chest", run="r2", round=number, attempt=0)
            request = messages.Train(
                at=at, members=("east", "west"), model=to_bytes(model), until=2 * (number + 1), horizon=4
            )
            reply = agent.handle(request)
            assert isinstance(reply, messages.Uploaded), reply
        if rounds == 2:
            at = Position(study="chest", run="r2", round=2, attempt=0)
            last = agent.handle(messages.Finish(at=at, model=to_bytes(model)))
            assert isinstance(last, messages.Finished), last
    finally:
        agent.close()
    return seen, last


def put(site: SiteFolder, run: Path) -> None:
    target = site.runs("chest") / "run-1"
    shutil.copytree(run, target)
    site_budget.begin(site, "chest", target)


def spent(seen: list[events.AnyEvent]) -> list[events.EpsilonSpent]:
    return [event for event in seen if isinstance(event, events.EpsilonSpent)]


def test_a_second_run_states_what_all_runs_spent_and_where_the_site_stops(
    site: SiteFolder, earlier: Path
) -> None:
    put(site, earlier)
    seen, last = trained(site, rounds=2)
    before, first, second = spent(seen)
    assert before.epsilon == pytest.approx(ASKED, abs=0.02)  # known before the first step of this run
    assert before.epsilon < first.epsilon < second.epsilon
    assert before.limit == first.limit == second.limit
    assert second.epsilon == pytest.approx(second.limit, abs=1e-3)  # the plan is done
    assert ASKED < second.epsilon < 2 * ASKED
    assert last is not None
    assert (last.spent, last.delta) == (pytest.approx(second.epsilon), DELTA)
    assert last.epsilon == pytest.approx(ASKED, abs=0.02)  # of this run alone


def test_page_terminal_json_and_metrics_show_one_account(site: SiteFolder, earlier: Path) -> None:
    put(site, earlier)
    seen, _ = trained(site)
    (latest,) = spent(seen)[-1:]
    status = view_of("east", seen)
    card = next(card for card in cards(status, 0.0) if card.title == "ε left")
    assert f"{latest.epsilon:.3g} of {latest.limit:.3g} spent per patient over all runs" in card.detail
    assert card.value == f"{latest.limit - latest.epsilon:.3g}"
    assert f"{latest.epsilon:.3g} of {latest.limit:.3g} spent" in page(status, now=0.0)
    assert f'meninx_site_epsilon_spent{{site="east"}} {latest.epsilon!r}' in prometheus(status)


def test_the_limit_of_a_first_run_is_what_the_study_asks(site: SiteFolder) -> None:
    seen, _ = trained(site)
    before, after = spent(seen)
    assert (before.epsilon, before.limit, after.limit) == (0.0, ASKED, ASKED)
    assert 0 < after.epsilon < ASKED


def test_the_limit_of_the_policy_is_shown_where_it_is_lower(site: SiteFolder, few: Path) -> None:
    training = approval.approved(site, "chest").study.config.training
    plan = site_budget.admit(site.policy(), training, Manifest.read(few), site, "chest")
    low = site.policy().replace(max_epsilon=0.5)
    assert plan is not None
    assert site_budget.budget(low, plan, site, "chest").end == 0.5
    assert site_budget.budget(site.policy(), plan, site, "chest").end == pytest.approx(ASKED, abs=0.02)


def test_a_second_run_is_not_shown_as_if_nothing_were_spent() -> None:
    sites = ("east", "north", "west")
    seen = [
        events.StudyTerms(study="chest", sites=sites, rounds=2, private=True, epsilon=2.0, delta=1e-3),
        events.StudyStarted(study="chest", run="r1", sites=sites, rounds=2),
        events.EpsilonSpent(site="east", epsilon=2.0, delta=1e-3, limit=2.0),
        events.StudyStarted(study="chest", run="r2", sites=sites, rounds=2),
    ]
    card = next(card for card in cards(view_of("east", seen), 0.0) if card.title == "ε left")
    assert "nothing is spent yet" not in card.detail
    assert "2 of 2 spent per patient over all runs" in card.detail


def test_the_last_sentence_of_a_site_states_the_same_account(tmp_path: Path) -> None:
    shown = SiteResult(
        out=tmp_path, study="chest", site="east", run=tmp_path, epsilon=2.61, run_epsilon=2.0, delta=1e-3,
        limit=2.62, allowed=8.0,
    ).summary()  # fmt: skip
    assert (
        "epsilon: 2.61 of at most 2.62 in this study, per patient at delta 0.001, over all its runs" in shown
    )
    assert "(2 by this run alone; the policy allows 8)" in shown


# the coordinator


class Private(Line):
    """Sites that state what they spent when they release the model."""

    def answer(self, name: str, request: Request) -> messages.Reply:
        reply = super().answer(name, request)
        if isinstance(reply, messages.Finished):
            return messages.Finished(site=name, epsilon=1.5, spent=2.5, delta=1e-3)
        return reply


def test_the_coordinator_learns_epsilon_at_the_end_of_a_run(tmp_path: Path) -> None:
    study = Study(tmp_path, "plain")
    state = study.run(Private(study.sites))
    found = study.of(events.EpsilonSpent)
    assert {(event.site, event.epsilon, event.delta) for event in found} == {
        (site, 2.5, 1e-3) for site in study.sites
    }
    assert set(state.finished().values()) == {1.5}  # of this run, for the record
    text = prometheus(status_of(study.events))
    assert 'meninx_site_epsilon_spent{site="east"} 2.5' in text
    assert "meninx_site_epsilon_left" not in text
    card = next(card for card in cards(status_of(study.events), 0.0) if card.title == "ε left")
    assert "at most 2.5 is spent per patient over all runs" in card.detail


@pytest.mark.parametrize("lie", [{"spent": float("inf")}, {"spent": -1.0}, {"delta": float("nan")}])
def test_a_site_that_states_an_impossible_epsilon_is_refused(tmp_path: Path, lie: dict[str, float]) -> None:
    study = Study(tmp_path, "plain")

    class Lying(Line):
        def answer(self, name: str, request: Request) -> messages.Reply:
            reply = super().answer(name, request)
            if isinstance(reply, messages.Finished) and name == "east":
                return messages.Finished(site=name, **{"epsilon": 1.0, "spent": 1.0, "delta": 1e-3, **lie})
            return reply

    state = study.run(Lying(study.sites))
    assert "east" not in state.finished()
    assert not study.of(events.EpsilonSpent)


def test_a_budget_that_is_used_as_planned_is_no_alarm_at_the_end() -> None:
    spent = events.EpsilonSpent(site="east", epsilon=2.0, delta=1e-3, limit=2.0)
    ended = events.StudyEnded(outcome=events.StudyOutcome.FINISHED)
    tones = [
        next(card.tone for card in cards(status_of(seen), 0.0) if card.title == "ε left")
        for seen in ([spent], [spent, ended])
    ]
    assert tones == ["red", "grey"]
