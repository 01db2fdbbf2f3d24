"""``meninx audit identity``: can images be linked to other images of the same patient?

A file without a name is not a file that nobody can name. An attacker who has one more image of a patient
compares it with all images of a dataset. Attacks are fitted on some patients and measured on others, against
chance, against what labels and attributes alone link, and with controls. The same call takes changed images
(``probes``) and the reconstructions of an audited run.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from meninx.audit.audit_files import AuditFiles
from meninx.audit.audited_run import (
    FOLDER,
    dataset_of,
    finished_record,
    origin_of,
    place_of_audit,
    refuse_other_files,
)
from meninx.audit.config import IdentityConfig
from meninx.audit.identity_figure import draw
from meninx.audit.identity_findings import (
    CHANGED,
    DATASET,
    link_lines,
    share_words,
    verdict_words,
)
from meninx.audit.identity_reconstructions import link_reconstructions
from meninx.core import artifacts, files, provenance, source_names, workspace
from meninx.core import run as runs
from meninx.core.artifacts import Origin, RunRecord
from meninx.core.errors import UsageError, problem
from meninx.core.identity_records import IdentityAudit, LinkRecord
from meninx.core.manifest import Manifest, dataset_digest
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import private_bytes
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn.identity_linkage import (
    Linkage,
    LinkageSettings,
    link_images,
    patients_with_several,
    refuse_other_cases,
)

TABLE = "identity.csv"
FIGURES = ("identity.svg", "identity.png")
FILES = AuditFiles(kind=IdentityAudit, title="an audit of identity", names=(TABLE, *FIGURES))
RECONSTRUCTIONS = "reconstruction"  # of `meninx audit reconstruct`
CACHE, SCORES = "identity", "identity_scores.csv"
_KEY = "identity.key"


@dataclass(frozen=True, kw_only=True)
class IdentityResult(Result):
    """The audit of what images tell about identity; ``out`` is its record.

    Attributes:
        audit: attacks, floor, controls and verdict; None after a dry run.
        patients: in the dataset.
        several: of them with two images or more.
    """

    audit: IdentityAudit | None
    patients: int
    several: int

    def summary(self) -> str:
        """Return the audit in words."""
        audit = self.audit
        who = f"patients: {self.patients}, of them with two images or more: {self.several}"
        if audit is None:
            return f"{who}\ndry run: nothing was compared or written"
        lines = [
            f"out: {self.out}",
            who,
            f"attacks fitted on {audit.fitted_images} images of {audit.fitted_patients} other patients",
            *(line for record in audit.links for line in link_lines(record, audit.subject)),
        ]
        if audit.floor is not None:
            lines += link_lines(audit.floor, audit.subject)
        for title, records in (
            ("negative control, shuffled identities", audit.negative),
            ("positive control, a planted mark per patient", audit.positive),
        ):
            lines += [f"{title}: {record.attack} {share_words(record)}" for record in records]
        for record in audit.reconstructions:
            lines.append(f"reconstruction {record.source}, {record.question}: {share_words(record)}")
        return "\n".join([*lines, f"verdict: {verdict_words(audit)}"])

    def alerts(self) -> tuple[str, ...]:
        """Return what limits the audit."""
        return (self.audit.reason,) if self.audit is not None and self.audit.reason else ()


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is audited.

    Attributes:
        data: the dataset whose images are the gallery.
        probes: the dataset of changed images; None for the images of ``data`` themselves.
        run: the run whose dataset it is; None for a dataset alone.
        out: folder that gets ``audit/``.
        key: secret that dataset digests are keyed with.
    """

    data: Manifest
    probes: Manifest | None
    run: Run | None
    out: Path
    key: bytes

    @property
    def room(self) -> Path:
        """Folder of what may not leave."""
        return (self.run.private if self.run else self.out / "private") / FOLDER


