"""``meninx audit attributes``: what does a run's model tell about sex, age or site of a patient?

Attackers see what the model says about a patient (outputs, embedding) or the gradient of the patient's loss,
and infer an attribute. What they infer about patients of the test split is a statistic of the population,
which no protection of single patients hides. The audit reports how much more they infer about patients that
took part in the training.
"""

from __future__ import annotations

import csv
import io
import math
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from meninx.audit import mechanism
from meninx.audit.attribute_figure import draw
from meninx.audit.attribute_findings import leak_line, record_lines, verdict_of, verdict_words
from meninx.audit.audit_files import AuditFiles
from meninx.audit.audited_run import (
    FOLDER,
    UNKNOWN_START,
    Strangers,
    alone,
    dataset_of,
    finished_record,
    origin_of,
    refuse_other_files,
    strangers_of,
)
from meninx.audit.config import AttributesConfig
from meninx.core import artifacts, files
from meninx.core import run as runs
from meninx.core.artifacts import PrivacyRecord, RunRecord
from meninx.core.attribute_records import AttributeRecord, AttributesAudit, LeakRecord
from meninx.core.digest_cache import DigestCache
from meninx.core.errors import AuditFinding, DataError, expected, problem
from meninx.core.manifest import Case, Manifest, TaskKind
from meninx.core.names import csv_cell
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import child
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn import inference
from meninx.learn.config import LearnConfig
from meninx.learn.model_signals import (
    EMBEDDING,
    NOISY,
    ModelSignals,
    Released,
    model_signals,
    untrained,
)
from meninx.metrics.attribute_inference import LEAST_PATIENTS
from meninx.metrics.attribute_success import (
    Bound,
    Inferred,
    bounded,
    bounded_by_prior,
    measure_attribute,
    measure_leak,
)
from meninx.privacy.accounting import Phase
from meninx.privacy.risk import RiskCurve, risk_curve

TABLE = "attributes.csv"
FIGURES = ("attributes.svg", "attributes.png")
FILES = AuditFiles(kind=AttributesAudit, title="an audit of attributes", names=(TABLE, *FIGURES))
SCORES, CACHE = "attribute_scores.csv", "attributes"
LABELS, SITE, AGE = "labels", "site", "age"
_MOST_VALUES = 20
_MOST_BYTES = 1 << 30
_SIGNALS = "3"  # version of the files of signals
_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
_PLANTED = 1.0  # standard deviations of every number of an embedding
Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class AttributesResult(Result):
    """The audit of what a model tells about attributes; ``out`` is its record.

    Attributes:
        audit: attacks, controls, bounds and verdict; None after a dry run.
        members: patients of the training split.
        others: patients of the test split.
        attributes: names of the attributes.
    """

    audit: AttributesAudit | None
    members: int
    others: int
    attributes: tuple[str, ...]

    def summary(self) -> str:
        """Return the audit in words."""
        lines = [
            f"members: {self.members} patients of the training split",
            f"others: {self.others} of the test split",
            f"attributes: {', '.join(self.attributes)}",
        ]
        audit = self.audit
        if audit is None:
            return "\n".join([*lines, "dry run: nothing was attacked or written"])
        lines = [f"out: {self.out}", *lines]
        for record in audit.attributes:
            lines += record_lines(record, audit.prior_bounds.get(record.attribute))
        lines += [leak_line(leak) for leak in audit.leaks]
        for title, group in (
            ("positive control, a coin planted into members", audit.positive),
            ("negative control, a coin", audit.negative),
            ("negative control, a network trained on nothing", audit.fresh),
        ):
            lines += [f"{title}: {line}" for record in group for line in record_lines(record, None)[:1]]
        return "\n".join([*lines, f"verdict: {verdict_words(audit)}"])

    def alerts(self) -> tuple[str, ...]:
        """Return what limits the audit."""
        found = [
            "what is inferred about strangers, too, is a statistic of the population: no guarantee for "
            "single patients hides it"
        ]
        unknown = self.audit is not None and self.audit.unknown_start
        return (*found, UNKNOWN_START) if unknown else tuple(found)

    def raise_if_refuted(self) -> None:
        """Raise AuditFinding when an attack exceeds its bound, or a control failed."""
        if self.audit is not None and self.audit.verdict in ("refuted", "void"):
            raise AuditFinding(problem(verdict_words(self.audit), where="meninx audit attributes"))


