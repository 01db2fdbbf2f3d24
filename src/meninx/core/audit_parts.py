"""The parts of an audit: what each is, where its record lies, and whether a summary still belongs to it.

A part that is made again after the summary, a run that was trained on, and a summary that was copied from
another run make the summary stale. Whoever shows it asks :func:`audit_of` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from meninx.core import artifacts, belonging, files, workspace
from meninx.core.artifacts import RunRecord
from meninx.core.attribute_records import AttributesAudit
from meninx.core.audit_records import MembershipAudit, OneRunRecord
from meninx.core.audit_summary import DONE, AuditRecord, PlanRecord
from meninx.core.errors import DataError, problem
from meninx.core.identity_records import IdentityAudit
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.risk_records import BoundsRecord

FOLDER, PLAN = "audit", "plan.toml"
PartName = Literal["bounds", "one-run", "membership", "reconstruction", "attributes", "identity"]


@dataclass(frozen=True, kw_only=True)
class PartDescription:
    """What a part of an audit is, for every table, page and plan that lists parts.

    Attributes:
        name: as in plans, thresholds and keys of findings.
        title: heading on a page.
        record: type of its record.
        attacker: what its attacker knows and can do.
        question: what it finds out, as a sentence; what stays open where it is not done.
        traces: what it leaves in ``private/audit/``: scores, reference models, candidates.
    """

    name: PartName
    title: str
    record: type[Any]
    attacker: str
    question: str
    traces: tuple[str, ...] = ()


PARTS: Mapping[str, PartDescription] = {
    part.name: part
    for part in (
        PartDescription(
            name="bounds",
            title="Proven bounds",
            record=BoundsRecord,
            attacker=(
                "An attacker who knows all other patients' data, sees the model after every step, and has "
                "any computing power."
            ),
            question="What theory bounds.",
        ),
        PartDescription(
            name="one-run",
            title="Audit of the implementation",
            record=OneRunRecord,
            attacker=(
                "The program's own private steps, tested with made-up patients of the largest influence "
                "that clipping allows."
            ),
            question="Whether the program keeps its guarantee.",
            traces=("in.npy", "out.npy", "twin"),
        ),
        PartDescription(
            name="membership",
            title="Membership attacks",
            record=MembershipAudit,
            attacker=(
                "An attacker who asks the released model about a patient's images, and trains models of the "
                "same kind on patients of the same hospital."
            ),
            question="Whether the model tells who took part in its training.",
            traces=("membership_scores.csv", "membership"),
        ),
        PartDescription(
            name="reconstruction",
            title="Reconstruction from steps",
            record=ReconstructionAudit,
            attacker=(
                "A server that chooses the network and sees the step of a hospital, with and without its "
                "noise; it knows public images, and for identification the candidates themselves."
            ),
            question="Whether images can be reconstructed from the steps of the training.",
            traces=("reconstruction",),
        ),
        PartDescription(
            name="attributes",
            title="Attributes of patients",
            record=AttributesAudit,
            attacker=(
                "An attacker who asks the released model about a patient's image, or sees the patient's "
                "gradient, and knows the attribute of other patients."
            ),
            question="Whether attributes such as sex or age can be inferred from the model.",
            traces=("attribute_scores.csv", "attributes"),
        ),
        PartDescription(
            name="identity",
            title="Identity of images",
            record=IdentityAudit,
            attacker=(
                "Somebody who holds another image of a patient, and compares it with those of the dataset."
            ),
            question="Whether patients can be recognised in the images themselves.",
            traces=("identity_scores.csv", "identity"),
        ),
    )
}
"""Name of a part -> what it is, in the order in which a page shows them."""
_AGAIN = "run `meninx audit RUN` again; finished parts are taken over"


def place_of(part: str) -> str:
    """Return where the record of a part lies below the run folder, as a relative POSIX path.

    >>> place_of("bounds"), place_of("membership")
    ('audit/bounds.json', 'audit/membership.json')

    Raises:
        DataError: there is no such part.
    """
    if part not in PARTS:
        what = "the audit names a part that this version does not know"
        fix = "read it with the version of meninx that wrote it, or a newer one"
        raise DataError(problem(what, where=artifacts.place(AuditRecord), fix=fix))
    name = artifacts.place(PARTS[part].record)
    return name if name.startswith(f"{FOLDER}/") else f"{FOLDER}/{name}"


def results_of(root: Path, registered: PlanRecord | None) -> tuple[str, ...]:
    """Return the parts of which results exist or existed, in the order of :data:`PARTS`.

    Records may have been removed since. Scores and reference models in ``private/audit/`` and the
    registration of an earlier plan show that somebody could have seen results.

    Args:
        root: the run folder.
        registered: the plan that is registered; None where there is none.
    """
    known = {*registered.parts, *registered.after_results} if registered is not None else set()
    room = root / workspace.PRIVATE / FOLDER
    return tuple(
        name
        for name, part in PARTS.items()
        if name in known
        or (root / place_of(name)).is_file()
        or any(_holds(room / trace) for trace in part.traces)
    )


def _holds(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def stale(root: Path, record: AuditRecord, run: RunRecord) -> str:
    """Return why the summary of an audit no longer holds, as the end of a sentence; empty when it does.

    Args:
        root: the run folder.
        record: the summary.
        run: the run's record.

    Raises:
        DataError: the summary names a part that this version does not know.
    """
    wrong = belonging.mismatch(record.origin, run)
    if wrong or record.origin.data != run.data or record.private != run.private:
        return wrong or "was made of another dataset or another kind of run"
    for part in record.parts:
        path = root / place_of(part.name)
        if part.state != DONE:
            continue
        if not path.is_file():
            return f"names {path.name}, which is missing"
        if files.digest(path) != part.sha256:
            return f"is older than {path.name}, which was made again or changed"
    plan = root / FOLDER / PLAN
    if not plan.is_file() or files.digest(plan) != record.plan.sha256:
        return f"was made by another plan than {FOLDER}/{PLAN}"
    registered = artifacts.read(root, PlanRecord)
    if registered is None or registered.sha256 != record.plan.sha256:
        return f"was made by another plan than the one in {artifacts.place(PlanRecord)}"
    return ""


def audit_of(root: Path, run: RunRecord) -> AuditRecord | None:
    """Return the summary of a run's audit; None for a run that was not audited as a whole.

    Raises:
        DataError: it is damaged, stale, or belongs to another run or other weights; names the file.
    """
    record = artifacts.read(root, AuditRecord)
    if record is None:
        return None
    wrong = stale(root, record, run)
    if wrong:
        where = f"{root.name}/{artifacts.place(AuditRecord)}"
        raise DataError(problem(f"the audit {wrong}", where=where, fix=_AGAIN))
    return record
