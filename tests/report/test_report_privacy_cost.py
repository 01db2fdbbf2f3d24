"""The page answers whether privacy costs some groups more, and the card decides by the same rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_samples import LABELS, cohort, edit, relist, write_comparison, write_run

from meninx.core.artifacts import ComparisonRecord, RunRecord, place
from meninx.core.errors import DataError
from meninx.metrics.paired_difference import compare
from meninx.report import stage
from meninx.report.config import ReportConfig

CONFIG = ReportConfig(date="2026-11-20")
CARD = "Fair to groups?"


def pair(root: Path) -> list[Path]:
    runs = [write_run(root / "dp", private=True), write_run(root / "plain", private=False)]
    write_comparison(*runs)
    return runs


def reported(root: Path, runs: list[Path]):
    result = stage.run(CONFIG.replace(overwrite=True), runs, root / "report.html")
    return result, " ".join((root / "report.html").read_text().replace("<wbr>", "").split())


def with_differences(run: Path, numbers) -> None:
    """Set value, interval and p-value of each group's difference in the record of a comparison."""
    path = run / place(ComparisonRecord)
    table = json.loads(path.read_text())
    for row in table["differences"]:
        if row["name"] in ("auroc_gap_difference", "auroc_trend_difference") and row["value"] is not None:
            row.update(zip(("value", "low", "high", "p_holm"), numbers, strict=True))
    edit(path, **table)
    relist(run)


def test_every_label_and_group_has_a_row_with_interval_and_verdict(tmp_path):
    runs = pair(tmp_path)
    _, text = reported(tmp_path, runs)
    assert "Does privacy cost some groups more? Run dp" in text
    rows = json.loads((runs[0] / place(ComparisonRecord)).read_text())["differences"]
    cells = {(row["label"], row["group"]) for row in rows if row["attribute"] == "sex"}
    assert {label for label, _ in cells} == {"", *LABELS}
    table = text[text.index("Does privacy cost some groups more? Run dp minus plain") :]
    for label in LABELS:
        for group in ("F", "M"):
            assert f"sex {group}" in table
        assert label in table
    assert "not decided (needs about" in table
    assert "AUROC lost to privacy by each group minus that of all others" in text
    assert "ROC curve of" in text
    assert "by sex: run dp" in text
    assert "calibration by group" in text
    assert "One run each" in text


@pytest.mark.parametrize(
    ("numbers", "word", "said"),
    [
        ((-0.2, -0.3, -0.1, 1e-6), "amplified", "this group loses more"),
        ((0.0, -0.01, 0.01, 1.0), "some groups too small", "not amplified (within ±0.02)"),
        ((0.0, -0.1, 0.1, 1.0), "not decided", "needs about"),
        ((-0.1, -0.19, -0.01, 0.2), "not decided", "needs about"),
    ],
)
def test_the_card_decides_by_the_rule_of_the_table(numbers, word, said, tmp_path):
    runs = pair(tmp_path)
    with_differences(runs[0], numbers)
    result, text = reported(tmp_path, runs)
    assert result.verdicts[CARD].endswith(word), result.verdicts
    card = text[text.index(CARD) :][:1500]
    assert said in card
    assert "gaps of the run itself" in card


def test_an_amplified_loss_of_one_run_is_not_hidden_behind_a_later_run(tmp_path):
    runs = pair(tmp_path)
    with_differences(runs[0], (-0.2, -0.3, -0.1, 1e-6))
    later = write_run(tmp_path / "later", private=True)
    edit(later / place(RunRecord), finished="2026-11-21T11:00:00+00:00")
    relist(later)
    result, text = reported(tmp_path, [*runs, later])
    assert result.verdicts[CARD].endswith("amplified")
    assert "run dp against plain" in text[text.index(CARD) :][:1500]


def test_without_a_comparison_the_card_judges_the_run_alone(tmp_path):
    run = write_run(tmp_path / "dp", private=True)
    result, text = reported(tmp_path, [run])
    assert result.verdicts[CARD].endswith("not decided")
    assert "Does privacy cost" not in text


def repeated(run: Path, **change: object) -> None:
    """Write a second pair into the record of a comparison, with values of both pairs."""
    path = run / place(ComparisonRecord)
    table = json.loads(path.read_text())
    other = [{**table[name], "run": digit * 32} for name, digit in (("origin", "a"), ("baseline", "b"))]
    one = {"run": other[0], "baseline": other[1], "run_name": "dp-1", "baseline_name": "plain-1"}
    one.update(change)
    for row in table["differences"]:
        row["by_run"] = [] if row["value"] is None else [row["value"], row["value"]]
    edit(path, **{**table, "repeats": [one]})
    relist(run)


def test_pairs_of_several_seeds_are_named_with_their_range(tmp_path):
    runs = pair(tmp_path)
    repeated(runs[0])
    _, text = reported(tmp_path, runs)
    assert "Mean over 2 pairs of runs with different seeds" in text
    assert "dp-1 minus plain-1" in text
    assert "; seeds " in text


@pytest.mark.parametrize("wrong", ["split", "same run", "values"])
def test_a_record_of_pairs_that_do_not_belong_is_refused(wrong, tmp_path):
    runs = pair(tmp_path)
    repeated(runs[0])
    path = runs[0] / place(ComparisonRecord)
    table = json.loads(path.read_text())
    if wrong == "split":
        table["repeats"][0]["run"]["split"] = "valid"
    elif wrong == "same run":
        table["repeats"][0]["run"]["run"] = table["origin"]["run"]
    else:
        table["differences"][0]["by_run"] = [0.1]
    edit(path, **table)
    relist(runs[0])
    with pytest.raises(DataError, match="pairs of runs that do not belong"):
        reported(tmp_path, runs)


def test_a_planted_cost_is_found_on_the_way_to_the_page(tmp_path):
    """Noise for women alone in the private scores is called amplified, and nothing is without it."""
    truth, _, scores, patients, attributes = cohort()
    female = (np.array(attributes["sex"]) == "F")[:, None]
    spoilt = np.where(female, np.random.default_rng(0).random(scores.shape), scores)
    common = {"task": "multilabel", "seed": 0, "draws": 200}
    runs = pair(tmp_path)
    for private, word in ((spoilt, "amplified"), (scores, "some groups too small")):
        rows = compare(private, scores, truth, patients, LABELS, attributes, **common)
        edit(runs[0] / place(ComparisonRecord), differences=[row.to_table() for row in rows])
        relist(runs[0])
        result, _ = reported(tmp_path, runs)
        assert result.verdicts[CARD].endswith(word)
