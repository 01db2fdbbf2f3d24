"""What one stage writes and another reads: one frozen type per file, one writer, one reader, one place.

    >>> import tempfile
    >>> from meninx.core.artifacts import Members
    >>> root = Path(tempfile.mkdtemp())
    >>> _ = write(root, Members(train=("p1",), valid=(), patients_known=True))
    >>> read(root, Members).train
    ('p1',)

No other module spells these file names. Every number that reaches a page carries its :class:`Origin`: the
run, the dataset, the weights, the step and the split that it was measured on. A reader compares origins and
refuses what does not belong together.

Digests of private data are keyed. A plain digest of a manifest in ``release/`` would tell whoever knows all
patients but one whether that one took part; so records outside ``private/`` name a dataset by :func:`keyed`
under a key of the run that stays in ``private/keys``. The plain digest stands in ``private/data.json``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meninx.core import files, plain, workspace
from meninx.core.errors import DataError, expected, problem
from meninx.core.lazy import lazy_exports
from meninx.core.summaries import FORMAT as FORMAT

if TYPE_CHECKING:
    from meninx.core.ancestry import Ancestry as Ancestry
    from meninx.core.ancestry import FeatureStatistics as FeatureStatistics
    from meninx.core.ancestry import Lineage as Lineage
    from meninx.core.ancestry import StartRecord as StartRecord
    from meninx.core.comparison_records import ComparisonRecord as ComparisonRecord
    from meninx.core.comparison_records import RepeatedPair as RepeatedPair
    from meninx.core.comparison_records import SettingDifference as SettingDifference
    from meninx.core.dossier_records import DatasetExtract as DatasetExtract
    from meninx.core.federation import StudyPart as StudyPart
    from meninx.core.obfuscation_records import ObfuscationRecord as ObfuscationRecord
    from meninx.core.obfuscation_records import ReleaseAuditRecord as ReleaseAuditRecord
    from meninx.core.obfuscation_records import ReleaseComparisonRecord as ReleaseComparisonRecord
    from meninx.core.origin import Origin as Origin
    from meninx.core.provenance import Environment as Environment
    from meninx.core.run_records import BundleRecord as BundleRecord
    from meninx.core.run_records import CaseValuesRecord as CaseValuesRecord
    from meninx.core.run_records import DataRecord as DataRecord
    from meninx.core.run_records import EvaluationRecord as EvaluationRecord
    from meninx.core.run_records import Members as Members
    from meninx.core.run_records import PrivacyRecord as PrivacyRecord
    from meninx.core.run_records import RiskRecord as RiskRecord
    from meninx.core.run_records import RunRecord as RunRecord
    from meninx.core.run_records import RunState as RunState
    from meninx.core.run_records import SweepRecord as SweepRecord
    from meninx.core.run_records import ThresholdRecord as ThresholdRecord
    from meninx.core.summaries import DeidRecord as DeidRecord
    from meninx.core.summaries import Departure as Departure
    from meninx.core.summaries import MediaRecord as MediaRecord
    from meninx.core.summaries import Noticed as Noticed
    from meninx.core.summaries import PredictRecord as PredictRecord
    from meninx.core.summaries import PrepareRecord as PrepareRecord

RecordT = TypeVar("RecordT")
_PART = re.compile(r"[A-Za-z0-9_-]{0,64}")


LEDGER_LIMIT = 1 << 30  # bytes of a ledger; lineage and ancestry hold whole ones, with escaped quotes
_LIMITS: Mapping[str, int] = dict.fromkeys(("ancestry.Lineage", "ancestry.Ancestry"), 2 * LEDGER_LIMIT)
_OF_SPLITS = ("run_records.EvaluationRecord", "comparison_records.ComparisonRecord")
_MADE_AGAIN = ("obfuscation_records.ObfuscationRecord", "obfuscation_records.ReleaseAuditRecord")

_PLACES: Mapping[str, str] = {
    "run_records.RunRecord": "run.json",
    "run_records.PrivacyRecord": "privacy.json",
    "run_records.DataRecord": "private/data.json",
    "run_records.Members": "private/members.json",
    "federation.RoundRecord": "private/round.json",
    "federation.FederatedRecord": "federated.json",
    "federation.ArmsRecord": "arms.json",
    "ancestry.Ancestry": "private/start.json",
    "ancestry.Lineage": "release/lineage.json",
    "run_records.EvaluationRecord": "release/evaluation.json",
    "comparison_records.ComparisonRecord": "release/comparison.json",
    "audit_records.OneRunRecord": "audit/one_run.json",
    "audit_records.MembershipAudit": "audit/membership.json",
    "audit_summary.AuditRecord": "audit/audit.json",
    "audit_summary.PlanRecord": "audit/plan.json",
    "identity_records.IdentityAudit": "audit/identity.json",
    "attribute_records.AttributesAudit": "audit/attributes.json",
    "reconstruction_records.ReconstructionAudit": "audit/reconstruction.json",
    "run_records.CaseValuesRecord": "private/case_values.json",
    "summaries.DeidRecord": "deid.json",
    "summaries.MediaRecord": "media.json",
    "summaries.PrepareRecord": "prepare.json",
    "summaries.PredictRecord": "predict.json",
    "obfuscation_records.ObfuscationRecord": "obfuscation.json",
    "obfuscation_records.ReleaseAuditRecord": "release_audit.json",
    "obfuscation_records.ReleaseComparisonRecord": "release_comparison.json",
    "run_records.SweepRecord": "sweep.json",
    "risk_records.BoundsRecord": "bounds.json",
    "provenance.Environment": "environment.json",
    "run_records.BundleRecord": "configs/meninx.json",
    "run_records.ThresholdRecord": "configs/thresholds.json",
    "dossier_records.DossierRecord": "dossier.json",
    "dossier_records.Decision": "decision.json",
    "dossier_records.SelectionRecord": "selection.json",
    "dossier_records.DatasetExtract": "data/dataset.json",
}
"""Module and name of a record -> its place."""
_PARTS = (
    "ancestry.FeatureStatistics",
    "ancestry.StartRecord",
    "comparison_records.RepeatedPair",
    "comparison_records.SettingDifference",
    "federation.StudyPart",
    "origin.Origin",
    "run_records.RiskRecord",
    "run_records.RunState",
    "summaries.Departure",
    "summaries.Noticed",
)
if not TYPE_CHECKING:  # a program that cleans images does not wait for the records of audits
    _HOMES = {name: f"meninx.core.{home}" for home, name in (key.split(".") for key in (*_PLACES, *_PARTS))}
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)


def place(kind: type, *, split: str = "test", dataset: str = "", private: bool = False) -> str:
    """Return where a record lies below its folder, as a relative POSIX path.

    Args:
        kind: type of the record.
        split: of an evaluation or comparison; only the test split has the plain name, so nothing takes its
            place.
        dataset: short digest of another dataset than the run's own, for an external evaluation; empty for its
            own.
        private: in the private room instead of ``release/``: exact numbers about training patients of a
            private run, and the lineage of a run that is not finished.

    Raises:
        DataError: split or dataset hold anything but letters, digits, dashes and underscores.
    """
    if not all(_PART.fullmatch(part) for part in (split, dataset)):
        raise DataError(
            problem("the name may hold only letters, digits and dashes", where="name of a split or dataset")
        )
    key = _key(kind)
    name = _PLACES[key]
    if key in (*_OF_SPLITS, "run_records.CaseValuesRecord"):
        tail = "".join(
            f"-{part}"
            for part in (f"external-{dataset}" if dataset else "", "" if split == "test" else split)
            if part
        )
        name = name.replace(".json", f"{tail}.json")
    return name.replace("release/", "private/") if private else name


def _key(kind: type) -> str:
    """Return module and name of a record, as in the table of places."""
    return f"{kind.__module__.removeprefix('meninx.core.')}.{kind.__qualname__}"


def write(root: Path, record: Any, *, split: str = "test", dataset: str = "", private: bool = False) -> Path:
    """Write a record to its place below ``root`` and return the path; it is whole or absent.

    Raises:
        StorageError: the disk refused.
    """
    name = place(type(record), split=split, dataset=dataset, private=private)
    path, secret = root / name, name.startswith("private/")
    if secret:
        workspace.make_private(root)
    files.write_text(path, plain.to_json(record), mode=files.PRIVATE_MODE if secret else None)
    return path


def read(
    root: Path, kind: type[RecordT], *, split: str = "test", dataset: str = "", private: bool = False
) -> RecordT | None:
    """Return a record of the folder ``root``; None when there is none.

    Raises:
        DataError: the file is damaged, too large, or not of this type; names the file.
    """
    return read_file(root / place(kind, split=split, dataset=dataset, private=private), kind)


def read_file(path: Path, kind: type[RecordT]) -> RecordT | None:
    """Return the record in a file; None when there is no file; raises as :func:`read`."""
    where = f"{path.parent.name}/{path.name}"
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(problem("the file may not be read", where=where)) from error
    content = files.read_bytes(path, limit=_LIMITS.get(_key(kind), files.TEXT_LIMIT))
    if _key(kind) in _OF_SPLITS:
        table = plain.from_json(content, dict[str, Any], where=where)
        record = plain.from_plain(_of_an_older_version(table, kind), kind, where=where)
    else:
        record = _decoded(content, kind, where)
    version = getattr(record, "version", None)
    if isinstance(version, int) and version > FORMAT:
        fix = "read it with the version of meninx that wrote it, or a newer one"
        raise DataError(expected(f"a record of format {FORMAT} or older", got=version, where=where, fix=fix))
    return record


def _decoded(content: bytes, kind: type[RecordT], where: str) -> RecordT:
    """Return a record; the message about one that is made again says how."""
    try:
        return plain.from_json(content, kind, where=where)
    except DataError as error:
        if _key(kind) not in _MADE_AGAIN:
            raise
        what = "another version of meninx wrote the file, or it was changed"
        fix = "make the release again with --overwrite"
        raise DataError(problem(what, where=where, fix=fix)) from error


def _of_an_older_version(table: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return the table of this version's record for one that carries no origin."""
    if "origin" in table:
        return table
    if _key(kind) == _OF_SPLITS[0]:
        return {"origin": None, "evaluation": table, "version": 1}
    return {
        "origin": None,
        "baseline": None,
        "baseline_name": table.get("baseline", ""),
        "differences": table.get("differences", []),
        "version": 1,
    }


def keyed(key: bytes, *parts: str) -> str:
    """Return the HMAC-SHA-256 of a text under ``key``, 64 hexadecimal digits.

    Args:
        key: 32 secret bytes.
        parts: what is digested; ``("a", "b")`` and ``("ab",)`` give different digests.
    """
    message = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts)
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def key_name(key: bytes) -> str:
    """Return the public name of a key, from which nobody can compute the key."""
    return hashlib.sha256(b"meninx key name\0" + key).hexdigest()[:32]


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def require(root: Path, kind: type[RecordT], *, fix: str) -> RecordT:
    """Return a record that must be there.

    Raises:
        DataError: it is not, or it is damaged.
    """
    record = read(root, kind)
    if record is None:
        raise DataError(problem(f"the folder has no {place(kind)}", where=root.name, fix=fix))
    return record
