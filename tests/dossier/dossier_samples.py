"""Runs with audits as the stages write them, dossiers of them, and the text that a PDF of a dossier shows."""

from __future__ import annotations

import re
import shutil
import zlib
from base64 import a85decode
from dataclasses import replace
from functools import cache
from pathlib import Path

import report_samples
from report_samples import write_dataset, write_deid, write_run
from scipy.optimize import brentq

from meninx.audit import bounds, plan_file, rederivation, run_facts
from meninx.audit import stage as audit_stage
from meninx.audit.config import BoundsConfig
from meninx.audit.membership_findings import ATTACKS
from meninx.audit.part_rules import RULES, findings_of
from meninx.audit.plan_config import AuditConfig
from meninx.core import artifacts, audit_parts, files, integrity, plain
from meninx.core.artifacts import PrivacyRecord, RunRecord
from meninx.core.attribute_records import AttributesAudit
from meninx.core.audit_records import (
    AttackRecord,
    MembershipAudit,
    OneRunRecord,
    OperatingPoint,
    ScoreAudit,
    ScoreCheck,
)
from meninx.core.audit_summary import AuditedPart, PlanRecord
from meninx.core.dossier_records import DossierRecord
from meninx.core.origin import Origin
from meninx.core.proportions import clopper_pearson
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.run import Run
from meninx.dossier import dossier_pdf, stage
from meninx.dossier.config import DossierConfig
from meninx.metrics.attack_success import FPRS, refusal_of
from meninx.metrics.attribute_success import bounded
from meninx.privacy.accounting import Phase
from meninx.privacy.claim import Claim
from meninx.privacy.composition import joint_phases
from meninx.privacy.ledger import Ledger
from meninx.privacy.risk import risk_curve
from meninx.privacy.score_audit import area_mu_of, gaussian_interval

PLANTED = report_samples.PLANTED
DATE = "2026-11-20"
AXIS = {"eps_min": 1, "eps_max": 100, "n_eps": 2, "candidates": (10,), "precision": 0.01}
PLAN = {"canaries": 100, "reconstruction_attacks": ("imprint-pca",), "identity_attacks": ("pixels",)}


def origin_of(folder: Path) -> Origin:
    """Return what an audit of a run belongs to."""
    run = artifacts.require(folder, RunRecord, fix="")
    return Origin(run=run.id, data=run.data, dataset=run.dataset, weights=run.weights, step=run.step)


def a_run(folder: Path, *, audited: bool = True, **settings: object) -> Path:
    """Return a finished private run, with audits, whose record names its privacy record."""
    write_run(folder, **{"private": True, **settings})
    named(folder)
    if audited:
        audit(folder)
    return folder


def named(folder: Path) -> None:
    """Let ``run.json`` name the privacy record, and the release hold a file of weights."""
    path = folder / "release" / "bundle" / "models" / "model.pt"
    files.write_text(path, "weights")
    if artifacts.require(folder, RunRecord, fix="").release:
        Run(folder).enlist(added=[path])
        Run(folder).update(privacy=files.digest(folder / artifacts.place(PrivacyRecord)))


def audit(folder: Path) -> None:
    """Write the records of three audits."""
    config = BoundsConfig.of(**AXIS)
    bounds.run_bounds(config, folder / "audit", run=folder)
    write_agreeing(folder, one_run(origin_of(folder)))
    write_agreeing(folder, membership(origin_of(folder)))
    summarize(folder)


def write_agreeing(folder: Path, record: object) -> None:
    """Write an audit of a run with the bounds and claims that follow from the run's ledger."""
    ledger = Ledger.parse(Run(folder).ledger_text())
    claim = Claim.of_mechanism(joint_phases([ledger]), delta=ledger.accounts[0].first.delta)
    curve = risk_curve(claim.phases, rates=FPRS)
    if isinstance(record, OneRunRecord):
        stated = {"claim_epsilon": claim.epsilon, "claim_mu": claim.mu, "claim_advantage": claim.advantage}
        audit, control = (_claimed(replace(one, **stated)) for one in (record.audit, record.control))
        record = replace(record, audit=audit, control=control)
    elif isinstance(record, MembershipAudit):
        bound = {f"{fpr:g}": curve.tpr(fpr).upper for fpr in FPRS}
        record = replace(record, bound=bound, bound_auc=curve.auc().upper)
    elif isinstance(record, AttributesAudit):
        attacks = tuple(bounded(one, lambda rate: curve.gamma(rate).upper, 0.05) for one in record.attributes)
        record = replace(record, attributes=attacks, prior_bounds={"sex": curve.gamma(0.5).upper})
    elif isinstance(record, ReconstructionAudit):
        named = (replace(record.identification[0], bound=curve.gamma(0.1).upper, excess=False),)
        step = Phase(sample_rate=1.0, noise_multiplier=record.matches[0].noise_multiplier, steps=1)
        kappa = record.matches[0].kappa
        most = risk_curve([step], rates=[kappa]).gamma(kappa).upper
        record = replace(record, identification=named, matches=(replace(record.matches[0], bound=most),))
    artifacts.write(folder, record)


