"""The ledgers that the audit of a run rests on: its own, and those of the runs behind its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meninx.core import artifacts
from meninx.core.artifacts import Ancestry, Lineage, PrivacyRecord, RunRecord
from meninx.core.budget import PrivacyUnit

if TYPE_CHECKING:
    from meninx.core.run import Run
    from meninx.privacy.accounting import Phase
    from meninx.privacy.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class AuditedLedgers:
    """What a run spent, by its ledgers.

    Attributes:
        own: ledger of the run.
        earlier: ledgers of the runs behind its weights.
        void: the noise came from a seed, so that no bound holds.
        patients_known: the source of the run names its patients.
        cases: largest number of training cases of one patient; 0 where the dataset is not at hand.
    """

    own: Ledger
    earlier: Sequence[Ledger] = ()
    void: bool = False
    patients_known: bool = True
    cases: int = 0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All steps that count."""
        from meninx.privacy.composition import joint_phases

        return joint_phases([self.own, *self.earlier])

    @property
    def own_phases(self) -> tuple[Phase, ...]:
        """The steps of the run itself."""
        from meninx.privacy.composition import joint_phases

        return joint_phases([self.own])

    @property
    def unit(self) -> str:
        """What is protected."""
        return str(self.own.accounts[0].first.unit)


def of_run(run: Run, record: RunRecord) -> AuditedLedgers | None:
    """Return the ledgers of a run folder; None without privacy, without a step, or without its ancestry.

    Raises:
        PrivacyRefusal: a ledger was changed.
    """
    from meninx.privacy.ledger import Ledger

    privacy, text = artifacts.read(run.root, PrivacyRecord), run.ledger_text()
    lineage = artifacts.read(run.root, Lineage)
    if not text and lineage is not None:
        text = "\n".join(lineage.ledger)
    if privacy is None or not record.private or not text:
        return None
    own, behind = Ledger.parse(text), artifacts.read(run.root, Ancestry)
    if not own.accounts or (behind is None and privacy.start is not None and privacy.start.composed):
        return None
    earlier = [Ledger.parse("\n".join(lines)) for lines in behind.ledgers] if behind is not None else []
    return AuditedLedgers(
        own=own,
        earlier=earlier,
        void=record.deterministic or privacy.deterministic,
        patients_known=record.patients_known,
        cases=_cases(run, str(own.accounts[0].first.unit)),
    )


def _cases(run: Run, unit: str) -> int:
    """Return how many cases a patient has where that matters for bounds; 0 where it is not known."""
    from meninx.audit.patient_bounds import cases_of_a_patient

    return 0 if unit == PrivacyUnit.PATIENT else cases_of_a_patient(run)
