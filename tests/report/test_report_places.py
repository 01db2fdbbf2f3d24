"""Where a report may be written: it replaces an earlier page, and nothing else."""

from __future__ import annotations

import pytest
from report_samples import write_run

from meninx.core.errors import UsageError
from meninx.core.run import Run
from meninx.report import stage
from meninx.report.config import ReportConfig

OVERWRITE = ReportConfig(overwrite=True)


@pytest.fixture
def folder(tmp_path):
    """A finished private run whose private folder has a lock, as every run has."""
    made = write_run(tmp_path / "run", private=True, noise=0.8)
    with Run(made).lock():
        pass
    return made


@pytest.mark.parametrize(
    "name", ["private/ledger.jsonl", "private/new.html", "run.json", "config.toml", "release/notes.html",
             "release/model.pt"],
)  # fmt: skip
def test_a_report_replaces_no_file_that_is_no_page(folder, name):
    (folder / "release" / "notes.html").write_text("<html><title>Notes of a person</title></html>")
    (folder / "release" / "model.pt").write_bytes(b"weights")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"outside private folders|ends in \.html|is not a page of meninx"):
        stage.run(OVERWRITE, [folder], folder / name)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_report_replaces_an_earlier_page_when_asked(folder, tmp_path):
    page, link = tmp_path / "page.html", tmp_path / "link.html"
    stage.run(ReportConfig(), [folder], page)
    with pytest.raises(UsageError, match="exists already"):
        stage.run(ReportConfig(), [folder], page)
    assert stage.run(OVERWRITE, [folder], page).out == page
    link.symlink_to(page)
    with pytest.raises(UsageError, match="is not a page of meninx"):
        stage.run(OVERWRITE, [folder], link)
