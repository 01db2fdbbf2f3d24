"""The page as its reader gets it: one file, whole, honest, and nothing in it that must stay inside."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from report_samples import PLANTED, relist, write_all, write_dataset, write_deid, write_run

from meninx.core.artifacts import EvaluationRecord, place
from meninx.core.errors import ConfigError, DataError, UsageError
from meninx.report import stage
from meninx.report.config import ReportConfig

VOID = {"meta", "br", "hr", "img", "link", "input", "wbr"}
CONFIG = ReportConfig(date="2026-11-20")


class Page(HTMLParser):
    """Checks nesting, collects ids, links, text and rows of estimates."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.text, self.rows, self.tags = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "src") if key in values]
        if tag == "tr" and values.get("class") == "estimate":
            self.rows.append([])
        if tag in ("td", "th") and "data-label" in values and any(t == ("tr", "estimate") for t in self.open):
            self.rows[-1].append([values["data-label"], ""])
        if tag not in VOID:
            self.open.append((tag, values.get("class", "")))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open[-1][0] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)
        if self.rows and any(t == ("tr", "estimate") for t in self.open) and self.rows[-1]:
            self.rows[-1][-1][1] += f" {data.strip()}" if data.strip() else ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    result = stage.run(CONFIG, write_all(root), root / "report.html")
    return result, (root / "report.html").read_text()


def test_one_file_without_script_or_address(whole):
    result, text = whole
    assert result.size == len(text.encode()) < 2_000_000
    assert "<script" not in text.lower()
    assert "http" not in text.lower()
    assert not re.search(r"\bon\w+=|@import|url\((?!#)", text)
    assert all(link.startswith("#") for link in Page(text).links)


def test_html_is_well_formed_and_links_arrive(whole):
    page = Page(whole[1])
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    references = re.findall(r"url\(#([^)]+)\)", whole[1])
    assert references
    assert set(references) <= set(page.ids)
    assert whole[1].startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in page.tags


def test_sections_come_in_the_order_a_reader_needs(whole):
    anchors = re.findall(r'<section id="(\w+)"', whole[1])
    assert anchors == [
        "verdict",
        "done",
        "deid",
        "utility",
        "privacy",
        "audit",
        "fairness",
        "limits",
        "reproduction",
    ]


def test_every_estimate_has_interval_n_and_patients(whole):
    rows = Page(whole[1]).rows
    assert len(rows) > 50
    for cells in rows:
        names = [name for name, _ in cells]
        said = dict(cells)
        assert re.match(r" [\d,]+", said["n cases"]), cells
        assert re.match(r" [\d,]+", said["patients"]), cells
        if "95 % interval" in names:
            known = re.match(r" [+−]?\d", said["value"])
            assert bool(known) == bool(re.match(r" \[.*, .*\]", said["95 % interval"])), cells
        else:
            numbers = [
                text for name, text in cells if name not in ("group", "n cases", "patients", "verdict")
            ]
            assert all(text in (" –", " insufficient") or re.search(r"\d \[", text) for text in numbers), (
                cells
            )


def test_every_colour_is_a_word_beside_its_value_and_limit(whole):
    for card in re.findall(
        r'<li class="card (\w+)">(.*?)</li>', whole[1].replace("<wbr>", ""), flags=re.DOTALL
    ):
        colour, body = card
        assert f'<span class="tone">{colour}:</span>' in body
        for part in ("question", "value", "detail", "limit"):
            assert re.search(rf'<span class="{part}">[^<]+</span>', body), (part, body)
    assert len(re.findall('class="card ', whole[1])) == 6


def test_figures_have_words_and_take_the_page_colours(whole):
    figures = re.findall(r"<svg[^>]*>", whole[1])
    assert len(figures) >= 8
    for figure in figures:
        assert 'role="img"' in figure
        assert len(re.search(r'aria-label="([^"]*)"', figure).group(1)) > 20
    assert "currentColor" in whole[1]
    assert "#010203" not in whole[1]
    assert "prefers-color-scheme: dark" in whole[1]
    assert "@media print" in whole[1]


