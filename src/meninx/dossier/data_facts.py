"""Facts about the data behind the model: de-identification, preparation and lineage. Nothing of a patient."""

from __future__ import annotations

from meninx.core import artifacts
from meninx.core.artifacts import Lineage, RunRecord
from meninx.core.dossier_records import ArchiveExtract, DatasetExtract, DossierPart
from meninx.core.summaries import UNSEARCHED
from meninx.dossier.facts import DATA, RELEASE, RUN, EvidenceFolder, FactList
from meninx.report import privacy_account

LINEAGE, DATASET, RUN_RECORD = f"{RELEASE}/lineage.json", f"{DATA}/dataset.json", f"{RUN}/run.json"
HIDDEN = "a run declared its number of units, so counts that tell the true one are left out"


def lineage(evidence: EvidenceFolder) -> DossierPart:
    """Return where the weights come from, by keyed digests."""
    found = FactList(evidence, "lineage", "Lineage of data and weights")
    run = artifacts.require(evidence.run.root, RunRecord, fix="ask for the whole dossier")
    found.add("dataset", "dataset, by its short name", run.dataset, RUN_RECORD)
    found.add("data", "keyed digest of the dataset", run.data, RUN_RECORD)
    found.add("patients_known", "the source names its patients", run.patients_known, RUN_RECORD)
    if run.obfuscated:
        found.add("obfuscated", "how the training images were changed", run.obfuscated, RUN_RECORD)
    record = evidence.record(LINEAGE, Lineage)
    if record is None:
        found.unknown("patients", "keyed digests of patients", "the release holds no lineage")
        return found.part()
    found.add("key", "name of the key behind the digests, which stays with the run", record.key, LINEAGE)
    padded = "keyed digests of patients, filled up to the declared number where one was declared"
    found.add("patients", padded, len(record.patients), LINEAGE)
    found.add(
        "earlier", "earlier runs behind the weights", len(list(privacy_account.ancestors(record))), LINEAGE
    )
    found.add("unknown_start", "started from weights of unknown origin", record.unknown_start, LINEAGE)
    if record.study is None:
        found.add("study", "federated study", None, LINEAGE, none="the model was trained at one site alone")
    else:
        part = record.study
        found.add("study", "federated study", f"{part.study}, {part.sites} sites", LINEAGE)
        found.add("site", "site in the study", part.site, LINEAGE)
        found.add("aggregation", "how updates were added up", part.aggregation, LINEAGE)
    return found.part()


def dataset(evidence: EvidenceFolder) -> DossierPart:
    """Return counts of the prepared dataset."""
    found = FactList(evidence, "dataset", "Prepared dataset")
    record = evidence.record(DATASET, DatasetExtract)
    if record is None:
        found.unknown("cases", "cases", "the dataset was not given to the dossier")
        return found.part()
    hidden = HIDDEN if record.hidden else "the record does not state it"
    found.add("task", "task", record.task, DATASET)
    found.add("labels", "labels", record.labels, DATASET)
    found.add("cases", "cases", record.cases, DATASET, missing=hidden)
    found.add("patients", "patients", record.patients, DATASET, missing=hidden)
    for name, (cases, patients) in sorted((record.splits or {}).items()):
        found.add(f"split/{name}", f"{name} split", f"{cases:,} cases of {patients:,} patients", DATASET)
    found.add("sites", "sites", record.sites, DATASET, missing=hidden)
    if record.attribute_found:
        words = "what retrained attackers find of the attribute that was hidden in the images"
        found.add("attribute_found", words, record.attribute_found, DATASET)
    return found.part()


def deid(evidence: EvidenceFolder) -> DossierPart:
    """Return what de-identification did, one archive after the other."""
    found = FactList(evidence, "deid", "De-identification")
    paths = evidence.below(DATA, "archive-*.json")
    if not paths:
        found.unknown("profile", "profile", "no de-identified archive was given to the dossier")
    for number, path in enumerate(paths, start=1):
        record = evidence.record(path, ArchiveExtract)
        if record is not None:
            _archive(found, record, path, f"{number}")
    return found.part()


def _archive(found: FactList, record: ArchiveExtract, path: str, name: str) -> None:
    hidden = HIDDEN if record.hidden else "the record does not state it"
    linked = "the dataset names the archive as its source"
    found.add(f"{name}/linked", linked, record.linked, path)
    found.add(f"{name}/profile", "profile", record.profile, path)
    found.add(f"{name}/options", "options of PS3.15", record.options, path, none="the profile alone")
    found.add(
        f"{name}/departures",
        "settings by which less is done than the profile says",
        record.departures,
        path,
        missing="none is recorded",
    )
    found.add(f"{name}/written", "instances written", record.files_written, path, missing=hidden)
    found.add(f"{name}/patients", "patients", record.patients, path, missing=hidden)
    found.add(f"{name}/quarantined", "files kept out", record.quarantined, path, missing=hidden)
    residual = "files kept out because the self-check found an identifier"
    found.add(f"{name}/residual", residual, record.residual_findings, path, missing=hidden)
    found.add(f"{name}/burned_in", UNSEARCHED, record.burned_in_unknown, path, missing=hidden)
    actions = [f"{letter}: {count:,}" for letter, count in sorted((record.actions or {}).items())]
    found.add(f"{name}/actions", "elements by action", actions, path, missing=hidden)
    found.add(f"{name}/version", "version of the program", record.made_with, path)
