"""What audits found of a run, as a page reads it: the summary with the records behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from meninx.core import artifacts, audit_parts, files
from meninx.core.artifacts import RunRecord
from meninx.core.audit_records import MembershipAudit, OneRunRecord
from meninx.core.audit_summary import DONE, AuditRecord
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.risk_records import BoundsRecord

PartT = TypeVar("PartT")
_LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Audit:
    """An audit of a run, checked against the run and its parts.

    Attributes:
        record: the summary.
        plan: the plan as TOML.
        bounds: proven bounds; None where they were not computed.
        one_run: the audit of the implementation; None where there is none.
        membership: the membership attacks; None where there are none.
        reconstruction: the reconstruction from steps; None where there is none.
    """

    record: AuditRecord
    plan: str
    bounds: BoundsRecord | None
    one_run: OneRunRecord | None
    membership: MembershipAudit | None
    reconstruction: ReconstructionAudit | None = None


def read(root: Path, run: RunRecord) -> Audit | None:
    """Return the audit of a run; None for a run that was not audited as a whole.

    Raises:
        DataError: it is damaged, stale, belongs to another run or other weights, or does not follow from the
            records of its parts; names the file.
    """
    record = audit_parts.audit_of(root, run)
    if record is None:
        return None
    from meninx.audit import rederivation  # it loads libraries that a report without an audit does not need

    rederivation.refuse(root, record, run)
    return Audit(
        record=record,
        plan=files.read_text(root / audit_parts.FOLDER / audit_parts.PLAN, limit=_LIMIT),
        bounds=_part(root, record, "bounds", BoundsRecord),
        one_run=_part(root, record, "one-run", OneRunRecord),
        membership=_part(root, record, "membership", MembershipAudit),
        reconstruction=_part(root, record, "reconstruction", ReconstructionAudit),
    )


def _part(root: Path, record: AuditRecord, name: str, kind: type[PartT]) -> PartT | None:
    done = any(part.name == name and part.state == DONE for part in record.parts)
    return artifacts.read_file(root / audit_parts.place_of(name), kind) if done else None
