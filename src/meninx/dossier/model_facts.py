"""Facts about the model, how well it works, and the program that trained it."""

from __future__ import annotations

import json

from meninx.core import integrity
from meninx.core.artifacts import BundleRecord, Environment, EvaluationRecord, RunRecord
from meninx.core.dossier_records import DossierPart
from meninx.dossier.facts import RELEASE, RUN, EvidenceFolder, FactList
from meninx.metrics.estimates import Estimate, Evaluation

RUN_RECORD, LIST = f"{RUN}/run.json", f"{RELEASE}/{integrity.CHECKSUMS}"
BUNDLE, EVALUATION = f"{RELEASE}/bundle/configs/meninx.json", f"{RELEASE}/evaluation.json"
ENVIRONMENT = f"{RUN}/environment.json"
_MOST = 40  # numbers of an evaluation


def model(evidence: EvidenceFolder) -> DossierPart:
    """Return what is to be released."""
    found = FactList(evidence, "model", "Model to be released")
    run = _run(evidence)
    found.add("run", "identity of the run", run.id, RUN_RECORD)
    found.add("weights", "SHA-256 of the released weights", run.weights, RUN_RECORD)
    found.add("step", "optimiser step of these weights", run.released_step or run.step, RUN_RECORD)
    found.add("checkpoint", "checkpoint that was released", run.selected, RUN_RECORD)
    found.add("finished", "released at the run's end", run.finished, RUN_RECORD)
    listed = integrity.read(evidence.root / RELEASE)
    found.add("files", "files of the release", len(listed), LIST)
    size = sum((evidence.root / RELEASE / name).stat().st_size for name in listed)
    found.add("bytes", "bytes of the release", size, LIST)
    bundle = evidence.record(BUNDLE, BundleRecord)
    if bundle is None:
        for key, words in (("task", "task"), ("labels", "labels"), ("network", "network")):
            found.unknown(key, words, "the release holds no bundle of meninx")
        return found.part()
    found.add("task", "task", bundle.info.task, BUNDLE)
    found.add("labels", "labels", bundle.info.labels, BUNDLE)
    found.add("network", "network and its settings", json.dumps(bundle.network, sort_keys=True), BUNDLE)
    found.add("loss", "loss", bundle.loss, BUNDLE)
    return found.part()


def utility(evidence: EvidenceFolder) -> DossierPart:
    """Return how well the model works on the test split."""
    found = FactList(evidence, "utility", "Performance on the test split")
    record = evidence.record(EVALUATION, EvaluationRecord)
    if record is None:
        found.unknown("test", "evaluation on the test split", "the release holds no evaluation")
        return found.part()
    evaluation = Evaluation.from_table(record.evaluation)
    run = _run(evidence)
    same = record.origin is not None and (record.origin.run, record.origin.weights) == (run.id, run.weights)
    found.add("belongs", "the evaluation measured these weights", same, EVALUATION)
    found.add("split", "split", evaluation.split, EVALUATION)
    found.add("cases", "cases measured", evaluation.n_cases, EVALUATION)
    found.add("patients", "patients measured", evaluation.n_patients, EVALUATION)
    unseen = "whether training saw measured patients was not compared"
    compared = True if record.patients_compared else None
    found.add("unseen", "no measured patient was in the training", compared, EVALUATION, missing=unseen)
    for item in evaluation.metrics[:_MOST]:
        found.add(
            _key(item),
            " of ".join(part for part in (item.name, item.label) if part),
            item.value,
            EVALUATION,
            limits=(item.low, item.high),
            remark=f"n = {item.n}, 95 % interval over {item.patients} patients",
            missing=item.note or "there are too few cases",
        )
    for item in evaluation.gaps[:_MOST]:
        words = f"{item.name} of {item.label or 'all labels'} between groups of {item.attribute}"
        limits = (item.low, item.high)
        missing = item.note or "there are too few cases"
        found.add(f"gap/{_key(item)}", words, item.value, EVALUATION, limits=limits, missing=missing)
    return found.part()


def environment(evidence: EvidenceFolder) -> DossierPart:
    """Return which program trained the model, on which kind of machine."""
    found = FactList(evidence, "environment", "Environment of the training")
    record = evidence.record(ENVIRONMENT, Environment)
    if record is None:
        found.unknown("versions", "versions", "the run has no record of its environment")
        return found.part()
    versions = [f"{name} {version}" for name, version in sorted(record.packages.items())]
    found.add("versions", "packages", versions, ENVIRONMENT)
    found.add("python", "Python", record.python, ENVIRONMENT)
    found.add("system", "operating system and processor", f"{record.system} {record.machine}", ENVIRONMENT)
    installed = "an installed package, not a checkout"
    found.add("source", "Git revision of the program", record.source, ENVIRONMENT, missing=installed)
    return found.part()


def _run(evidence: EvidenceFolder) -> RunRecord:
    from meninx.core import artifacts

    return artifacts.require(evidence.run.root, RunRecord, fix="ask for the whole dossier")


def _key(item: Estimate) -> str:
    parts = (item.name, item.label, item.attribute, item.group)
    return "/".join(part for part in parts if part)
