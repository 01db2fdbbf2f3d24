"""Composition over runs: one epsilon for a sweep, two phases of training, or a run that was started again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from meninx.core.budget import PrivacySpent
from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.privacy.accounting import Phase
from meninx.privacy.ledger import Ledger


def compose(ledgers: Sequence[Ledger], *, delta: float) -> PrivacySpent:
    """Return what all runs spend together on the people whom they share, at ``delta``.

    Every trained model counts, including those of a sweep that were discarded, because the choice among them
    used them. The stated rates are the worst ones, and steps are summed.

    Args:
        ledgers: one for every run on the dataset, in any order.
        delta: for the whole; in (0, 1).

    Guarantee:
        All models of all runs together are (epsilon, delta)-differentially private, each run's plan and data
        pipeline being free to depend on the models before. A run on other people only would not have to be
        counted; here it is.

    Raises:
        DataError: no run has taken a step.
        PrivacyRefusal: units or relations differ; or two ledgers name the same secret keys, so that one run
            is given twice, or was copied and continued in two ways, which adds the same noise to different
            gradients.
    """
    joint = _joined(ledgers)
    spent = joint.spent(delta)
    unknown = any(
        ledger.pending and not ledger.accounts for ledger in ledgers
    )  # a step of which nothing is known
    return replace(spent, epsilon=math.inf) if unknown else spent


def joint_phases(ledgers: Sequence[Ledger]) -> tuple[Phase, ...]:
    """Return the steps of all runs as phases, e.g. for :func:`~meninx.privacy.risk.attack_risk`.

    Raises:
        DataError, PrivacyRefusal: as :func:`compose`.
    """
    return _joined(ledgers).phases()


def _joined(ledgers: Sequence[Ledger]) -> Ledger:
    """Return a ledger of all accounts, to read off and not to write to."""
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
    """Return the names of the secret keys that a ledger's accounts were run with."""
    return {account.first.stream for account in ledger.accounts if account.first.stream}
