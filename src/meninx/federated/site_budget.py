"""The budget of a study at a site: epsilon per patient over all runs, checked before the first step.

The plan of the coming run and the ledgers of the site's earlier runs of the study are composed at the run's
delta; their sum must stay within ``max_epsilon`` of the policy. Every earlier run counts for every patient,
also one whose patients were others: that is never too little. A run folder that is gone, or a ledger that
cannot be read, leaves unknown what was spent, and refuses. A run that was killed before its first step spent
nothing: its folder counts as nothing, and the audit log records that it is removed before it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meninx.core.artifacts import RunState
from meninx.core.errors import MeninxError, PrivacyRefusal, expected, problem
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.federated.policy import PolicyConfig
from meninx.federated.site_folder import SiteFolder
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.composition import joint_phases
from meninx.privacy.ledger import Ledger
from meninx.privacy.plan import Plan
from meninx.train.config import TrainConfig
from meninx.train.planning import make_plan

BEGAN = "training began"  # event of the audit log, with study and run folder
ENDED = "study ended"  # likewise, with the study: the coordinator said that its run is over
DISCARDED = "run without a step discarded"  # likewise; written before the folder is removed
_LEDGER = "private/ledger.jsonl"


@dataclass(frozen=True, kw_only=True)
class StudyBudget:
    """What a study may spend, has spent and asks for at a site, per patient.

    Attributes:
        limit: largest epsilon that the policy allows.
        spent: epsilon of earlier runs of the study.
        asked: epsilon of the coming run alone.
        total: epsilon of both together.
        delta: of all of them.
        steps: optimiser steps of the coming run.
    """

    limit: float
    spent: float
    asked: float
    total: float
    delta: float
    steps: int

    @property
    def end(self) -> float:
        """Epsilon over all runs at which the site stops: that of the plan's end, or of the policy."""
        return min(self.limit, self.total)

    @property
    def refusal(self) -> str:
        """Why the coming run is refused, as a sentence; empty when it is allowed."""
        if self.total <= self.limit:
            return ""
        before = f" on top of {self.spent:.3g} of earlier runs" if self.spent else ""
        return (
            f"The study asks for epsilon {self.asked:.3g} per patient{before}, together {self.total:.3g}; "
            f"the policy allows at most {self.limit:g} (max_epsilon)."
        )


@dataclass(frozen=True, kw_only=True)
class StudySpending:
    """What a study has spent at a site so far, per patient.

    Attributes:
        epsilon: over all runs of the study.
        limit: epsilon over all runs at which the site stops; None where no limit is known.
    """

    epsilon: float
    limit: float | None = None


def budget(
    policy: PolicyConfig, plan: Plan, site: SiteFolder, study: str, *, leave_out: Path | None = None
) -> StudyBudget:
    """Return the budget of a study at a site.

    Args:
        policy: the policy of the site.
        plan: of the coming run.
        site: the site.
        study: name of the study.
        leave_out: folder of a run that is being resumed; its own plan covers it.

    Raises:
        PrivacyRefusal: a run folder is gone, or its ledger was changed.
        DataError: a ledger or the audit log cannot be read.
    """
    ledgers = _ledgers(site, study, leave_out)
    known = [ledger for ledger in ledgers if ledger.accounts]
    asked, total, spent = plan.epsilon(), plan.epsilon(), 0.0
    if known:
        phases = joint_phases(known)
        spent = accounting.epsilon(phases, plan.delta).value
        total = accounting.epsilon([plan.phase(), *phases], plan.delta).value
    if any(ledger.pending and not ledger.accounts for ledger in ledgers):
        spent = total = math.inf  # a step was begun of which nothing is known
    return StudyBudget(
        limit=policy.max_epsilon, spent=spent, asked=asked, total=total, delta=plan.delta, steps=plan.steps
    )


def admit(
    policy: PolicyConfig,
    training: TrainConfig,
    data: Manifest,
    site: SiteFolder,
    study: str,
    *,
    leave_out: Path | None = None,
) -> Plan | None:
    """Return the plan of the coming run, None without privacy, if the site's budget covers it.

    Args:
        policy: the policy of the site.
        training: the settings with which the site trains.
        data: the site's dataset.
        site: the site.
        study: name of the study.
        leave_out: folder of a run that is being resumed.

    Guarantee:
        No step is taken that would bring the epsilon of all of the study's runs at this site, per patient
        and at the run's delta, above ``max_epsilon``; patients are units, so all images of one count
        together.

    Raises:
        PrivacyRefusal: the budget does not cover it, the policy requires privacy, or earlier spending is
            unknown.
        ConfigError, DataError: no plan can be made.
    """
    plan = make_plan(training, data)
    if plan is None:
        if policy.require_differential_privacy:
            rule = "a study with differential privacy"
            raise PrivacyRefusal(expected(rule, got="one without", where="require_differential_privacy"))
        return None
    found = budget(policy, plan, site, study, leave_out=leave_out)
    if found.refusal:
        fix = "the study is over for this site, unless the hospital raises max_epsilon in policy.toml"
        raise PrivacyRefusal(problem(found.refusal.rstrip("."), where="policy.toml", fix=fix))
    return plan


