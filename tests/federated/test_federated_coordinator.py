"""The process of a coordinator without its sites: what it records, and whose run it conducts."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from meninx.core.progress import SILENT
from meninx.federated import coordinator_process, events
from meninx.federated.coordinator_process import Serving

HERE = Serving(host="127.0.0.1", port=0)


def test_refusals_and_doubtful_sums_are_in_the_signed_log_of_the_coordinator(consortium) -> None:
    consortium.approve_all()
    with coordinator_process._served(consortium.folder, HERE, "coordinator", SILENT, None) as office:
        office.emit(events.SiteRefused(site="east", reason="the budget is used up", code=4, final=True))
        office.emit(events.SumsDiffer(site="west", round=1, earlier=0))
        office.emit(events.SumRecomputed(site="north", round=1, share=0.5, matches=True))
        office.emit(events.SumRecomputed(site="north", round=2, share=0.5, matches=False))
    entries = [(entry.event, entry.details) for entry in consortium.folder.log().verify()][-3:]
    assert entries == [
        (
            "request refused",
            {"study": "chest", "site": "east", "reason": "the budget is used up", "final": True},
        ),
        ("sums differ by one site", {"study": "chest", "site": "west", "round": 1, "earlier": 0}),
        ("sum not confirmed", {"study": "chest", "site": "north", "round": 2, "share": 0.5}),
    ]
