"""A finding checks itself: numbers, reasons, and texts that must not claim too much."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest

from meninx.core import plain
from meninx.core.errors import DataError
from meninx.core.findings import Finding, claims_too_much, key_of, named, worst_colour

FOUND = Finding(
    key="membership/rmia/auc", line="measured", words="The attack tells 6 of 10 apart.", value=0.6, low=0.5,
    high=0.7, null=0.5, bound=0.8, n=120, colour="amber",
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "membership"},
        {"key": "membership/../../x"},
        {"key": "membership/Rmia"},
        {"key": "a/" + "b" * 300},
        {"line": "theory"},
        {"colour": "orange"},
        {"n": -1},
        {"n": 0},
        {"value": math.nan},
        {"null": math.inf},
        {"bound": -math.inf},
        {"low": 0.65},
        {"high": 0.55},
        {"low": None, "high": None},
        {"value": None},
        {"value": None, "low": None, "high": None},
        {"value": None, "low": None, "high": None, "reason": "too few", "colour": "green"},
        {"words": ""},
        {"words": "two\nlines"},
        {"words": "\u202eturned"},
        {"words": "x" * 601},
        {"words": "The data are anonymous."},
        {"reason": "The model is safe to publish."},
        {"counted": "<b>"},
    ],
)
def test_contradictions_are_refused(changes):
    with pytest.raises(DataError):
        replace(FOUND, **changes)


def test_a_finding_survives_its_file_and_is_checked_again():
    assert plain.from_json(plain.to_json(FOUND), Finding, where="x") == FOUND
    forged = asdict(FOUND) | {"words": "This model is anonymous."}
    with pytest.raises(DataError, match="claims more"):
        plain.from_json(plain.to_json(forged), Finding, where="x")


def test_no_message_quotes_a_text():
    with pytest.raises(DataError) as caught:
        replace(FOUND, words="Erika Mustermann is safe")
    assert "Erika" not in str(caught.value)


def test_a_number_states_what_it_rests_on():
    assert FOUND.label() == "0.6 (0.5 to 0.7), n = 120 patients"
    exact = replace(FOUND, value=0.1, low=0.1, high=0.1, n=0)
    assert exact.label() == "0.1 (exact)"
    assert replace(FOUND, high=None).label() == "0.6 (lower limit), n = 120 patients"
    none = replace(FOUND, value=None, low=None, high=None, reason="too few non-members", colour="grey")
    assert none.label() == "too few non-members"


def test_names_from_data_are_quoted_and_do_not_count_as_claims():
    assert not claims_too_much(f"site {named('Safe Harbor')}: AUC 0.6")
    assert claims_too_much("site Safe Harbor: AUC 0.6")
    assert named("a\x00b” is safe “") == "“a?b is safe”"
    assert key_of("attributes", "Größe/../x", "") == "attributes/gr-e-..-x/unnamed"


def test_the_worst_colour_wins():
    assert worst_colour(["grey", "green", "red", "amber"]) == "red"
    assert worst_colour([]) == "grey"