def run_attributes(
    config: AttributesConfig,
    folder: Path,
    *,
    out: Path | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> AttributesResult:
    """Attack a finished run and return what its model tells about attributes of patients.

    An interrupted audit takes up what the model said about the patients. Scores of single patients are
    written only into the run's ``private/audit/``.

    Args:
        config: attributes, folds and significance.
        folder: a finished run of ``meninx train``, private or not.
        out: folder that gets ``audit/`` with record, table and figure; by default the run folder.
        data: the run's dataset, where it is no longer at the recorded place.
        progress: shows patients and attacks.

    Raises:
        UsageError: no finished run, audited before, or ``out`` holds other files.
        DataError: the dataset is not the one of the run, has no attribute, or too few patients for any.
    """
    run = runs.open_run(folder)
    with alone(run, dry_run=config.dry_run):
        record = finished_record(run)
        refuse_other_files(FILES, out, run, overwrite=config.overwrite)
        attacked = _attacked(config, run, data)
        result = AttributesResult(
            out=out or run.root,
            audit=None,
            members=int(attacked.member.sum()),
            others=int((~attacked.member).sum()),
            attributes=tuple(attacked.values),
        )
        if config.dry_run:
            return result
        begun = time.monotonic()
        audit, scores = _audit(config, attacked, record, progress)
        audit = replace(audit, seconds=0.0 if config.deterministic else time.monotonic() - begun)
        path = _write(out or run.root, audit)
        files.write_text(run.private / FOLDER / SCORES, scores, mode=files.PRIVATE_MODE)
    return replace(result, out=path, audit=audit)


# who is attacked


@dataclass(frozen=True, kw_only=True)
class _Attacked:
    """The patients and the model of an audit.

    Attributes:
        run: the audited run.
        pool: cases of members and others.
        patients: in the order of all rows.
        member: whether each took part in the training.
        values: attribute -> value of each patient, empty where unknown.
        strangers: who may be taken as one that took no part.
    """

    run: Run
    pool: Manifest
    patients: tuple[str, ...]
    member: Bits
    values: Mapping[str, list[str]]
    strangers: Strangers

    @property
    def first(self) -> list[Case]:
        """The first case of each patient."""
        found = {case.patient_id: case for case in reversed(self.pool.cases)}
        return [found[patient] for patient in self.patients]


def _attacked(config: AttributesConfig, run: Run, moved: Path | None) -> _Attacked:
    """Return the patients of an audit; refuse a dataset without an attribute that enough of them have."""
    data = dataset_of(run, moved)
    chosen, strangers = set(), strangers_of(run, data)
    for split, kind in (("train", data.split("train").patients), ("test", strangers.patients)):
        people = sorted(kind)
        order = child(config.seed, "patients of the audit", split).permutation(len(people))
        chosen |= {people[index] for index in order[: config.most_patients]}
    pool = data.select(lambda case: case.split in ("train", "test") and case.patient_id in chosen)
    patients = tuple(dict.fromkeys(case.patient_id for case in pool.cases))
    first = {case.patient_id: case for case in reversed(pool.cases)}
    member = np.array([first[patient].split == "train" for patient in patients], dtype=bool)
    values = _values(config, data, [first[patient] for patient in patients])
    counts = {"train": int(member.sum()), "test": int((~member).sum())}
    for split, count in counts.items():
        if count < 2 * LEAST_PATIENTS:
            rule = f"at least {2 * LEAST_PATIENTS} patients in the {split} split"
            fix = "an attribute needs ten patients with each of two values among members and among others"
            raise DataError(expected(rule, got=count, where=data.info.name, fix=fix))
    return _Attacked(run=run, pool=pool, patients=patients, member=member, values=values, strangers=strangers)


def _values(config: AttributesConfig, data: Manifest, first: Sequence[Case]) -> dict[str, list[str]]:
    """Return the attributes, by name, of the first case of each patient."""
    names = [*data.info.attributes, *([SITE] if len(data.sites) > 1 else [])]
    unknown = sorted(set(config.attributes) - set(names))
    if unknown or not names:
        fix = "give the dataset attributes: `meninx prepare --attribute-columns`"
        got = ", ".join(unknown) if unknown else "a dataset without attributes"
        raise DataError(
            expected(f"one of {', '.join(names) or 'none'}", got=got, where="attributes", fix=fix)
        )
    found = {}
    for name in config.attributes or names:
        texts = [case.site if name == SITE else case.attributes.get(name, "") for case in first]
        found[name] = _age_groups(texts, config.age_edges) if name == AGE else texts
    return found


def _age_groups(texts: Sequence[str], edges: Sequence[float]) -> list[str]:
    """Return ages as groups between the edges; a text that is no number is unknown.

    >>> _age_groups(["30", "60", "", "x"], [60.0])
    ['below 60', '60 and above', '', '']
    """
    steps = [f"{edge:g}" for edge in edges]
    names = [f"below {steps[0]}"]
    names += [f"{low} to below {high}" for low, high in pairwise(steps)]
    names.append(f"{steps[-1]} and above")
    found = []
    for text in texts:
        known = text.replace(".", "", 1).isdigit()
        found.append(names[int(np.searchsorted(edges, float(text), side="right"))] if known else "")
    return found


# the audit


def _audit(
    config: AttributesConfig, attacked: _Attacked, record: RunRecord, progress: Progress
) -> tuple[AttributesAudit, str]:
    network, learned, _ = inference.load_model(attacked.run)
    learned = learned.replace(device=config.device)
    private = (
        artifacts.require(attacked.run.root, PrivacyRecord, fix="train again") if record.private else None
    )
    released = None
    if private is not None and private.noise_multiplier > 0:
        released = Released(private.max_grad_norm, private.noise_multiplier)
    signals = _cached(attacked, learned, network, released, config.seed, progress, trained=True)
    blank = untrained(attacked.pool.info, learned)
    fresh = _cached(attacked, learned, blank, None, config.seed, progress, trained=False)
    curve, one_step = _curves(attacked, private, released)
    attacks = _Attacks(config, attacked, len(attacked.values) * len(signals.rows))
    records, right = attacks.on_attributes(signals, curve, one_step, progress)
    negative, positive, strangers = attacks.controls(signals, fresh)
    leaks = _leaks(attacked, signals, one_step)
    verdict, reason = verdict_of(records, negative, strangers, positive, config.significance)
    info = attacked.pool.info
    audit = AttributesAudit(
        attributes=records,
        leaks=leaks,
        negative=negative,
        fresh=strangers,
        positive=positive,
        prior_bounds=_prior_bounds(records, curve),
        noise_multiplier=released.noise_multiplier if released else 0.0,
        split_rule=info.split_rule,
        patients_known=info.patients_known,
        left_out=attacked.strangers.left_out,
        unknown_start=attacked.strangers.unknown,
        synthetic=info.synthetic,
        folds=config.folds,
        permutations=attacks.permutations,
        significance=config.significance,
        seed=config.seed,
        seconds=0.0,
        verdict=verdict,
        reason=reason,
        origin=origin_of(record, timeless=config.deterministic),
    )
    return audit, _scores(attacked, right)


class _Attacks:
    """The attacks of an audit, with what they have in common."""

    def __init__(self, config: AttributesConfig, attacked: _Attacked, tests: int) -> None:
        self.config, self.attacked = config, attacked
        self.each = config.significance / max(1, tests)
        self.permutations = max(config.permutations, math.ceil(2 / self.each))

    def on_attributes(
        self, signals: ModelSignals, curve: RiskCurve | None, one_step: RiskCurve | None, progress: Progress
    ) -> tuple[tuple[AttributeRecord, ...], dict[tuple[str, str], Array]]:
        """Return the record of every attribute and signal, and which patients each attack was right about."""
        found, right = [], {}
        labels = _label_rows(self.attacked)
        for attribute, values in self.attacked.values.items():
            progress.note(f"attribute {attribute}: attacks on {', '.join(signals.rows)}")
            if len(set(values)) > _MOST_VALUES:
                refusal = f"the attribute has more than {_MOST_VALUES} values; group them"
                found.append(AttributeRecord(attribute=attribute, signal=LABELS, refusal=refusal))
                continue
            floor = self._one(attribute, LABELS, labels, values) if labels is not None else None
            found += [floor.record] if floor else []
            if floor and floor.record.refusal:
                continue
            for signal, rows in signals.rows.items():
                one = self._one(attribute, signal, rows, values, labels=floor)
                record = one.record
                if signal == NOISY and one_step is not None:
                    record = bounded_by_prior(record, _upper(one_step), self.each)
                elif curve is not None:
                    record = bounded(record, _upper(curve), self.each)
                found.append(record)
                right[attribute, signal] = one.right
                if record.refusal:  # for all signals alike
                    break
        return tuple(found), right

    def controls(
        self, signals: ModelSignals, fresh: ModelSignals
    ) -> tuple[tuple[AttributeRecord, ...], tuple[AttributeRecord, ...], tuple[AttributeRecord, ...]]:
        """Return the negative and the positive control, and the attacks on an untrained network."""
        rows, member = signals.rows[EMBEDDING], self.attacked.member
        rng = child(self.config.seed, "coin attribute")
        bits = np.zeros(len(member), dtype=bool)
        for part in (member, ~member):  # half of each kind, so that there are enough of both values
            place = rng.permutation(np.flatnonzero(part))
            bits[place[: len(place) // 2]] = True
        coin = ["heads" if bit else "tails" for bit in bits]
        direction = rng.choice([-1.0, 1.0], rows.shape[1]) * rows.std(axis=0)
        spread = np.where(direction == 0, 1.0, direction)
        planted = rows + np.where(member & bits, _PLANTED, 0.0)[:, None] * spread
        planted -= np.where(member & ~bits, _PLANTED, 0.0)[:, None] * spread
        strangers = tuple(
            self._one(attribute, EMBEDDING, fresh.rows[EMBEDDING], values).record
            for attribute, values in self.attacked.values.items()
            if len(set(values)) <= _MOST_VALUES
        )
        negative = (self._one("coin", EMBEDDING, rows, coin).record,)
        return negative, (self._one("planted coin", EMBEDDING, planted, coin).record,), strangers

    def _one(
        self, attribute: str, signal: str, rows: Array, values: Sequence[str], labels: Inferred | None = None
    ) -> Inferred:
        return measure_attribute(
            attribute, signal, rows, values, self.attacked.member,
            labels=labels, folds=self.config.folds, permutations=self.permutations, seed=self.config.seed,
        )  # fmt: skip


def _curves(
    attacked: _Attacked, private: PrivacyRecord | None, released: Released | None
) -> tuple[RiskCurve | None, RiskCurve | None]:
    """Return what the guarantee of the run allows about a patient, and what the noise of one step allows.

    Noise from a seed allows everything.
    """
    if private is None:
        return None, None
    known = attacked.pool.info.patients_known
    curve = mechanism.curve_of_patient(attacked.run, patients_known=known, rates=_RATES)
    if curve is None or released is None:
        return curve, None
    phase = Phase(sample_rate=1.0, noise_multiplier=released.noise_multiplier, steps=1)
    return curve, risk_curve([phase], rates=_RATES)


def _upper(curve: RiskCurve) -> Bound:
    return lambda kappa: curve.gamma(kappa).upper


def _prior_bounds(records: Sequence[AttributeRecord], curve: RiskCurve | None) -> dict[str, float]:
    priors = {record.attribute: record.prior for record in records if record.prior is not None}
    return {} if curve is None else {name: curve.gamma(prior).upper for name, prior in priors.items()}


def _label_rows(attacked: _Attacked) -> Array | None:
    """Return the true labels of each patient, mean over its images; None for label maps."""
    if attacked.pool.info.task is TaskKind.SEGMENTATION:
        return None
    targets = attacked.pool.targets().astype(np.float64)
    filled = np.concatenate([np.nan_to_num(targets), np.isnan(targets)], axis=1)
    place = {patient: number for number, patient in enumerate(attacked.patients)}
    owner = np.array([place[case.patient_id] for case in attacked.pool.cases])
    total = np.zeros((len(place), filled.shape[1]))
    np.add.at(total, owner, filled)
    return np.asarray(total / np.bincount(owner)[:, None])


def _leaks(attacked: _Attacked, signals: ModelSignals, one_step: RiskCurve | None) -> tuple[LeakRecord, ...]:
    """Return what the gradients of single patients tell about labels."""
    first = Manifest(attacked.pool.root, attacked.pool.info, tuple(attacked.first))
    targets, one_class = first.targets(), attacked.pool.info.task is TaskKind.MULTICLASS
    found = []
    for signal, bias in signals.bias.items():
        if bias.shape == targets.shape:
            most = None
            if signal == NOISY and one_step is not None:
                most = _upper(one_step)
            found.append(measure_leak(signal, bias, targets, one_class=one_class, most=most))
    return tuple(found)


# files


def _cached(
    attacked: _Attacked,
    learned: LearnConfig,
    network: nn.Module,
    released: Released | None,
    seed: int,
    progress: Progress,
    *,
    trained: bool,
) -> ModelSignals:
    """Return what a network gives away, from its file where there is one."""
    record = artifacts.require(attacked.run.root, RunRecord, fix="train again")
    cache = DigestCache(attacked.run.private / FOLDER / CACHE, suffix=".npz", limit=_MOST_BYTES)
    key = cache.key(
        _SIGNALS, record.id, record.weights, record.data, str(released), str(seed), str(trained),
        *attacked.patients,
    )  # fmt: skip
    content = cache.read(key)
    if content is not None:
        return _signals(content, attacked.patients, where=f"{key}{cache.suffix}")
    found = model_signals(
        network, attacked.pool, learned,
        gradients=released, with_gradients=trained, seed=seed, progress=progress,
    )  # fmt: skip
    buffer = io.BytesIO()
    tables = {f"rows/{signal}": rows for signal, rows in found.rows.items()}
    tables |= {f"bias/{signal}": bias for signal, bias in found.bias.items()}
    np.savez_compressed(buffer, **tables)  # type: ignore[arg-type]
    cache.write(key, buffer.getvalue())
    return found


def _signals(stored: bytes, patients: tuple[str, ...], where: str) -> ModelSignals:
    """Return the signals in a file.

    Raises:
        DataError: it is damaged.
    """
    tables: dict[str, dict[str, Array]] = {"rows": {}, "bias": {}}
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as content:
            for key in content.files:
                kind, _, signal = key.partition("/")
                tables[kind][signal] = np.asarray(content[key], dtype=np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        fix = "remove private/audit/attributes of the run"
        raise DataError(problem("the file of signals is damaged", where=where, fix=fix)) from error
    if any(len(rows) != len(patients) for rows in tables["rows"].values()) or not tables["rows"]:
        fix = "remove private/audit/attributes of the run"
        raise DataError(expected(f"{len(patients)} rows", got="a wrong number", where=where, fix=fix))
    return ModelSignals(patients, tables["rows"], tables["bias"])


def _write(root: Path, audit: AttributesAudit) -> Path:
    """Write table and figure, and at the end the record that says that all is there."""
    place = root / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    names = [item.name for item in fields(AttributeRecord)]
    groups = (
        ("model", audit.attributes),
        ("negative control", (*audit.negative, *audit.fresh)),
        ("positive control", audit.positive),
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["kind", *names])
    for kind, group in groups:
        for record in group:
            cells = {name: getattr(record, name) for name in names}
            cells |= {"attribute": csv_cell(record.attribute), "classes": csv_cell("; ".join(record.classes))}
            writer.writerow([kind, *cells.values()])
    with FILES.writing(place):
        files.write_text(place / TABLE, buffer.getvalue())
        draw(audit, *(place / name for name in FIGURES))
        return artifacts.write(root, audit)


def _scores(attacked: _Attacked, right: Mapping[tuple[str, str], Array]) -> str:
    """Return the table of which patients each attack was right about."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    used = {name: values for name, values in right.items() if len(values)}
    heads = [csv_cell(f"{attribute}: {signal}") for attribute, signal in used]
    writer.writerow(["patient_id", "member", *heads])
    for number, patient in enumerate(attacked.patients):
        cells = ["" if math.isnan(values[number]) else int(values[number]) for values in used.values()]
        writer.writerow([patient, int(attacked.member[number]), *cells])
    return buffer.getvalue()