def test_nothing_planted_in_private_files_or_manifest_is_on_the_page(whole):
    result, text = whole
    assert PLANTED not in text
    assert "erika" not in text.lower()
    assert PLANTED not in result.to_json()


def test_what_was_not_checked_is_said(whole):
    text = " ".join(" ".join(Page(whole[1]).text).split())
    for words in (
        "Pixels were NOT checked",
        "No attack was carried out",
        "outside the guarantee",
        "Outside the guarantee: the choice",
        "not given here are not counted",
    ):
        assert words in text
    assert "recognises at most 9.55 %" in text  # from the ledger, not from the record


def test_counts_and_plan_are_on_the_page(whole):
    text = " ".join(" ".join(Page(whole[1]).text).split())
    for words in (
        "288 files",
        "120 cases",
        "60 patients",
        "retain-modified-dates",
        "add-or-remove-one",
        "unreadable",
    ):
        assert words in text
    assert "AUROC difference" in text
    assert "NOT FOR RELEASE" not in text


def test_page_is_the_same_twice(tmp_path):
    sources = [write_run(tmp_path / "run", private=True)]
    for name in ("a.html", "b.html"):
        stage.run(CONFIG, sources, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_summary_is_text_without_lists(whole):
    said = whole[0].summary().splitlines()
    assert "Privacy of training?      amber: moderate" in said
    assert not any("[" in line or "'" in line for line in said)


def test_a_stamped_run_gets_the_banner_and_a_red_card(tmp_path):
    run = write_run(tmp_path / "run", private=True, deterministic=True)
    result = stage.run(CONFIG, [run], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "<strong>NOT FOR RELEASE</strong>" in text
    assert result.verdicts["Privacy of training?"].startswith("red")
    assert result.verdicts["Attack risk?"].startswith("red")
    assert "came from a SEED" in text


@pytest.mark.parametrize(("noise", "colour"), [(8.0, "green"), (1.0, "amber"), (0.45, "red")])
def test_epsilon_is_held_against_the_limits(tmp_path, noise, colour):
    result = stage.run(CONFIG, [write_run(tmp_path / "run", private=True, noise=noise)], tmp_path / "r.html")
    assert result.verdicts["Privacy of training?"].startswith(colour)


def test_findings_are_red_and_unread_pixels_are_never_green(tmp_path):
    leak = write_deid(tmp_path / "leak", "north", residual_findings=2)
    assert (
        stage.run(CONFIG, [leak], tmp_path / "1.html").verdicts["Identifiers removed?"]
        == "red: identifiers found"
    )
    clean = write_deid(tmp_path / "clean", "north", burned_in_unknown=0, flagged={})
    result = stage.run(CONFIG, [clean], tmp_path / "2.html")
    assert result.verdicts["Identifiers removed?"] == "amber: pixels not checked"
    assert "NOT checked" in (tmp_path / "2.html").read_text()
    read = {
        "burned_in_unknown": 0,
        "flagged": {},
        "pixels": "redact",
        "pixels_searched": 7,
        "pixels_redacted": 3,
    }
    searched = write_deid(tmp_path / "searched", "north", **read)
    result = stage.run(CONFIG, [searched], tmp_path / "3.html")
    assert result.verdicts["Identifiers removed?"] == "green: none found"
    text = (tmp_path / "3.html").read_text()
    assert "NOT checked" not in text
    assert "7 images, text redacted in 3" in text
    assert "Review at" not in text
    review = {"layouts": {"accept": 2, "not-reviewed": 1}, "images": {"accept": 6, "not-reviewed": 1}}
    reviewed = write_deid(tmp_path / "reviewed", "north", **read, review=review | {"persons": {"2": 2}})
    stage.run(CONFIG, [reviewed], tmp_path / "5.html")
    text = (tmp_path / "5.html").read_text()
    assert "Review at north: 2 of 3 layouts decided (6 of 7 images), each by 2 persons" in text
    assert "NOT reviewed: 1 layout" in text
    read |= {"images": 9, "quarantined": {"refused-in-review": 4, "video": 1}}
    stage.run(CONFIG, [write_deid(tmp_path / "kept out", "north", **read)], tmp_path / "6.html")
    text = (tmp_path / "6.html").read_text()
    assert "11 images, text redacted in 3, 4 kept out. 2 of 13 images were not searched for text." in text
    assert "the pixels of the 11 images that may hold text (3 redacted, 4 kept out)" in text
    both = stage.run(CONFIG, [searched, clean], tmp_path / "4.html")  # one archive without a search
    assert both.verdicts["Identifiers removed?"] == "amber: pixels not checked"


def test_missing_pieces_are_said_never_invented(tmp_path):
    run = write_run(tmp_path / "run", private=False)
    (run / place(EvaluationRecord)).unlink()
    relist(run)
    (run / "environment.json").unlink()
    result = stage.run(CONFIG, [run], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert len(result.missing) == 5
    assert all(sentence in text for sentence in result.missing)
    assert result.verdicts["Privacy of training?"] == "red: not private"
    assert result.verdicts["Useful?"].startswith("grey")
    Page(text)


def test_folders_of_folders_are_looked_through(tmp_path):
    write_all(tmp_path / "project")
    (tmp_path / "project" / "runs" / "latest").symlink_to("cxr_s0")
    result = stage.run(CONFIG, [tmp_path / "project"], tmp_path)
    assert result.out == tmp_path / "report.html"
    assert result.out.read_text().count("config.toml of run") == 2


def test_text_from_files_is_escaped(tmp_path):
    folder = write_deid(tmp_path / "d", "<script>alert(1)</script>")
    stage.run(CONFIG, [folder], tmp_path / "r.html")
    assert "<script" not in (tmp_path / "r.html").read_text()


def test_nothing_is_overwritten_unless_asked(tmp_path):
    source = write_dataset(tmp_path / "d")
    stage.run(CONFIG, [source], tmp_path / "r.html")
    with pytest.raises(UsageError, match="--overwrite"):
        stage.run(CONFIG, [source], tmp_path / "r.html")
    stage.run(ReportConfig(overwrite=True), [source], tmp_path / "r.html")


def test_bad_sources_are_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        stage.run(CONFIG, [tmp_path / "nowhere"], tmp_path / "r.html")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "deid.json").write_text("{")
    with pytest.raises(DataError, match=r"deid\.json"):
        stage.run(CONFIG, [tmp_path / "d"], tmp_path / "r.html")
    run = write_run(tmp_path / "run", private=True)
    (run / place(EvaluationRecord)).write_text("{")
    with pytest.raises(DataError, match=r"evaluation\.json"):
        stage.run(CONFIG, [run], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("bad", [{"epsilon_amber": 20.0}, {"attack_red": 2.0}, {"gap_limit": 0.0}])
def test_limits_are_checked(bad):
    with pytest.raises(ConfigError):
        ReportConfig(**bad)


def test_the_page_does_not_lie_in_a_dataset_or_an_archive(tmp_path):
    paths = [write_dataset(tmp_path / "data"), write_deid(tmp_path / "archive", "north")]
    for path in paths:
        for out in (path, path / "page.html", path / "images" / "page.html"):
            with pytest.raises(UsageError, match=r"inside|outside the source"):
                stage.run(CONFIG, paths, out)
    assert not list(tmp_path.rglob("*.html"))
    assert stage.run(CONFIG, paths, tmp_path / "page.html").size


def test_a_run_without_validation_cases_stands_out(tmp_path):
    data = write_dataset(tmp_path / "data")
    run = write_run(tmp_path / "run", private=False, dataset=data)
    said = "Run run: the validation split was empty: no thresholds, no model selection."
    stage.run(CONFIG, [data, run], tmp_path / "page.html")
    assert said not in (tmp_path / "page.html").read_text()
    stage.run(CONFIG, [run], tmp_path / "alone.html")  # by the members alone
    page = (tmp_path / "alone.html").read_text()
    assert f'<p class="caution">{said}</p>' in page
    assert ".caution {" in page
