"""The section on federated training says who took part, who saw what, what failed and what was spent."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from meninx.core import artifacts
from meninx.core.errors import DataError
from meninx.core.federation import FederatedRecord, FederatedRound
from meninx.report import stage
from meninx.report.config import ReportConfig

SITES = ("east", "north", "south", "west")
ALL = FederatedRound(
    number=0, accepted=True, attempts=1, survivors=SITES, units=100, loss=0.61, received=4_000_000,
    seconds=2.5, recomputed=dict.fromkeys(SITES, 1.0),
)  # fmt: skip
WITHOUT = replace(ALL, number=1, survivors=("east", "north", "west"), missing=("south",), units=70, cut=0.02)
LOST = replace(
    ALL, number=2, accepted=False, survivors=(), missing=SITES, units=0, loss=None, recomputed={}, attempts=2,
    words="the sum could not be opened",
)  # fmt: skip
STUDY = FederatedRecord(
    study="chest", run="r1", digest="a" * 64, layout="b" * 64, model="c" * 64, algorithm="fedavg",
    aggregation="masks", sites=SITES, quorum=3, colluders=1, sentence="Up to 1 site may collude.",
    finished=True, private=True, delta=1e-4, epsilon={"east": 3.2, "north": 7.9, "west": 4.0},
    refusals={"south": "the privacy budget of this site is used up <script>"}, rounds=(ALL, WITHOUT, LOST),
)  # fmt: skip


def page(folder: Path, study: FederatedRecord) -> str:
    """Return the page's text on a study."""
    artifacts.write(folder, study)
    out = folder.parent / f"{folder.name}.html"
    stage.run(ReportConfig(), [folder], out)
    html = out.read_text()
    assert "<script>" not in html
    start = html.index('id="federated"')
    text = re.sub(r"<[^>]+>", " ", html[start : html.index("</section", start)])
    return re.sub(r"\s+", " ", text.replace("\u00a0", " "))


def test_the_page_says_who_took_part_what_failed_and_what_was_spent(tmp_path: Path) -> None:
    text = page(tmp_path / "study", STUDY)
    assert "4 sites trained study chest together: 2 rounds gave a model. 1 failed" in text
    assert "Up to 1 site may collude." in text
    assert "epsilon of the worst site 7.9 at north, delta 0.0001; 1 sites did not report" in text
    assert "left: the privacy budget of this site is used up" in text
    assert "2, each by 4 or more (whole)" in text
    assert "without south; 2 % of the changes were cut" in text
    assert "no model: the sum could not be opened" in text
    assert "The sums of rounds 1 and 2 differ by south alone" in text
    assert "is bounded by differential privacy alone" in text


def test_without_privacy_and_aggregation_the_page_promises_nothing(tmp_path: Path) -> None:
    plain = replace(
        STUDY, aggregation="plain", private=False, colluders=None, epsilon={}, simulated=True, finished=False,
        sentence="Nothing is hidden from the coordinator.", rounds=(ALL,), refusals={},
    )  # fmt: skip
    text = page(tmp_path / "study", plain)
    assert "none: the coordinator sees every update" in text
    assert "nothing bounds what the model, or the sums, tell about patients" in text
    assert "a simulation" in text
    assert "The study is not finished." in text
    assert "no privacy" in text
    assert "worst site" not in text


def test_a_damaged_record_of_a_study_is_refused(tmp_path: Path) -> None:
    path = artifacts.write(tmp_path, STUDY)
    path.write_text(path.read_text().replace('"quorum": 3', '"quorum": "many"'))
    with pytest.raises(DataError, match=r"federated\.json"):
        stage.run(ReportConfig(), [tmp_path], tmp_path / "page.html")


def test_the_worst_site_and_differing_sums_follow_from_the_record() -> None:
    assert STUDY.worst == ("north", 7.9)
    assert STUDY.differing == ((0, 1, "south"),)
    assert replace(STUDY, epsilon={"east": None}).worst is None
