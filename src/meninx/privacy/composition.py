"""Composition over runs: one epsilon for a sweep, for two phases of training, or for a restarted run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from meninx.core.budget import PrivacySpent
from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.privacy.accounting import Phase
from meninx.privacy.ledger import Ledger


def compose(ledgers: Sequence[Ledger], *, delta: float) -> PrivacySpent:
    """Return what all runs together spend on the units that they share, at ``delta``.

    Every trained model counts, including the discarded models of a sweep, because the selection used them.
    The stated rates are the worst ones, and steps are summed.

    Example::

        >>> from meninx.privacy import Plan
        >>> plan = Plan.build(n_units=1_000, expected_batch_size=50, delta=1e-5, steps=200,
        ...                   noise_multiplier=1.0, max_grad_norm=1.0)
        >>> first, second = (Ledger().next(plan, 0)[0] for _ in range(2))  # two runs of one step each
        >>> joint = compose([first, second], delta=1e-5)
        >>> joint.steps, joint.epsilon == plan.epsilon(2)
        (2, True)

    Args:
        ledgers: one per run on the dataset, in any order.
        delta: of the joint statement, in (0, 1).

    Guarantee:
        All models of all runs together are (epsilon, delta)-differentially private, even if the plan and data
        pipeline of a run depend on the models of earlier runs. A run on other units only is counted here,
        although it would not have to be.

    Raises:
        DataError: no run has taken a step.
        PrivacyRefusal: units or relations differ; or two ledgers name the same secret keys, so that one run
            is given twice, or was copied and continued in two ways, which adds the same noise to different
            gradients.
    """
    joint = _joined(ledgers)
    spent = joint.spent(delta)
    # A run that left only an unfinished line has spent a step of unknown cost.
    unknown = any(ledger.pending and not ledger.accounts for ledger in ledgers)
    return replace(spent, epsilon=math.inf) if unknown else spent


def joint_phases(ledgers: Sequence[Ledger]) -> tuple[Phase, ...]:
    """Return the steps of all runs as phases, e.g. for :func:`~meninx.privacy.risk.attack_risk`.

    Raises:
        DataError, PrivacyRefusal: as :func:`compose`.
    """
    return _joined(ledgers).phases()


def _joined(ledgers: Sequence[Ledger]) -> Ledger:
    """Return one ledger with the accounts of all runs; it may be read but not continued."""
    accounts = tuple(account for ledger in ledgers for account in ledger.accounts)
    if not accounts:
        fix = "leave out runs that have taken no step, or restore their ledgers"
        raise DataError(problem("the privacy ledgers contain no step", where="composition", fix=fix))
    if len({account.first.group for account in accounts}) > 1:
        got = "; ".join(sorted({", ".join(account.first.group) for account in accounts}))
        fix = "state a run on patients and one on cases apart"
        raise PrivacyRefusal(
            expected("one privacy unit and relation in all runs", got=got, where="compose", fix=fix)
        )
    streams = [stream for ledger in ledgers for stream in _streams(ledger)]
    if len(streams) > len(set(streams)):
        fix = "give each run once; if two copies of one run were continued, release neither"
        raise PrivacyRefusal(problem("two runs have the same secret keys", where="compose", fix=fix))
    return Ledger(
        accounts=accounts, pending="\n".join(ledger.pending for ledger in ledgers if ledger.pending)
    )


def _streams(ledger: Ledger) -> set[str]:
    """Return the names of the secret keys of a ledger's accounts."""
    return {account.first.stream for account in ledger.accounts if account.first.stream}