def _claimed(audit: ScoreAudit) -> ScoreAudit:
    """Return an audit whose checks compare with its claim."""
    allowed = {"mu": audit.claim_mu, "TPR - FPR": audit.claim_advantage}
    return replace(audit, checks=tuple(replace(check, allowed=allowed[check.name]) for check in audit.checks))


def summarize(folder: Path, parts: tuple[str, ...] = ("bounds", "one-run", "membership")) -> None:
    """Write the summary of the audits of a run as the stage derives it, by a plan."""
    config = AuditConfig.of(**AXIS, **PLAN, parts=parts)
    files.write_text(
        folder / "audit" / audit_parts.PLAN, plan_file.plan_text(plan_file.audit_plan_of(config))
    )
    digest = files.digest(folder / "audit" / audit_parts.PLAN)
    plan = PlanRecord(sha256=digest, registered="2026-11-20T09:00:00+00:00")
    artifacts.write(folder, plan)
    records = rederivation.records_of(folder)
    run = artifacts.require(folder, RunRecord, fix="")
    held = run_facts.reservations_of(Run(folder), run)
    parts = [
        AuditedPart(
            name=name,
            state="done",
            sha256=files.digest(folder / audit_parts.place_of(name)),
            findings=findings_of(name, records[name], config, held),
            refuted=RULES[name].refuted(records[name]),
            void=RULES[name].void(records[name]),
        )
        for name in config.parts
    ]
    artifacts.write(folder, audit_stage._summary(config, Run(folder), run, plan, parts))


def one_run(origin: Origin, verdict: str = "consistent", control: str = "refuted") -> OneRunRecord:
    """Return an audit with canaries."""
    check = ScoreCheck(name="mu", basis="asymptotic", measured=1.0, allowed=2.0, refuted=verdict == "refuted")
    other = ScoreCheck(name="TPR - FPR", basis="certified", measured=0.2, allowed=0.7, refuted=False)
    area, low, high = _scores(1.0)
    audit = ScoreAudit(
        **{"included": 50, "excluded": 50, "confidence": 0.95, "delta": 1e-4, "one_run_epsilon": 1.2},
        **{"fdp_mu": 1.1, "fdp_epsilon": 2.5, "fdp_split_epsilon": 2.0, "rates_epsilon": 1.0},
        **{"advantage": 0.2, "auroc": area, "mu": 1.0, "mu_low": low, "mu_high": high, "gdp_epsilon": 3.0},
        **{"claim_epsilon": 5.0, "claim_mu": 2.0, "claim_advantage": 0.7},
        checks=(check, other),
        verdict=verdict,
    )
    area, low, high = _scores(3.0)
    noticed = replace(check, measured=3.0, refuted=control == "refuted")
    measured = {"auroc": area, "mu": 3.0, "mu_low": low, "mu_high": high}
    second = replace(audit, **measured, checks=(noticed, other), verdict=control)
    return OneRunRecord(audit=audit, control=second, steps=60, seconds=1.0, overhead=0.02, origin=origin)


def _scores(mu: float) -> tuple[float, float, float]:
    """Return the area of 50 canaries of each kind that gives a mu, and the interval of mu."""
    area = float(brentq(lambda found: area_mu_of(found, 50, 50) - mu, 0.01, 0.9999))
    return area, *gaussian_interval(area, 50, 50, significance=0.05)


def membership(origin: Origin, verdict: str = "nothing found") -> MembershipAudit:
    """Return an audit by membership attacks."""
    exposed, (low, high) = verdict == "exposed", clopper_pearson(12, 120)
    points = (
        *(OperatingPoint(fpr=fpr, refusal=refusal_of(fpr, 120)) for fpr in (0.001, 0.01)),
        OperatingPoint(fpr=0.1, tpr=0.1, low=low, high=high, fpr_high=0.2),
    )
    attack = AttackRecord(
        attack="rmia",
        **{"members": 120, "others": 120, "auc": 0.6 if exposed else 0.53, "auc_low": 0.45, "auc_high": 0.61},
        **{"null_low": 0.43, "null_high": 0.57, "p_value": 0.001 if exposed else 0.3},
        points=points,
        excess=False,
    )
    return MembershipAudit(
        attacks=tuple(replace(attack, attack=name) for name in ATTACKS),
        groups=(),
        negative=replace(attack, auc=0.5, p_value=0.5),
        split_control=replace(attack, auc=0.5, p_value=0.5),
        positive=replace(attack, auc=0.9, auc_low=0.85, auc_high=0.95, p_value=0.001),
        **{"references": 4, "split_rule": "by patient", "patients_known": True},
        **{"bound": {"0.1": 0.7}, "bound_auc": 0.9, "significance": 0.05, "verdict": verdict, "reason": ""},
        origin=origin,
    )


