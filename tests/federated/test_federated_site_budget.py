"""The budget of a study at a site: plans and earlier runs are composed, and what is unknown refuses."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from meninx import api
from meninx.core import run as runs
from meninx.core.artifacts import RunState
from meninx.core.errors import DataError, MeninxError, PrivacyRefusal
from meninx.core.manifest import Manifest
from meninx.federated import approval, site_budget
from meninx.train.config import TrainConfig

TRAIN = {"model": "resnet9-small", "batch_size": 16, "physical_batch": 16, "steps": 4, "delta": 1e-3}
NOISE = 1.0
WIDE = "max_epsilon = 20.0\nmax_delta = 1e-3\n"


@pytest.fixture(scope="module")
def trained(patients, tmp_path_factory) -> Path:
    """The folder of a run of four private steps."""
    root = tmp_path_factory.mktemp("runs")
    settings = TRAIN | {"noise_multiplier": NOISE, "attack_risk": False}
    return api.train(patients, out=root, recipe=None, **settings).out


@pytest.fixture
def site(consortium):
    found = consortium.sites["north"]
    (found.root / "policy.toml").write_text(WIDE)
    return found


def _admit(site, patients, training: TrainConfig, **named: object):
    return site_budget.admit(site.policy(), training, Manifest.read(patients), site, "chest", **named)


def _put(site, run: Path, name: str) -> Path:
    target = site.runs("chest") / name
    shutil.copytree(run, target)
    site_budget.begin(site, "chest", target)
    return target


def test_earlier_runs_of_the_study_count_for_every_patient(site, patients, trained):
    private = TrainConfig.of(**TRAIN, noise_multiplier=NOISE)
    plan = _admit(site, patients, private)
    first = plan.epsilon()
    _put(site, trained, "run-1")
    found = site_budget.budget(site.policy(), plan, site, "chest")
    assert found.spent == pytest.approx(first, rel=1e-6)
    assert first < found.total < 2 * first
    assert found.total == pytest.approx(plan.epsilon(steps=8), rel=1e-3)
    (site.root / "policy.toml").write_text(f"max_epsilon = {found.total - 0.01}\nmax_delta = 1e-3\n")
    with pytest.raises(PrivacyRefusal, match=r"on top of .* of earlier runs"):
        _admit(site, patients, private)
    assert _admit(site, patients, private, leave_out=site.runs("chest") / "run-1") is not None
    assert site_budget.budget(site.policy(), plan, site, "other").spent == 0.0


def test_a_plan_above_the_policy_is_refused_before_the_first_step(site, patients):
    with pytest.raises(PrivacyRefusal, match="allows at most 20"):
        _admit(site, patients, TrainConfig.of(**TRAIN, noise_multiplier=0.3))
    assert _admit(site, patients, TrainConfig.of(**TRAIN, noise_multiplier=1.0)) is not None


def test_a_study_without_privacy_needs_the_hospitals_word(site, patients):
    plain = TrainConfig.of(model="resnet9-small")
    with pytest.raises(PrivacyRefusal, match="require_differential_privacy"):
        _admit(site, patients, plain)
    (site.root / "policy.toml").write_text("require_differential_privacy = false\n")
    assert _admit(site, patients, plain) is None


def test_a_run_that_disappears_leaves_the_budget_unknown(site, patients, trained):
    private = TrainConfig.of(**TRAIN, noise_multiplier=NOISE)
    target = _put(site, trained, "run-1")
    ledger = target / "private" / "ledger.jsonl"
    content = ledger.read_text()
    ledger.unlink()
    with pytest.raises(PrivacyRefusal, match="1 runs of the study are gone"):
        _admit(site, patients, private)
    ledger.write_text("".join(content.splitlines(keepends=True)[1:]))
    with pytest.raises(MeninxError):
        _admit(site, patients, private)
    shutil.rmtree(target)
    with pytest.raises(PrivacyRefusal, match="gone"):
        _admit(site, patients, private)


def test_a_step_of_which_nothing_is_known_is_infinite(site, patients):
    folder = site.runs("chest") / "run-1" / "private"
    folder.mkdir(parents=True)
    (folder / "ledger.jsonl").write_text('{"index": 0, "pla')
    with pytest.raises(PrivacyRefusal, match="inf"):
        _admit(site, patients, TrainConfig.of(**TRAIN, noise_multiplier=NOISE))


def test_a_damaged_audit_log_refuses(site, patients):
    (site.private / "audit.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="audit log"):
        _admit(site, patients, TrainConfig.of(**TRAIN, noise_multiplier=NOISE))


def test_the_admission_follows_the_policy_of_the_moment_and_is_recorded(site, patients):
    admit = partial(site_budget.admission(site, "chest"), data=Manifest.read(patients))
    private = TrainConfig.of(**TRAIN, noise_multiplier=NOISE)
    assert admit(private) is not None
    (site.root / "policy.toml").write_text("max_epsilon = 0.1\nmax_delta = 1e-3\n")
    with pytest.raises(PrivacyRefusal):
        admit(private)
    assert site.log().verify()[-1].event == "run refused"


def test_the_page_states_what_was_spent(consortium, site, patients, trained):
    (site.root / "policy.toml").write_text(f'{WIDE}allowed_recipes = ["tiny"]\n')
    _put(site, trained, "run-1")
    page = approval.review(site, consortium.study, patients)
    assert "spent by earlier runs of this study 0;" not in page.privacy
    (site.root / "policy.toml").write_text(
        'max_epsilon = 8.5\nmax_delta = 1e-3\nallowed_recipes = ["tiny"]\n'
    )
    page = approval.review(site, consortium.study, patients)
    assert any("on top of" in reason for reason in page.reasons)


def test_a_run_without_a_step_counts_as_nothing_and_may_be_removed(site, patients, trained):
    private = TrainConfig.of(**TRAIN, noise_multiplier=NOISE)
    empty = _put(site, trained, "run-1")
    (empty / "private" / "ledger.jsonl").unlink()
    runs.Run(empty).update(state=RunState.STARTING)
    assert _admit(site, patients, private) is not None
    site_budget.discard(site, "chest", empty)
    runs.Run(empty).discard()
    assert not empty.exists()
    assert _admit(site, patients, private) is not None
    again = _put(site, trained, "run-1")  # a folder of the same name that took steps
    with pytest.raises(PrivacyRefusal, match="took a step"):
        site_budget.discard(site, "chest", again)
    shutil.rmtree(again)
    with pytest.raises(PrivacyRefusal, match="gone"):
        _admit(site, patients, private)


def test_a_site_refuses_at_its_start_when_its_budget_is_spent(site, patients, trained):
    private = TrainConfig.of(**TRAIN, noise_multiplier=NOISE)
    spent = _admit(site, patients, private).epsilon()
    (site.root / "policy.toml").write_text(f"max_epsilon = {1.05 * spent}\nmax_delta = 1e-3\n")
    site_budget.check_start(site, "chest", private, patients)
    target = _put(site, trained, "run-1")
    runs.Run(target).update(state=RunState.TRAINING)  # it goes on
    site_budget.check_start(site, "chest", private, patients)
    runs.Run(target).update(state=RunState.RELEASED)  # killed before its last reply, which it sends again
    site_budget.check_start(site, "chest", private, patients)
    site.log().append(site_budget.ENDED, study="chest")
    with pytest.raises(PrivacyRefusal, match="on top of"):
        site_budget.check_start(site, "chest", private, patients)
    assert site.log().verify()[-1].event == "run refused"
