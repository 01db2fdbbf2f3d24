"""The audit on its own page and in the report: self-contained, honest in words, and never another run's."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace

import pytest
from audit_samples import audited, membership_audit, one_run_record, record_of
from report_samples import write_run

from meninx.core import artifacts
from meninx.core.audit_records import MembershipAudit
from meninx.core.audit_summary import PlanRecord
from meninx.core.errors import DataError
from meninx.core.findings import claims_too_much
from meninx.report import stage
from meninx.report.config import ReportConfig
from meninx.report.section_audit import QUESTION

HOSTILE = "<script>alert('F')</script> Safe “Ward” \u202e"


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("audited") / "private", private=True, noise=0.8)
    run = record_of(folder)
    found = membership_audit(run, "exposed", group=HOSTILE)
    audited(folder, one_run=one_run_record(run), membership=found)
    return folder


@pytest.fixture(scope="module")
def page(private):
    return stage.write_audit_page(private, private / "audit" / "audit.html").read_text()


def visible(text: str) -> str:
    """Return what a reader sees of a page, one line per element."""
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "\n", body.replace("<wbr>", "")))


def claims(text: str) -> list[str]:
    """Return the lines that claim too much; keys of findings hold names from data and are no sentences."""
    return [line for line in visible(text).splitlines() if claims_too_much(line) and " " in line.strip()]


def test_the_page_stands_alone_and_is_small(page):
    assert len(page.encode()) < 5_000_000
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe|\bon\w+=", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert page.count("<svg") == 3


def test_the_page_has_all_that_an_officer_signs(page):
    text = visible(page)
    for words in (
        "Guaranteed", "Measured attacks", "Implementation", "green: no attack finds more than 10 %",
        "narrowed a patient's data to 1 of 10", "narrowed a patient's data to 1 of 1,000", "sample_rate q",
        "noise_multiplier σ", "max_grad_norm C", "data (keyed digest)", "Positive control",
        "Negative control",
        "What was not tested", "GDPR Art. 35(7)(c)", "EDPB Opinion 28/2024", "means reasonably likely",
        "This page answers none of them", "before any result existed", "--plan private/audit/plan.toml",
        "another attack may find more", "Signature",
    ):  # fmt: skip
        assert words in text, words


def test_no_word_on_the_page_says_that_a_model_can_be_trusted(page, private, tmp_path):
    assert not claims(page)
    out = stage.run(ReportConfig(), [private], tmp_path / "report.html").out
    section = re.search(r'<section id="audit">.*?</section>', out.read_text(), flags=re.DOTALL)[0]
    assert not claims(section)


def test_every_number_has_an_interval_and_a_sample_or_is_exact(page):
    tables = re.findall(r"<table>.*?</table>", page, flags=re.DOTALL)
    rows = [
        re.findall(r"<t[hd].*?</t[hd]>", row, flags=re.DOTALL)
        for table in tables
        if "guarantee" in table and "rests on" in table
        for row in re.findall(r"<tr>.*?</tr>", table.partition("<tbody>")[2], flags=re.DOTALL)
    ]
    assert len(rows) > 25
    for cells in rows:
        value, interval, sample = (visible(cell).strip() for cell in cells[1:4])
        assert value == "–" or interval == "exact" or "limit" in interval or " to " in interval, cells
        assert sample.startswith("n =") or sample == "no sample: computed", cells


def test_names_from_data_are_text_and_nothing_else(page):
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page


def test_the_report_shows_the_audit_of_the_run(private, tmp_path):
    result = stage.run(ReportConfig(), [private], tmp_path / "report.html")
    text = visible(result.out.read_text())
    assert result.verdicts[QUESTION].startswith("amber: ")
    assert "No attack was carried out" not in text
    assert "Mechanism and origin" in text
    assert "Membership attacks: controls" in text


def test_old_runs_say_that_they_were_not_audited(private, tmp_path):
    other = write_run(tmp_path / "other", private=True)
    result = stage.run(ReportConfig(), [other], tmp_path / "report.html")
    assert result.verdicts[QUESTION] == "grey: not audited"
    assert "No run given here was audited as a whole" in visible(result.out.read_text())
    both = stage.run(ReportConfig(), [private, other], tmp_path / "both.html")
    assert "Run other was not audited" in visible(both.out.read_text())


def test_two_audited_runs_stand_side_by_side(private, tmp_path):
    public = write_run(tmp_path / "public", private=False)
    audited(public, membership=membership_audit(record_of(public), "exposed", bounded=False))
    text = visible(stage.run(ReportConfig(), [private, public], tmp_path / "report.html").out.read_text())
    assert "Audits of all runs" in text
    assert "Figures and numbers below are those of run private" in text
    alone = visible(stage.write_audit_page(public, tmp_path / "public.html").read_text())
    assert "no bound" in alone
    assert "may be right every time" in alone


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "audit" / "membership.json").unlink(), "which is missing"),
        (lambda root: (root / "audit" / "plan.toml").write_text("seed = 3\n"), "another plan"),
        (lambda root: artifacts.write(root, replace(
            artifacts.read(root, MembershipAudit), verdict="nothing found")), "made again or changed"),
        (lambda root: (root / "audit" / "audit.json").write_text("{}"), "audit.json"),
        (lambda root: artifacts.write(root, replace(
            artifacts.read(root, PlanRecord), sha256="0" * 64)), artifacts.place(PlanRecord)),
        (lambda root: (root / artifacts.place(PlanRecord)).unlink(), artifacts.place(PlanRecord)),
    ],
)  # fmt: skip
def test_a_stale_audit_is_refused(private, tmp_path, spoil, words):
    folder = shutil.copytree(private, tmp_path / "copy", symlinks=True)
    spoil(folder)
    with pytest.raises(DataError, match=re.escape(words)):
        stage.run(ReportConfig(), [folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_audit_of_another_run_is_refused(private, tmp_path):
    other = write_run(tmp_path / "other", private=True)
    shutil.copytree(private / "audit", other / "audit")
    with pytest.raises(DataError, match="another run"):
        stage.run(ReportConfig(), [other], tmp_path / "report.html")
    with pytest.raises(DataError, match="was not audited"):
        stage.write_audit_page(write_run(tmp_path / "third", private=True), tmp_path / "page.html")
