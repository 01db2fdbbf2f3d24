"""The output folder of `meninx obfuscate`: a dataset that `train` and `federate` accept, and its record.

data-hidden/
manifest.csv  dataset.toml  images/  checksums.sha256   the released dataset
obfuscation.json                                        how it was made
release_audit.json  report.html                         what attackers find in it
private/    key, seals, history of targets, cases.csv (names in the source), files of the method,
            comparison.png: never leave the hospital
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from meninx.core import artifacts, files, integrity, provenance, randomness, settings, workspace
from meninx.core import progress as bars
from meninx.core.artifacts import ObfuscationRecord, Origin, PrepareRecord
from meninx.core.errors import DataError, expected, problem
from meninx.core.intensity import Intensity
from meninx.core.manifest import (
    INFO_NAME,
    MANIFEST_NAME,
    Case,
    DatasetInfo,
    Manifest,
    dataset_digest,
)
from meninx.core.obfuscation_records import LabelFloorRecord
from meninx.imaging import png
from meninx.imaging.image import Image
from meninx.obfuscate import asked_targets, keyed_names, sealed_release
from meninx.obfuscate.comparison_sheet import comparison_sheet
from meninx.obfuscate.config import WORK_FIELDS, ObfuscateConfig, ReleaseAuditSettings
from meninx.obfuscate.dataset_table import read_images
from meninx.obfuscate.obfuscator import (
    OBFUSCATORS,
    FittedObfuscator,
    ImageTable,
    Values,
    create,
    fitting_half,
    levels,
    stored,
)
from meninx.obfuscate.published_columns import SITE, PublishedColumns
from meninx.obfuscate.sealed_audit import AUDIT, PAGE, SEAL
from meninx.obfuscate.sealed_release import KEY, RECORD, RECORD_SEAL

STAGE = "obfuscate"
SHEET = "comparison.png"
PUBLISHED = ("images", MANIFEST_NAME, INFO_NAME, integrity.CHECKSUMS, RECORD)
"""Files outside the private folder; the last one is written last and marks completeness."""
OWN_SECRETS = (KEY, RECORD_SEAL, asked_targets.HISTORY, keyed_names.CROSSWALK)
"""Private files of every release, of images or features."""
_PRIVATE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}\.[a-z0-9]{1,8}")


def fingerprint(config: ObfuscateConfig, source: Manifest) -> str:
    """Return a digest of the source and of the settings that determine the released dataset."""
    text = json.dumps([dataset_digest(source.root).digest, release_settings(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def release_settings(config: ObfuscateConfig) -> dict[str, Any]:
    """Return the settings that determine the released dataset."""
    left_out = {*WORK_FIELDS, *settings.index(ReleaseAuditSettings)}
    shown = {name: value for name, value in settings.to_flat(config).items() if name not in left_out}
    in_force = {"budget": config.amount, "age_bins": list(config.bins)}
    return shown | {name: value for name, value in in_force.items() if value}


def check(out: Path, config: ObfuscateConfig, source: Manifest) -> None:
    """Raise the errors of :func:`claimed` without creating anything."""
    workspace.check(out, **_claim(config, source))


def claimed(
    out: Path, config: ObfuscateConfig, source: Manifest
) -> AbstractContextManager[workspace.Workspace]:
    """Lock the output folder; an earlier release in it stays whole until :func:`publish`.

    Raises:
        UsageError: it holds something, and neither ``resume`` nor ``overwrite`` is given, other settings made
            it, or it lies in the source.
        RunLocked: another process holds it.
    """
    return workspace.claim(out, **_claim(config, source))


def _claim(config: ObfuscateConfig, source: Manifest) -> dict[str, Any]:
    return {
        "stage": STAGE,
        "fingerprint": fingerprint(config, source),
        "sources": (source.root,),
        "resume": config.resume,
        "overwrite": config.overwrite,
    }


def secret_key(space: workspace.Workspace, config: ObfuscateConfig, *, published: bool) -> bytes:
    """Return the key of a release: that of the published one, that of an interrupted one, or a new one.

    Raises:
        DataError: the key of a published release is gone or damaged.
    """
    room = space.staging / workspace.PRIVATE
    path = space.private / KEY if published else room / KEY
    if path.is_file():
        key = files.read_bytes(path, limit=randomness.KEY_BYTES)
        if len(key) == randomness.KEY_BYTES:
            return key
    if published:
        fix = "give --overwrite to make the release again"
        raise DataError(problem("the key of the release is gone or damaged", where=KEY, fix=fix))
    seed = config.seed if config.deterministic else None
    key = randomness.private_bytes(randomness.KEY_BYTES, deterministic_seed=seed, purpose="obfuscate")
    room.mkdir(mode=0o700, exist_ok=True)
    files.write_bytes(path, key, mode=files.PRIVATE_MODE)
    return key


@dataclass(frozen=True, eq=False)
class Release:
    """A release in the making.

    Attributes:
        config: the settings.
        source: the dataset that is obfuscated.
        table: its images.
        fitted: the method.
        values: what is released of each image.
        floor: the label floor that was shown.
        published: columns of the released table.
        key: of :func:`secret_key`.
    """

    config: ObfuscateConfig
    source: Manifest
    table: ImageTable
    fitted: FittedObfuscator
    values: Values
    floor: LabelFloorRecord
    published: PublishedColumns
    key: bytes = field(repr=False)


def fit_method(
    config: ObfuscateConfig, table: ImageTable, key: bytes, progress: bars.Progress
) -> FittedObfuscator:
    """Return the method fitted on its patients: half of the training split if it learns, else all of it."""
    rows = ~table.where("test")
    if OBFUSCATORS[config.method].learned:
        rows &= ~table.where("train") | fitting_half(table, seed=config.seed)
    obfuscator = create(config.method, config, key=key)
    return obfuscator.fit(table.select(rows), seed=config.seed, progress=progress)


def released_values(fitted: FittedObfuscator, table: ImageTable) -> Values:
    """Return what is published of each image, as a file of 8 bits holds it.

    Raises:
        ValueError: the method gives another shape, or values that are not finite: a bug of the method.
    """
    values = fitted.release(table)
    if values.shape != table.values.shape or not np.isfinite(values).all():
        raise ValueError("the method released images of another shape, or values that are not finite")
    return stored(values)


def refuse_other_images(work: Release, out: Path, progress: bars.Progress) -> None:
    """Refuse a published release whose images are not those that the method gives.

    Raises:
        DataError: they differ, or a file was changed.
    """
    fix = "give --overwrite to make the release again"
    wrong = next(sealed_release.broken_seal(out), "")
    if wrong:
        raise DataError(problem(wrong, where=out.name, fix=fix))
    there, known = Manifest.read(out), keyed_names.KeyedNames.of(work.source.cases, work.key)
    same = [case.case_id for case in there.cases] == [
        known.case(work.source.cases[row]) for row in known.rows
    ]
    if not same or not np.array_equal(read_images(there, progress), work.values[known.rows]):
        got = "images that the method does not give"
        raise DataError(expected("the published images", got=got, where=out.name, fix=fix))


def publish(space: workspace.Workspace, work: Release, progress: bars.Progress) -> None:
    """Write the released dataset and put it in the place of an earlier one.

    Args:
        space: the claimed folder.
        work: the release.
        progress: advanced by every image.
    """
    staging, room = space.staging, space.staging / workspace.PRIVATE
    config, source, fitted = work.config, work.source, work.fitted
    record, known = _record(work), keyed_names.KeyedNames.of(source.cases, work.key)
    manifest = Manifest(
        space.root, _info(source.info, work.published, record), _cases(source, work.published, known)
    )
    digests = _write_images(staging, manifest, work.values[known.rows], progress)
    manifest.write(staging)
    tables = integrity.measured(staging, [staging / MANIFEST_NAME, staging / INFO_NAME])
    checksums = integrity.write(staging, {**digests, **tables})
    write_record(staging, replace(record, checksums=checksums), work.key)
    sheet = png.encode(Image(comparison_sheet(work.table.values, work.values, seed=config.seed)))
    secrets = {
        SHEET: sheet, keyed_names.CROSSWALK: known.crosswalk(source), **_named(fitted.private_files())
    }  # fmt: skip
    for name, content in secrets.items():
        files.write_bytes(room / name, content, mode=files.PRIVATE_MODE)
    stale = [name for name in (AUDIT, PAGE, SEAL) if (space.root / name).exists()]
    space.publish(PUBLISHED, remove=stale, secret=(*OWN_SECRETS, *secrets))
    remove_others(space.private, {*OWN_SECRETS, *secrets})


def write_record(staging: Path, record: ObfuscationRecord, key: bytes) -> None:
    """Write ``obfuscation.json``, its seal, and the history of targets, which is empty."""
    room = staging / workspace.PRIVATE
    artifacts.write(staging, record)
    sealed_release.write_seal(staging / RECORD, room, key)
    asked_targets.begin(room, record.checksums, key)


def keyed(key: bytes, root: Path) -> str:
    """Return the digest of a dataset folder under the key of the release."""
    return artifacts.keyed(key, "data", dataset_digest(root).digest)


def origin(key: bytes, manifest: Manifest, *, deterministic: bool) -> Origin:
    """Return the origin of numbers about a dataset; without time and command in a deterministic release."""
    made_by = provenance.environment()
    return Origin(
        run="",
        data=keyed(key, manifest.root),
        dataset=manifest.info.name,
        made="" if deterministic else artifacts.now(),
        command=() if deterministic else made_by.command,
        versions=made_by.packages,
    )


def _record(work: Release) -> ObfuscationRecord:
    config, source, table, key = work.config, work.source, work.table, work.key
    method, prepared = OBFUSCATORS[config.method], source.root / artifacts.place(PrepareRecord)
    splits = {name: int(table.where(name).sum()) for name in ("train", "valid", "test")}
    return ObfuscationRecord(
        method=config.method,
        method_summary=method.summary,
        caveat=method.caveat,
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
        splits=splits,
        deterministic=config.deterministic,
        source_record=artifacts.keyed(key, files.digest(prepared)) if prepared.is_file() else "",
        checksums="",
        source=origin(key, source, deterministic=config.deterministic),
        keyed_names=True,
        made="" if config.deterministic else artifacts.now(),
        versions=provenance.packages(),
    )


def _info(source: DatasetInfo, published: PublishedColumns, record: ObfuscationRecord) -> DatasetInfo:
    """Return the description of the released dataset: 8 bits, no statistics of the originals."""
    labels = published.labels
    steps = dict(source.preprocessing)
    if "bits" in steps:
        steps["bits"] = 8
    return replace(
        source,
        labels=labels,
        laterality=tuple(pair for pair in source.laterality if set(pair) <= set(labels)),
        attributes=tuple(name for name in source.attributes if name in published.attributes),
        intensity=Intensity(),
        preprocessing=steps,
        observed=None,
        obfuscated=record.sentence(),
    )


def _cases(source: Manifest, published: PublishedColumns, known: keyed_names.KeyedNames) -> tuple[Case, ...]:
    return tuple(
        replace(
            case,
            case_id=known.case(case),
            patient_id=known.patient(case),
            image=f"images/{known.case(case)}.png",
            study="",
            mask="",
            site="" if SITE in published.withheld else case.site,
            labels={name: case.labels.get(name) for name in published.labels},
            attributes={name: text for name, text in case.attributes.items() if name in published.attributes},
        )
        for case in (source.cases[row] for row in known.rows)
    )


def _write_images(
    staging: Path, manifest: Manifest, released: Values, progress: bars.Progress
) -> dict[str, str]:
    """Write the images as PNG of 8 bits and return path -> SHA-256."""
    (staging / "images").mkdir(exist_ok=True)
    wanted = {Path(case.image).name for case in manifest.cases}
    for path in (staging / "images").iterdir():  # of an interrupted release of the same settings
        if path.name not in wanted:
            path.unlink()
    digests = {}
    with bars.task(progress, "write images", len(manifest)):
        for case, image in zip(manifest.cases, released, strict=True):
            content = png.encode(Image(levels(image)))
            files.write_bytes(staging / case.image, content)
            digests[case.image] = hashlib.sha256(content).hexdigest()
            progress.advance()
    return digests


def remove_others(room: Path, wanted: set[str]) -> None:
    """Remove the private files of an earlier release by another method, which may show originals."""
    for path in room.iterdir():
        if _PRIVATE_NAME.fullmatch(path.name) and path.name not in {workspace.MARKER, *wanted}:
            path.unlink()


def _named(secrets: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return the private files of a method, whose names must be plain and not the stage's own."""
    for name in secrets:
        if not _PRIVATE_NAME.fullmatch(name) or name in (*OWN_SECRETS, SHEET):
            raise ValueError(f"{name!r} is no name of a private file of a method")
    return secrets