def run_identity(
    config: IdentityConfig,
    source: Path,
    *,
    probes: Path | None = None,
    out: Path | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> IdentityResult:
    """Link images to other images of the same patient, and return how often that works.

    An interrupted audit takes up the networks that are trained. Scores of single images are written only
    below ``private/audit/``.

    Args:
        config: attacks and division of the patients.
        source: a prepared dataset, or a finished run, whose dataset is taken.
        probes: dataset with changed images of the same cases, which ask instead of the dataset's own.
        out: folder that gets ``audit/`` with record, table and figure; by default the run folder, or
            ``identity``.
        data: dataset of the run, where it is no longer at the recorded place.
        progress: shows images and steps.

    Raises:
        UsageError: audited before, ``out`` holds other files, ``data`` beside a dataset, or no dataset and no
            finished run.
        DataError: too few patients with two images, or ``probes`` has other cases.
    """
    run = _run_of(source)
    out = out if run else out or Path("identity")
    place = place_of_audit(out, run)
    if place.resolve() != source.resolve():
        workspace.outside(place, [folder for folder in (source, probes) if folder is not None])
    refuse_other_files(FILES, out, run, overwrite=config.overwrite)
    if data is not None and run is None:
        fix = "leave it out: the source is the dataset"
        raise UsageError(problem("the dataset of a run has no effect without a run", where="data", fix=fix))
    gallery = dataset_of(run, data) if run else Manifest.read(source)
    other = source_names.under_source_names(Manifest.read(probes)) if probes is not None else None
    if other is not None:
        refuse_other_cases(gallery, other)
    several = patients_with_several(gallery, config.fit_share)
    if config.dry_run:
        return IdentityResult(out=place, audit=None, patients=len(gallery.patients), several=several)
    with ExitStack() as locks:
        for lock in (run.audit_lock(), run.lock()) if run else (workspace.locked(_made(place)),):
            locks.enter_context(lock)
        subject = _Subject(data=gallery, probes=other, run=run, out=place, key=_key(place, run))
        audit, found = _audit(config, subject, progress)
        path = _write(subject, audit, found.matches)
    return IdentityResult(out=path, audit=audit, patients=len(gallery.patients), several=several)


# what is compared


def _run_of(source: Path) -> Run | None:
    if not (source / artifacts.place(RunRecord)).is_file():
        return None
    run = runs.open_run(source)
    finished_record(run)
    return run


def _made(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    workspace.make_private(place)
    return place


def _key(place: Path, run: Run | None) -> bytes:
    """Return the secret that digests of the dataset are keyed with, made when it is not there yet."""
    room = (run.private if run else place / "private") / FOLDER
    room.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = room / _KEY
    if not path.is_file():
        files.write_bytes(path, private_bytes(32), mode=files.PRIVATE_MODE)
    return runs.read_key(path)


# the audit


def _audit(config: IdentityConfig, subject: _Subject, progress: Progress) -> tuple[IdentityAudit, Linkage]:
    begun = time.monotonic()
    data = subject.data
    found = link_images(
        data,
        _linkage_settings(config),
        room=subject.room / CACHE,
        changed=subject.probes,
        progress=progress,
    )
    reconstructions: tuple[LinkRecord, ...] = ()
    if subject.run is not None and subject.probes is None:
        reconstructions = link_reconstructions(subject.room / RECONSTRUCTIONS, data, config, progress)
    audit = IdentityAudit(
        subject=DATASET if subject.probes is None else CHANGED,
        links=found.links,
        floor=found.floor,
        negative=found.negative,
        positive=found.positive,
        reconstructions=reconstructions,
        fitted_patients=found.fitted_patients,
        fitted_images=found.fitted_images,
        copies=found.copies,
        grid=found.grid,
        patients_known=data.info.patients_known,
        synthetic=data.info.synthetic,
        probes=subject.probes.info.name if subject.probes else "",
        probes_data=_keyed(subject, subject.probes) if subject.probes else "",
        significance=config.significance,
        seed=config.seed,
        seconds=0.0 if config.deterministic else time.monotonic() - begun,
        verdict=found.verdict,
        reason=found.reason,
        origin=_origin(subject, timeless=config.deterministic),
    )
    return audit, found


def _linkage_settings(config: IdentityConfig) -> LinkageSettings:
    return LinkageSettings(
        attacks=config.attacks,
        fit_share=config.fit_share,
        components=config.components,
        side=config.side,
        siamese_steps=config.siamese_steps,
        most_images=config.most_images,
        significance=config.significance,
        seed=config.seed,
        device=config.device,
    )


# files


def _origin(subject: _Subject, *, timeless: bool) -> Origin:
    record = subject.run.record if subject.run else None
    if record is not None:
        return origin_of(record, timeless=timeless)
    made_by = provenance.environment()
    return Origin(
        run="",
        data=_keyed(subject, subject.data),
        dataset=subject.data.info.name,
        made="" if timeless else artifacts.now(),
        command=() if timeless else made_by.command,
        versions=made_by.packages,
    )


def _keyed(subject: _Subject, data: Manifest) -> str:
    return artifacts.keyed(subject.key, dataset_digest(data.root).digest)


def _write(subject: _Subject, audit: IdentityAudit, matches: Sequence[Sequence[object]]) -> Path:
    """Write table and figure, and at the end the record that says that all is there."""
    place = subject.out / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    groups = [
        ("image", audit.links),
        ("negative control", audit.negative),
        ("positive control", audit.positive),
    ]
    groups += [("floor", (audit.floor,))] if audit.floor else []
    groups += [("reconstruction", audit.reconstructions)]
    names = [item.name for item in fields(LinkRecord)]
    rows: list[list[object]] = []
    for kind, group in groups:
        rows += [[kind, *(getattr(record, name) for name in names)] for record in group]
    header = ["attack", "probe", "most_similar", "similarity", "same_patient"]
    files.write_text(subject.room / SCORES, _table(header, matches), mode=files.PRIVATE_MODE)
    with FILES.writing(place):
        files.write_text(place / TABLE, _table(["kind", *names], rows))
        draw(audit, *(place / name for name in FIGURES))
        return artifacts.write(subject.out, audit)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
