"""Releases for tests of the page: their records, with numbers that belong together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from meninx.core import artifacts, integrity
from meninx.core.artifacts import ObfuscationRecord, Origin, ReleaseAuditRecord
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Manifest
from meninx.core.obfuscation_records import (
    AttackerRecord,
    AttackStrength,
    CertificateRecord,
    DistortionRecord,
    LabelFloorRecord,
    NullRecord,
    ReidentificationRecord,
    UtilityLossRecord,
)
from meninx.obfuscate import asked_targets, sealed_audit, sealed_release
from meninx.obfuscate.release_verdict import chosen_of, verdict_of
from meninx.synthetic import write_dataset

CAVEAT = "does not stop a retrained attacker"
SOURCE = Origin(run="", data="a" * 64, dataset="cohort", made="2026-11-28T04:00:00+00:00")
RELEASED = Origin(run="", data="b" * 64, dataset="cohort", made="2026-11-28T04:10:00+00:00")

STRENGTH = AttackStrength(epochs=15, draws=10, permutations=99, networks=("strided", "residual", "wide"))


def attacker(name: str, valid: float, test: float, **more: Any) -> AttackerRecord:
    """An attacker with an interval of ±0.06."""
    return AttackerRecord(
        **{
            "name": name, "knows": "released images", "question": "M against F", "valid_auroc": valid,
            "auroc": test, "low": max(0.5, test - 0.06), "high": min(1.0, test + 0.06),
            "oriented_auroc": test, "clean_auroc": 0.93, "patients": 60, "classes": {"F": 30, "M": 30},
            **more,
        }
    )  # fmt: skip


def loss(label: str, regime: str, value: float, group: str = "") -> UtilityLossRecord:
    return UtilityLossRecord(
        label=label, regime=regime, group=group, clean=0.9, released=0.9 - value, loss=value,
        loss_low=value - 0.02, loss_high=value + 0.02, patients=60,
    )  # fmt: skip


def audit_record(**fields: Any) -> ReleaseAuditRecord:
    """An audit whose verdict follows from its numbers."""
    control = attacker("constant images", 0.5, 0.5, low=0.5, high=0.5, clean_auroc=None)
    record = ReleaseAuditRecord(
        **{
            "attribute": "sex", "classes": ("F", "M"), "labels": ("effusion", "nodule"),
            "published": ("effusion", "nodule"), "strength": STRENGTH,
            "method": "noise", "method_summary": "Gaussian noise", "caveat": CAVEAT,
            "validation": {"F": 30, "M": 30}, "chosen": "", "target": 0.0,
            "attackers": (attacker("wide", 0.80, 0.79), attacker("kernel", 0.85, 0.83)),
            "static": (attacker("wide", 0.60, 0.51, retrained=False, knows="original images"),),
            "output_leaks": (attacker("outputs of a model of the release", 0.6, 0.55, clean_auroc=None),),
            "code_attacks": (),
            "floor": LabelFloorRecord(attribute="sex", group="M", labels=("nodule",), rows=300, patients=120,
                                      auroc=0.55, low=0.5, high=0.6, sentence="the label nodule tells sex M"),
            "certificates": (), "utility": tuple(
                loss(label, regime, value, group)
                for label in ("effusion", "nodule")
                for regime, value in (("drop-in", 0.05), ("retrained", 0.02))
                for group in ("", "F", "M")
            ),
            "reidentification": (
                ReidentificationRecord(subject="released", auroc=0.8, low=0.7, high=0.9, patients=40),
                ReidentificationRecord(subject="labels", auroc=0.6, low=0.5, high=0.7, patients=40),
            ),
            "distortion": DistortionRecord(l1=0.05, linf=0.25, ssim=0.86, train_l1=0.05, images=150),
            "divided": False, "splits": {"fit": 0, "attack": 240, "valid": 60, "test": 60},
            "deterministic": False, "synthetic": True, "seed": 0, "seconds": 60.0,
            "verdict": "", "reason": "",
            "source": SOURCE, "released": RELEASED,
            "clean": attacker("kernel", 0.95, 0.94, retrained=False, clean_auroc=None), "clean_floor": 0.7,
            "clean_high": 0.99,
            "control": control,
            "null": NullRecord(permutations=99, mean=0.54, high=0.60, observed=0.83, p_value=0.01),
            **fields,
        }
    )  # fmt: skip
    if "chosen" not in fields and min(record.validation.values()) >= 10:
        record = replace(record, chosen=chosen_of(record.attackers))
    verdict, reason = verdict_of(record)
    return replace(record, verdict=record.verdict or verdict, reason=record.reason or reason)


def obfuscation_record(root: Path, **fields: Any) -> ObfuscationRecord:
    cases = Manifest.read(root).cases
    return ObfuscationRecord(
        **{
            "method": "noise", "method_summary": "Gaussian noise", "caveat": CAVEAT, "attribute": "sex",
            "classes": ("F", "M"), "utility": ("effusion", "nodule"),
            "published": ("effusion", "nodule"), "withheld": ("sex",),
            "settings": {"budget": 0.05, "seed": 0}, "facts": {"sigma": 0.06}, "floor": audit_record().floor,
            "cases": len(cases), "patients": len({case.patient_id for case in cases}), "splits": {},
            "deterministic": False, "source_record": "", "checksums": "", "source": SOURCE,
            "made": "2026-11-28T04:05:00+00:00", **fields,
        }
    )  # fmt: skip


def certificate(**fields: Any) -> CertificateRecord:
    return CertificateRecord(
        **{
            "attribute": "sex", "groups": ("F", "M"), "patients": (30, 28), "leaves": 12, "target": 0.6,
            "delta": 0.05, "needed": 1200, "sentence": "not certified: needs 1200 patients per group, has 28",
            **fields,
        }
    )  # fmt: skip


def write_release(
    root: Path, *, audit: ReleaseAuditRecord | None = None, patients: int = 12, seed: int = 0, **record: Any
) -> Path:
    """A released dataset with its records; the audit is given its list of digests."""
    made = write_dataset(root, patients=patients, size=16, seed=seed)
    found = obfuscation_record(root, **record)
    Manifest(root, replace(made.info, obfuscated=found.sentence()), made.cases).write(root)
    relist(root, found)
    if audit is not None:
        sealed_audit.write(root, replace(audit, checksums=audit.checksums or integrity.digest_of(root)))
    return root


def relist(root: Path, record: ObfuscationRecord, **info: Any) -> None:
    """Write a changed description, the list of digests, and the record that names it."""
    if info:
        made = Manifest.read(root)
        Manifest(root, replace(made.info, **info), made.cases).write(root)
    (root / integrity.CHECKSUMS).unlink(missing_ok=True)
    paths = [root / MANIFEST_NAME, root / INFO_NAME, *sorted((root / "images").iterdir())]
    checksums = integrity.write(root, dict(integrity.measured(root, paths)))
    artifacts.write(root, replace(record, checksums=checksums))


def seal(root: Path, key: bytes = b"k" * 32) -> None:
    """Give a release its private room: key, seal of its record, and a history without an audit."""
    room = root / "private"
    room.mkdir(mode=0o700, exist_ok=True)
    (room / "obfuscation.key").write_bytes(key)
    sealed_release.write_seal(root / "obfuscation.json", room, key)
    asked_targets.begin(room, integrity.digest_of(root), key)
