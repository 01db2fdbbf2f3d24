"""What an egress dossier says: facts, each with the file and digest it comes from, and its decision form.

``dossier.json`` is written by :mod:`meninx.dossier` and read by ``meninx verify`` on another machine. Nothing
in it is blank: a fact that no file shows has the value ``"not shown"`` and a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NOT_SHOWN = "not shown"
DOSSIER, FORM = "dossier.json", "decision.json"
PAGE, PDF, CRATE, SCHEMA = "dossier.html", "dossier.pdf", "ro-crate-metadata.json", "dossier.schema.json"
DOSSIER_FORMAT = 1
"""Format of ``dossier.json``."""

Scalar = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that the dossier says.

    Attributes:
        key: stable name, e.g. ``guarantee/epsilon``.
        words: what it is, in words.
        value: its value; ``"not shown"`` where no file of the dossier shows it.
        low: lower end of its interval, or certified lower bound; None where there is none.
        high: upper end, as ``low``.
        source: path of the file in the dossier that it was taken or computed from; ``"not shown"`` for none.
        sha256: SHA-256 of that file; ``"not shown"`` for none.
        remark: the reason why nothing is shown, or how the value was computed; may be empty.
    """

    key: str
    words: str
    value: Scalar | tuple[str, ...]
    low: float | None = None
    high: float | None = None
    source: str = NOT_SHOWN
    sha256: str = NOT_SHOWN
    remark: str = ""

    @property
    def shown(self) -> bool:
        """Whether a file of the dossier shows it."""
        return self.source != NOT_SHOWN


