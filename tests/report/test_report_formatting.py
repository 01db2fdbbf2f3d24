from __future__ import annotations

import math

import pytest

from meninx.metrics.estimates import Estimate
from meninx.report import figures, formatting, training_log


def estimate(value, low, high, name="auroc", note=""):
    return Estimate(name=name, value=value, low=low, high=high, n=10, patients=5, note=note)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (math.nan, "–"),
        (12345, "12,345"),
        (0.12345, "0.123"),
        (-0.5, "−0.5"),
        (math.inf, "infinite"),
        (True, "yes"),
        ("x", "x"),
    ],
)
def test_numbers(value, said):
    assert formatting.number(value) == said


def test_estimates_in_words():
    assert formatting.value(estimate(0.8126, 0.7, 0.9)) == "0.813"
    assert formatting.value(estimate(-0.01, -0.1, 0.1, "auroc_gap")) == "−0.010"
    assert formatting.interval(estimate(0, -0.0001, 0.1)) == "[0.000, 0.100]"
    assert formatting.value(estimate(math.nan, 0, 0, note="insufficient")) == "insufficient"
    assert formatting.interval(estimate(0.5, math.nan, math.nan)) == "–"


@pytest.mark.parametrize(
    ("value", "count"), [(3, 3), ([1, 2], 2), ({"a": 2, "b": 3}, 5), (None, None), ("x", None), (True, None)]
)
def test_totals(value, count):
    assert formatting.total(value) == count


def test_risk_in_sentences():
    assert "at most 80 %" in formatting.advantage_sentence(0.6, "patient")
    assert "1 of 100 patients" in formatting.recognition_sentence(0.01, 0.2, "patient")


def test_training_log_is_thinned_and_a_broken_last_line_is_left_out(tmp_path):
    log = tmp_path / "private" / "metrics.jsonl"
    log.parent.mkdir()
    lines = [
        f'{{"kind": "train", "step": {step}, "loss": 1.0, "ok": true, "bad key!": 1}}' for step in range(1000)
    ]
    log.write_text("\n".join([*lines, "[1]", '{"step": 1001, "lo']))
    found = training_log.read(log).curves
    assert set(found) == {"train loss"}
    assert len(found["train loss"]) == 200


def test_svg_loses_its_prologue_and_gets_own_ids():
    text = figures.lines(
        {"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)]}, name="x", alt='say "it" & <that>', across="s", up="l"
    )
    assert text.startswith('<svg role="img" aria-label="say &quot;it&quot; &amp; &lt;that&gt;"')
    for gone in ("xmlns", "http", "<?xml", "DOCTYPE", "metadata", "DejaVu"):
        assert gone not in text, gone
    assert 'id="x-figure_1"' in text


def test_a_forest_without_known_gaps_is_no_figure():
    assert figures.forest([estimate(math.nan, math.nan, math.nan)], name="f", limit=0.05, what="gap") == ""
