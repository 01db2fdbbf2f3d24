"""A result says itself in words, JSON and HTML."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from meninx.core.result import Result


@dataclass(frozen=True, kw_only=True)
class Counted(Result):
    files_read: int
    skipped: dict[str, int] = field(default_factory=dict)
    dry_run: bool = False


def test_words_leave_out_what_is_empty():
    result = Counted(out=Path("clean"), files_read=3, skipped={"not-dicom": 1})
    assert result.summary() == "out: clean\nfiles read: 3\nskipped:\n  not-dicom              1"


def test_json_keeps_everything():
    table = json.loads(Counted(out=Path("clean"), files_read=3).to_json())
    assert table == {"out": "clean", "files_read": 3, "skipped": {}, "dry_run": False}


def test_html_escapes_what_it_shows():
    assert "<b>" not in Counted(out=Path("<b>"), files_read=0)._repr_html_()