@dataclass(frozen=True, kw_only=True)
class DossierPart:
    """Facts about one subject.

    Attributes:
        key: stable name, e.g. ``guarantee``.
        title: heading.
        facts: in the order of the page.
    """

    key: str
    title: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading of a norm, and what the dossier has to say to it. Nothing claims that the norm is met.

    Attributes:
        norm: name and version of the norm.
        clause: its clause.
        title: what it asks about, in short.
        evidence: keys of the facts that speak to it and are shown.
        missing: keys of the facts that would and are not shown.
        question: open question for a person.
    """

    norm: str
    clause: str
    title: str
    evidence: tuple[str, ...]
    missing: tuple[str, ...]
    question: str


@dataclass(frozen=True, kw_only=True)
class EvidenceFile:
    """One file that facts are taken from.

    Attributes:
        path: where it lies in the dossier.
        sha256: its SHA-256.
        size: bytes.
        kind: ``copy`` of a file of the run, ``extract`` of one with fields left out, or ``statement``,
            written for the dossier.
        about: what it is, in words.
    """

    path: str
    sha256: str
    size: int
    kind: Literal["copy", "extract", "statement"]
    about: str


@dataclass(frozen=True, kw_only=True)
class DossierRecord:
    """An egress dossier: ``dossier.json``.

    Attributes:
        title: heading of the page.
        date: date of the dossier, ``YYYY-MM-DD``.
        run: identity of the run whose model is to be released.
        signer: fingerprint of the key that signs the list of files; ``"unsigned"`` without one.
        warnings: what speaks against a release, in words; empty where nothing was found.
        parts: all facts.
        headings: headings of norms, each with its evidence and an open question.
        limits: what nobody can check from the dossier alone, in words.
        evidence: the files that facts are taken from.
        made_by: package -> version of the program that wrote it.
        version: format of the record.
    """

    title: str
    date: str
    run: str
    signer: str
    warnings: tuple[str, ...]
    parts: tuple[DossierPart, ...]
    headings: tuple[Heading, ...]
    limits: tuple[str, ...]
    evidence: tuple[EvidenceFile, ...]
    made_by: dict[str, str]
    version: int = DOSSIER_FORMAT

    def fact(self, key: str) -> Fact | None:
        """Return the fact of a key; None when there is none."""
        return next((fact for part in self.parts for fact in part.facts if fact.key == key), None)


Choice = Literal["open", "approve", "approve with conditions", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The form of an output checker: ``decision.json``; filled in on a copy outside the dossier.

    Attributes:
        dossier: SHA-256 of ``checksums.sha256``, which `meninx verify` prints; empty in the form.
        decision: ``open`` until it is filled in.
        conditions: what the release is tied to; needed for ``approve with conditions``.
        reasons: why; needed for ``refuse``.
        checker: who decided.
        role: in which role.
        date: when, ``YYYY-MM-DD``.
        answers: "norm, clause" of a heading -> the answer to its open question.
        version: format of the record.
    """

    dossier: str = ""
    decision: Choice = "open"
    conditions: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    checker: str = ""
    role: str = ""
    date: str = ""
    answers: dict[str, str]
    version: int = DOSSIER_FORMAT


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that was given to the dossier.

    Attributes:
        run: identity of the run.
        folder: its folder in the dossier.
        private: trained with differential privacy.
        finished: its model was released.
        void: its noise came from a seed, so that no bound holds.
        beside: it is another site's part of the chosen run's federated study, with the same model, so that
            there was nothing to choose.
    """

    run: str
    folder: str
    private: bool
    finished: bool
    void: bool
    beside: bool = False


@dataclass(frozen=True, kw_only=True)
class SelectionRecord:
    """Which runs there were and which was chosen: ``selection.json`` of a dossier.

    Attributes:
        chosen: identity of the run whose model is to be released.
        candidates: all runs that were given.
        groups: identities of private runs that share patients, or may.
        assumed: for each group, whether runs were taken to share patients because nothing says otherwise.
        by: number that the choice rests on, as the person who made it states; empty where nobody did.
        split: split on which it was measured, likewise.
        sweep: the runs are those of a sweep.
        missing_runs: what was left out and why, in words.
    """

    chosen: str
    candidates: tuple[Candidate, ...]
    groups: tuple[tuple[str, ...], ...]
    assumed: tuple[bool, ...]
    by: str = ""
    split: str = ""
    sweep: bool = False
    missing_runs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetExtract:
    """What a dossier says of a prepared dataset: ``data/dataset.json``. No digest, row or name of a file.

    Attributes:
        task: what is to be learnt.
        labels: names of the labels.
        patients_known: the source names its patients.
        hidden: counts are left out, because a run declared its number of units.
        cases: number of cases; None where hidden.
        patients: number of patients; None as above.
        splits: split -> cases and patients; None as above.
        sites: number of sites; None as above.
        attribute_found: what attackers find in its images, where an attribute was hidden in them; else empty.
        version: format of the record.
    """

    task: str
    labels: tuple[str, ...]
    patients_known: bool
    hidden: bool
    cases: int | None = None
    patients: int | None = None
    splits: dict[str, tuple[int, int]] | None = None
    sites: int | None = None
    attribute_found: str = ""
    version: int = DOSSIER_FORMAT


@dataclass(frozen=True, kw_only=True)
class ArchiveExtract:
    """What a dossier says of a de-identified archive: ``data/archive-1.json``. Counts and settings.

    Attributes:
        linked: the dataset of the run names the archive as its source.
        hidden: counts are left out, as in :class:`DatasetExtract`.
        profile: name of the profile.
        options: PS3.15 options in force.
        departures: settings by which less is done than the profile says, in words.
        max_age: highest age that is written unchanged.
        files_written: instances written; None where hidden.
        patients: distinct patients written; None as above.
        quarantined: files kept out; None as above.
        residual_findings: files kept out by the self-check; None as above.
        burned_in_unknown: images that may show text in their pixels; None as above.
        actions: action letter -> elements; None as above.
        made_with: version of meninx that wrote the archive.
        version: format of the record.
    """

    linked: bool
    hidden: bool
    profile: str
    options: tuple[str, ...]
    departures: tuple[str, ...]
    max_age: int
    files_written: int | None = None
    patients: int | None = None
    quarantined: int | None = None
    residual_findings: int | None = None
    burned_in_unknown: int | None = None
    actions: dict[str, int] | None = None
    made_with: str = ""
    version: int = DOSSIER_FORMAT
