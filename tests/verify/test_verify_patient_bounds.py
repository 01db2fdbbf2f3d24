"""Bounds for a patient with several cases: stated, derived again, and a changed number of cases is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audit_samples import record_of
from report_samples import write_dataset, write_run

from meninx.audit import bounds as audit_bounds
from meninx.audit import patient_bounds
from meninx.audit.bounds import run_bounds
from meninx.audit.config import BoundsConfig
from meninx.audit.verdict_lines import plain_sentences
from meninx.core import artifacts
from meninx.core.artifacts import DataRecord
from meninx.core.run import Run
from meninx.verify import audited_ledgers, bounds_checks

CONFIG = BoundsConfig(n_eps=2, eps_min=1.0, eps_max=8.0, deterministic=True)


def bounded(tmp_path, dataset=None, **fields):
    """Return a run per case on a dataset with two training cases per patient, and its bounds."""
    run = write_run(tmp_path / "run", private=True, noise=20.0, unit="case", dataset=dataset, **fields)
    if dataset is not None:
        known = artifacts.read(run, DataRecord)
        artifacts.write(run, replace(known, dataset=str(dataset)))
    return run, run_bounds(CONFIG, run / "audit", run=run).record


def wrong(run, record):
    """Return what the check of the bounds for a patient finds."""
    ledgers = audited_ledgers.of_run(Run(run), record_of(run))
    return list(bounds_checks._patient(record, ledgers))


def test_a_patient_with_two_cases_has_a_bound_of_its_own(tmp_path):
    run, record = bounded(tmp_path, dataset=write_dataset(tmp_path / "data"))
    assert (record.patient.cases, record.patient.reason) == (2, "")
    for rate, one in record.membership.tpr_at_fpr.items():
        assert one.upper < record.patient.tpr_at_fpr[rate] <= 1
    assert record.membership.advantage.upper < record.patient.advantage
    words = [item.words for item in audit_bounds.findings(record)]
    assert any("a patient with up to 2 cases" in text for text in words)
    assert not any("of the patients that took part" in text for text in words)
    sentences = plain_sentences(record, several=True)
    assert all("For all data of a patient with 2 cases" in item.words for item in sentences)
    assert not wrong(run, record)


@pytest.mark.parametrize("known", [True, False])
def test_where_the_number_of_cases_is_not_known_no_bound_is_given_and_the_reason_is(tmp_path, known):
    run, record = bounded(tmp_path, patients_known=known)
    reason = "is not at hand" if known else "does not name its patients"
    assert (record.patient.cases, record.patient.advantage, record.patient.success) == (0, None, {})
    found = [item for item in audit_bounds.findings(record) if item.key.startswith("bounds/patient-")]
    assert found
    assert all(item.value is None and reason in item.reason for item in found)
    assert not wrong(run, record)


def test_a_changed_number_of_cases_is_found(tmp_path):
    run, record = bounded(tmp_path, dataset=write_dataset(tmp_path / "data"))
    changed = replace(record, patient=replace(record.patient, cases=1))
    assert any("cases of a patient 1, by the dataset 2" in words for words in wrong(run, changed))
    known = artifacts.read(run, DataRecord)
    artifacts.write(run, replace(known, dataset=str(tmp_path / "gone")))
    assert not wrong(run, record)
    for cases in (1, 3):
        changed = replace(record, patient=replace(record.patient, cases=cases))
        assert any(f"a patient with {cases} cases" in words for words in wrong(run, changed))
    assert any("they are for a patient" in words for words in wrong(run, replace(record, patient=None)))
    lower = replace(record.patient, advantage=record.membership.advantage.lower / 2)
    assert any("below that for one case" in words for words in wrong(run, replace(record, patient=lower)))


def test_another_dataset_at_the_place_of_the_training_counts_no_cases(tmp_path):
    data = write_dataset(tmp_path / "data")
    run, _ = bounded(tmp_path, dataset=data)
    table = data / "manifest.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[::2]))
    assert patient_bounds.cases_of_a_patient(Run(run)) == 0
