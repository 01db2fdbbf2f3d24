"""The section on utility: external datasets beside the internal test, and cases of a segmentation."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import relist, write_evaluation, write_run

from meninx.core import artifacts
from meninx.core.artifacts import CaseValuesRecord, EvaluationRecord, RunRecord
from meninx.core.errors import DataError
from meninx.metrics.segmentation import evaluate_segmentation
from meninx.report import stage
from meninx.report.config import ReportConfig

CONFIG = ReportConfig(date="2026-11-20")


def page_of(root: Path, run: Path, config: ReportConfig = CONFIG) -> str:
    out = root / "page.html"
    stage.run(config.replace(overwrite=True), [run], out)
    return out.read_text()


def test_external_datasets_stand_beside_the_internal_test(tmp_path):
    run = write_run(tmp_path / "run", private=False)
    assert "internal test beside external validation" not in page_of(tmp_path, run)
    record = artifacts.require(run, RunRecord, fix="")
    for name in ("south", "east"):
        write_evaluation(run, record, private=True, external=name)
    page = page_of(tmp_path, run)
    start = page.index("internal test beside external validation</caption>")
    table = page[start : page.index("</table>", start)]
    heads = [head.strip() for head in re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)]
    assert heads == ["metric", "of", "own test split (cohort)", "east, test", "south, test"]
    own, external = (record_of(run, dataset) for dataset in ("", "south"))
    for evaluation in (own, external):
        row = next(item for item in evaluation["metrics"] if item["name"] == "auroc" and not item["label"])
        assert f"{row['value']:.3f}" in table
    assert "nothing was fitted on another dataset" in page


def test_datasets_of_one_name_have_titles_of_their_own(tmp_path):
    run = write_run(tmp_path / "run", private=False)
    record = artifacts.require(run, RunRecord, fix="")
    digests = ("ab" * 32, "ab" * 4 + "cd" * 28)
    for digest in digests:
        write_evaluation(run, record, private=True, external=digest, dataset="hospital")
    page = page_of(tmp_path, run)
    start = page.index("internal test beside external validation</caption>")
    table = page[start : page.index("</table>", start)]
    heads = [head.strip() for head in re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)]
    assert sorted(heads[3:]) == [f"hospital ({digest[:9]}), test" for digest in digests]
    captions = [" ".join(text.split()) for text in re.findall(r"<caption>(.*?)</caption>", page, re.DOTALL)]
    assert len(set(captions)) == len(captions)
    assert "Runs run and run" not in page


def test_one_external_dataset_is_not_shown_twice(tmp_path):
    run = write_run(tmp_path / "run", private=False)
    record = artifacts.require(run, RunRecord, fix="")
    for name in ("south", "south-again"):
        write_evaluation(run, record, private=True, external=name, data="ab" * 32, dataset="south")
    page = page_of(tmp_path, run)
    assert "The evaluation in evaluation-external-south.json of run run repeats that of" in page
    start = page.index("internal test beside external validation</caption>")
    assert page[start : page.index("</thead>", start)].count("south, test") == 1


def test_each_interval_is_named_by_how_it_was_made(tmp_path):
    run = write_run(tmp_path / "run", private=False)
    page = page_of(tmp_path, run)
    found = []
    for row in page.split("</tr>"):
        cells = re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
        found.append([" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in cells])
    rows = [cells for cells in found if len(cells) > 4]
    areas = [cells[3] for cells in rows if cells[0] == "AUROC"]
    rates = [cells[3] for cells in rows if cells[0] == "sensitivity" and cells[1] != "all labels"]
    assert areas
    assert rates
    assert all(ends.endswith("percentile") for ends in areas)
    assert all(ends.endswith("Clopper–Pearson") for ends in rates)


def test_an_unknown_kind_of_interval_is_refused(tmp_path):
    run = write_run(tmp_path / "run", private=False)
    path = run / artifacts.place(EvaluationRecord)
    path.write_text(path.read_text().replace('"percentile"', '"<b>exact</b>"'))
    relist(run)
    with pytest.raises(DataError, match="impossible numbers"):
        page_of(tmp_path, run)


def test_means_over_other_labels_are_not_compared(tmp_path):
    run = write_run(tmp_path / "run", private=False)
    path = write_evaluation(
        run, artifacts.require(run, RunRecord, fix=""), private=False, split="all", external="south"
    )
    record = artifacts.read_file(path, EvaluationRecord)
    table = record.evaluation
    kept = [row for row in table["metrics"] if row["label"] in ("", table["labels"][0])]
    artifacts.write(
        run,
        replace(record, evaluation={**table, "labels": table["labels"][:1], "metrics": kept}),
        split="all",
        dataset="south",
    )
    relist(run)
    page = page_of(tmp_path, run)
    start = page.index("internal test beside external validation</caption>")
    first = page[page.index("<tbody>", start) :].partition("</tr>")[0]
    assert "all labels" in first
    assert "–" in re.sub(r"\s", "", first)
    assert "all cases of south (another dataset" in page


def record_of(run: Path, dataset: str) -> dict:
    found = artifacts.read(run, EvaluationRecord, dataset=dataset)
    assert found is not None
    return found.evaluation


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    """A run with the evaluation of a segmentation on 40 test cases of 20 patients."""
    run = write_run(tmp_path / "run", private=False)
    path = run / artifacts.place(EvaluationRecord)
    record = artifacts.read_file(path, EvaluationRecord)
    dice = np.random.default_rng(0).uniform(0.4, 0.9, (40, 1))
    found = evaluate_segmentation(dice, np.arange(40) // 2, ["organ"], {}, seed=0, draws=50)
    artifacts.write(run, replace(record, evaluation=found.to_table(), thresholds_from=""))
    values = {"organ": tuple(sorted(dice[:, 0].tolist()))}
    artifacts.write(run, CaseValuesRecord(origin=record.origin, metric="dice", values=values), private=True)
    (run / "release" / "comparison.json").unlink(missing_ok=True)
    relist(run)
    return run


def test_the_dice_of_each_case_is_drawn_without_its_name(segmented, tmp_path):
    page = page_of(tmp_path, segmented)
    assert "Dice of each test case of run run in ascending order; organ: n = 40" in page
    assert "Dice of each test case" not in page_of(tmp_path, segmented, CONFIG.replace(case_plots=False))


def test_values_of_other_weights_are_not_drawn(segmented, tmp_path):
    record = artifacts.read(segmented, CaseValuesRecord, private=True)
    other = replace(record, origin=replace(record.origin, weights="0" * 64))
    artifacts.write(segmented, other, private=True)
    assert "Dice of each test case" not in page_of(tmp_path, segmented)


def test_values_that_cannot_be_are_refused(segmented, tmp_path):
    record = artifacts.read(segmented, CaseValuesRecord, private=True)
    artifacts.write(segmented, replace(record, values={"organ": (0.9, 1.2)}), private=True)
    with pytest.raises(DataError, match=r"case_values\.json"):
        page_of(tmp_path, segmented)