def admission(site: SiteFolder, study: str) -> Callable[[TrainConfig, Manifest, Path | None], Plan | None]:
    """Return a function that admits a run of a study at a site by the policy as it is then.

    It takes the settings, the dataset and the folder of a run that is being resumed, or None, and returns or
    raises as :func:`admit`. A refusal is in the audit log.
    """

    def admitted(training: TrainConfig, data: Manifest, resumed: Path | None = None) -> Plan | None:
        try:
            return admit(site.policy(), training, data, site, study, leave_out=resumed)
        except MeninxError as error:
            site.log().append("run refused", study=study, reason=str(error))
            raise

    return admitted


def account(site: SiteFolder, study: str, asked: float | None = None) -> Callable[[Plan, Run], StudySpending]:
    """Return a function that states what a study has spent at a site over all its runs.

    It takes the plan and the folder of the open run. Earlier runs and the policy are read once per run, as
    they were when the run was admitted. The errors are those of :func:`budget`.

    Args:
        site: the site.
        study: name of the study.
        asked: epsilon that the study asks for: the limit of a first run, whose plan may stay a little below.
    """
    before: dict[Path, tuple[list[Phase], float]] = {}

    def spending(plan: Plan, run: Run) -> StudySpending:
        if run.root not in before:
            earlier = [ledger for ledger in _ledgers(site, study, run.root) if ledger.accounts]
            found = budget(site.policy(), plan, site, study, leave_out=run.root)
            end = found.end if earlier or asked is None else min(found.limit, asked)
            before[run.root] = list(joint_phases(earlier)) if earlier else [], end
        phases, end = before[run.root]
        own = Ledger.parse(run.ledger_text())
        phases = [*phases, *(own.phases() if own.accounts else ())]
        epsilon = accounting.epsilon(phases, plan.delta).value if phases else 0.0
        return StudySpending(epsilon=epsilon, limit=end)

    return spending


def check_start(site: SiteFolder, study: str, training: TrainConfig, data: Path) -> None:
    """Refuse to take part in a study whose budget is spent, before anything leaves the site.

    A run that was begun and not released goes on within its own plan. So does one that was released and whose
    end the coordinator did not confirm: the site was killed before its last reply, which it sends again.

    Raises:
        PrivacyRefusal, DataError: as :func:`admit`.
    """
    records = [(path, Run(path).record) for path in _run_folders(site.runs(study))]
    begun = [path for path, record in records if record is None or record.state is not RunState.RELEASED]
    last = None
    for entry in site.log().verify():
        if entry.details.get("study") == study and entry.event in (BEGAN, ENDED):
            last = str(entry.details["run"]) if entry.event == BEGAN else None
    begun = begun or [path for path, _ in records if path.name == last]
    admission(site, study)(training, Manifest.read(data), begun[-1] if begun else None)


def begin(site: SiteFolder, study: str, run: Path) -> None:
    """Record in the audit log that a run of a study is about to take its first step.

    Raises:
        DataError, StorageError: the log is damaged, or the disk refused.
    """
    site.log().append(BEGAN, study=study, run=run.name)


def discard(site: SiteFolder, study: str, run: Path) -> None:
    """Record in the audit log that a run folder without a step is about to be removed.

    Raises:
        PrivacyRefusal: the run took a step.
        DataError, StorageError: the log is damaged, or the disk refused.
    """
    if not _never_stepped(run):
        raise PrivacyRefusal(problem("the run took a step and stays", where=run.name))
    site.log().append(DISCARDED, study=study, run=run.name)


def _never_stepped(run: Path) -> bool:
    """Return whether a run folder is there and its run took no step."""
    record = Run(run).record if run.is_dir() else None
    return record is not None and record.state is RunState.STARTING and not Run(run).ledger_text()


def _ledgers(site: SiteFolder, study: str, leave_out: Path | None) -> list[Ledger]:
    """Return the ledgers of all earlier runs of a study."""
    root = site.runs(study)
    runs = _run_folders(root)
    begun: set[str] = set()
    for entry in site.log().verify():
        if entry.details.get("study") == study and entry.event in (BEGAN, DISCARDED):
            change = begun.add if entry.event == BEGAN else begun.discard
            change(str(entry.details.get("run")))
    there = {path.name for path in runs if (path / _LEDGER).is_file() or _never_stepped(path)}
    missing = sorted(begun - there)
    if leave_out is not None:
        missing = [name for name in missing if name != leave_out.name]
    if missing:
        what = f"{len(missing)} runs of the study are gone, and with them the account of what they spent"
        fix = f"restore them below runs/{study}"
        raise PrivacyRefusal(problem(what, where=f"runs/{study}", fix=fix))
    counted = [path for path in runs if leave_out is None or path.resolve() != leave_out.resolve()]
    return [_ledger(Run(path)) for path in counted]


def _run_folders(root: Path) -> list[Path]:
    found = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [path for path in found if not path.is_symlink()]


def _ledger(run: Run) -> Ledger:
    text = run.ledger_text()
    record = run.record
    if not text and record is not None and record.private and record.state is not RunState.STARTING:
        what = "the ledger of a run is gone, and with it the account of what it spent"
        raise PrivacyRefusal(problem(what, where=f"runs/{run.name}", fix="restore it"))
    return Ledger.parse(text)
