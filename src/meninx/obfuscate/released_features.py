"""The output folder of `meninx obfuscate features`: vectors, their table and the record.

features-hidden/
features.npz      features (n, m) float32, case_id, obfuscated (the method in one sentence)
manifest.csv      case_id, patient_id, split, labels, attributes that are not hidden: one row per vector
checksums.sha256
obfuscation.json  how it was made
release_audit.json  report.html
private/          key, seals, history of targets, cases.csv (names in the source), files of the method
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from meninx.core import artifacts, files, integrity, names, provenance, workspace
from meninx.core.artifacts import ObfuscationRecord, Origin
from meninx.core.errors import DataError, expected, problem
from meninx.core.manifest import Case
from meninx.core.obfuscation_records import LabelFloorRecord
from meninx.obfuscate import keyed_names
from meninx.obfuscate.config import ObfuscateConfig
from meninx.obfuscate.feature_file import CASE, FEATURES, RELEASED
from meninx.obfuscate.feature_source import FeatureSource
from meninx.obfuscate.obfuscator import OBFUSCATORS, FittedObfuscator, ImageTable, Values
from meninx.obfuscate.published_columns import SITE, PublishedColumns
from meninx.obfuscate.released_dataset import (
    OWN_SECRETS,
    release_settings,
    remove_others,
    write_record,
)
from meninx.obfuscate.sealed_audit import AUDIT, PAGE, SEAL
from meninx.obfuscate.sealed_release import OWN_PAPERS, RECORD, broken_seal

STAGE = "obfuscate-features"
VECTORS, TABLE = "features.npz", "manifest.csv"
PUBLISHED = (VECTORS, TABLE, integrity.CHECKSUMS, RECORD)
"""Files outside the private folder; the last one is written last and marks completeness."""
_MOST_BYTES = 1 << 31


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureRelease:
    """A release of features in the making.

    Attributes:
        config: the settings.
        source: the original vectors.
        table: the original vectors as the method takes them.
        fitted: the method.
        values: what is released, shape (n, m).
        floor: the label floor that was shown.
        published: columns of the released table.
        key: secret.
    """

    config: ObfuscateConfig
    source: FeatureSource
    table: ImageTable
    fitted: FittedObfuscator
    values: Values
    floor: LabelFloorRecord
    published: PublishedColumns
    key: bytes = field(repr=False)

    @property
    def names(self) -> keyed_names.KeyedNames:
        """Names and order of the released rows."""
        return keyed_names.KeyedNames.of(self.source.manifest.cases, self.key)

    @property
    def origin(self) -> Origin:
        """Origin of the original vectors: run, weights and data, the latter under the key of the release."""
        return _origin(self, artifacts.keyed(self.key, "data", self.source.digest))

    def released_origin(self, checksums: str) -> Origin:
        """Return the origin of the released vectors."""
        return _origin(self, artifacts.keyed(self.key, "data", checksums))


def fingerprint(config: ObfuscateConfig, source: FeatureSource) -> str:
    """Return a digest of the source, its run and the settings that determine the release."""
    of = [source.digest, source.run, source.weights, release_settings(config)]
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def claim(config: ObfuscateConfig, source: FeatureSource) -> dict[str, Any]:
    """Return the arguments of ``workspace.claim`` and ``workspace.check`` for the output folder."""
    return {
        "stage": STAGE,
        "fingerprint": fingerprint(config, source),
        "sources": (source.place,) if source.place.is_dir() else (),
        "resume": config.resume,
        "overwrite": config.overwrite,
    }


def publish(space: workspace.Workspace, work: FeatureRelease) -> ObfuscationRecord:
    """Write the release, put it in the place of an earlier one, and return its record."""
    staging = space.staging
    record = _record(work)
    stream = io.BytesIO()
    cases, known = work.source.manifest.cases, work.names
    shown = np.array([known.case(cases[row]) for row in known.rows], dtype=str)
    arrays = {FEATURES: work.values[known.rows], CASE: shown, RELEASED: np.array([record.sentence()])}
    np.savez(stream, allow_pickle=False, **arrays)
    files.write_bytes(staging / VECTORS, stream.getvalue())
    files.write_text(staging / TABLE, _table(work))
    listed = integrity.measured(staging, [staging / VECTORS, staging / TABLE])
    record = replace(record, checksums=integrity.write(staging, listed))
    write_record(staging, record, work.key)
    secrets = {keyed_names.CROSSWALK: known.crosswalk(work.source.manifest), **work.fitted.private_files()}
    room = staging / workspace.PRIVATE
    for name, content in secrets.items():
        files.write_bytes(room / name, content, mode=files.PRIVATE_MODE)
    stale = [name for name in (AUDIT, PAGE, SEAL) if (space.root / name).exists()]
    space.publish(PUBLISHED, remove=stale, secret=(*OWN_SECRETS, *secrets))
    remove_others(space.private, {*OWN_SECRETS, *secrets})
    return record


def refuse_other_vectors(work: FeatureRelease, out: Path) -> ObfuscationRecord:
    """Return the record of a published release whose vectors are those that the method gives.

    Raises:
        DataError: they differ, or a file was changed.
    """
    record = artifacts.require(out, ObfuscationRecord, fix="give --overwrite to make the release again")
    fix = "give --overwrite to make the release again"
    wrong = next(broken_seal(out), "")
    if wrong:
        raise DataError(problem(wrong, where=out.name, fix=fix))
    same = integrity.digest_of(out) == record.checksums and not integrity.damage(out, leave_out=OWN_PAPERS)
    stream = io.BytesIO(files.read_bytes(out / VECTORS, limit=_MOST_BYTES)) if same else None
    values = work.values[work.names.rows]
    if stream is None or not np.array_equal(np.load(stream, allow_pickle=False)[FEATURES], values):
        got = "vectors that the method does not give"
        raise DataError(expected("the published vectors", got=got, where=out.name, fix=fix))
    return record


def _table(work: FeatureRelease) -> str:
    kept, shown = work.published.attributes, work.published.labels
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case_id", "patient_id", "split", *shown, *kept])
    secret = work.names
    for case in (work.source.manifest.cases[row] for row in secret.rows):
        known = [case.labels.get(name) for name in shown]
        labels = ["" if value is None else f"{value:g}" for value in known]
        texts = [names.csv_cell(_text(case, name)) for name in kept]
        writer.writerow([secret.case(case), secret.patient(case), case.split, *labels, *texts])
    return text.getvalue()


def _text(case: Case, name: str) -> str:
    return case.site if name == SITE and name not in case.attributes else case.attributes.get(name, "")


def _record(work: FeatureRelease) -> ObfuscationRecord:
    config, table = work.config, work.table
    return ObfuscationRecord(
        subject="features",
        method=config.method,
        method_summary=summary(config),
        caveat=caveat(config),
        attribute=config.attribute,
        classes=table.classes[config.attribute],
        utility=tuple(table.labels),
        published=work.published.names,
        withheld=work.published.withheld,
        settings=release_settings(config),
        facts=dict(work.fitted.facts()),
        floor=work.floor,
        cases=len(table),
        patients=len(set(table.patients)),
        splits={name: int(table.where(name).sum()) for name in ("train", "valid", "test")},
        deterministic=config.deterministic,
        source_record="",
        checksums="",
        source=work.origin,
        keyed_names=True,
        made="" if config.deterministic else artifacts.now(),
        versions=provenance.packages(),
    )


def summary(config: ObfuscateConfig) -> str:
    """Return the method in words that follow "features obfuscated by"."""
    words = OBFUSCATORS[config.method].summary
    if config.erasure.quadratic:
        words = "quadratic concept erasure"
    return f"prototypes of attribute-aware codes after {words}" if config.erasure.quantise else words


def caveat(config: ObfuscateConfig) -> str:
    """Return what holds of the method whatever is measured, in words that follow "which"."""
    if config.erasure.quantise or config.method == "codes":
        return (
            "is proven only where its certificate says so, for features without the labels beside them, and "
            "does not hide whose they are"
        )
    return OBFUSCATORS[config.method].caveat


def _origin(work: FeatureRelease, data: str) -> Origin:
    made_by, still = provenance.environment(), work.config.deterministic
    return Origin(
        run=work.source.run,
        data=data,
        dataset=work.source.manifest.info.name,
        weights=work.source.weights,
        step=work.source.step,
        made="" if still else artifacts.now(),
        command=() if still else made_by.command,
        versions=made_by.packages,
    )