def sources(root: Path, **settings: object) -> list[Path]:
    """Return the folders of a project with one audited run."""
    dataset = write_dataset(root / "dataset")
    run = a_run(root / "runs" / "cxr-dp_s0", **{"dataset": dataset, **settings})
    return [write_deid(root / "deid-north", "north"), dataset, run]


def dossier(root: Path, out: Path, *, key: Path | None = None, **settings: object) -> Path:
    """Return the dossier of such a project."""
    config = DossierConfig.of(**{"date": DATE, **settings})
    return stage.run(config, sources(root), out, key=key).out


@cache
def _made_once() -> Path:
    import tempfile

    root = Path(tempfile.mkdtemp(prefix="dossier-"))
    return dossier(root / "project", root / "dossier", key=root / "signing.key")


def a_copy(tmp_path: Path) -> Path:
    """Return a copy of a signed dossier that is made once for all tests of a process."""
    return Path(shutil.copytree(_made_once(), tmp_path / "dossier"))


def key_of_copies() -> Path:
    """Return the key that signed :func:`a_copy`."""
    return _made_once().parent / "signing.key"


_RENDER = dossier_pdf.render
_DRAWN: dict[str, bytes] = {}


def drawn_once(record: DossierRecord) -> bytes:
    """Return the PDF of a record, drawn by the program at the first call."""
    key = plain.to_json(record)
    if key not in _DRAWN:
        _DRAWN[key] = _RENDER(record)
    return _DRAWN[key]


def record_of(folder: Path) -> DossierRecord:
    """Return what a dossier says."""
    return artifacts.require(folder, DossierRecord, fix="")


def listed_again(folder: Path) -> None:
    """Make the list of files again, as a forger without the key would."""
    own = {folder / integrity.CHECKSUMS, folder / "signature.json"}
    names = [path for path in folder.rglob("*") if path.is_file() and path not in own]
    integrity.write(folder, integrity.measured(folder, names))


def pdf_text(content: bytes) -> str:
    """Return the text that a PDF of the dossier shows, by the code tables of its fonts."""
    objects = {
        int(number): body for number, body in re.findall(rb"(\d+) 0 obj(.*?)endobj", content, re.DOTALL)
    }
    fonts = {}
    for body in objects.values():
        for name, number in re.findall(rb"/(F\d+\+\d+) (\d+) 0 R", body):
            table = re.search(rb"/ToUnicode (\d+) 0 R", objects[int(number)])
            if table is not None:
                fonts[name] = _code_table(_stream(objects[int(table[1])]))
    pages = [_stream(body) for body in objects.values() if b"stream" in body]
    return "\n".join(_shown(page, fonts) for page in pages if b"BT" in page)


def _stream(body: bytes) -> bytes:
    match = re.search(rb"stream\r?\n(.*?)endstream", body, re.DOTALL)
    raw = match[1].strip() if match else b""
    if b"/ASCII85Decode" in body:
        raw = a85decode(raw.removesuffix(b"~>"))
    return zlib.decompress(raw) if b"/FlateDecode" in body else raw


def _code_table(table: bytes) -> dict[int, str]:
    found = {}
    for start, codes in re.findall(rb"<(\w+)> <\w+> \[(.*?)\]", table, re.DOTALL):
        for place, code in enumerate(re.findall(rb"<(\w+)>", codes)):
            found[int(start, 16) + place] = bytes.fromhex(code.decode()).decode("utf-16-be")
    for start, end, code in re.findall(rb"<(\w+)> <(\w+)> <(\w+)>", table):
        for place in range(int(end, 16) - int(start, 16) + 1):
            found[int(start, 16) + place] = chr(int(code, 16) + place)
    return found


def _shown(page: bytes, fonts: dict[bytes, dict[int, str]]) -> str:
    """Return the shown strings of a page's content, each on its line."""
    table: dict[int, str] = {}
    lines = []
    for name, text in re.findall(rb"/(F\d+\+\d+) [\d.]+ Tf|\(((?:\\.|[^\\)])*)\) Tj", page, re.DOTALL):
        if name:
            table = fonts.get(name, {})
        else:
            lines.append("".join(table.get(code, chr(code)) for code in _bytes(text)))
    return "\n".join(lines)


def _bytes(text: bytes) -> bytes:
    plain = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}

    def one(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8)]) if code.isdigit() else plain.get(code, code)

    return re.sub(rb"\\([0-7]{1,3}|.)", one, text, flags=re.DOTALL)
