"""Shares as per cent: one formatter, no exponents, nothing rounded to certainty."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import meninx
from meninx.core.percentages import at_most, axis_mark, percent

_OWN_FORMAT = re.compile(r"\{100 \* [^{}]*:\.?\d*g\}[^\n]{0,3}%")
_COARSE = {"core/percentages.py", "federated/event_words.py", "prepare/checks.py", "learn/pretrained.py"}


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "0 %"),
        (1e-9, "< 0.0001 %"),
        (1e-6, "0.0001 %"),
        (2.18e-6, "0.0002 %"),
        (0.004, "0.4 %"),
        (0.0123, "1.23 %"),
        (0.5, "50 %"),
        (0.9994, "99.9 %"),
        (0.99951, "> 99.9 %"),
        (1.0, "100 %"),
        (12.0, "1,200 %"),
        (-0.05, "-5 %"),
        (math.nan, "not known"),
        (math.inf, "infinite"),
    ],
)
def test_a_share_in_per_cent(share, words):
    assert percent(share) == words


@given(st.floats(min_value=0, max_value=1))
def test_no_share_has_an_exponent_or_becomes_certain(share):
    words = percent(share)
    assert "e" not in words
    assert (words == "0 %") == (share == 0)
    assert (words == "100 %") == (share == 1)


@given(st.floats(min_value=1e-10, max_value=1))
def test_no_mark_of_an_axis_has_an_exponent(share):
    assert "e" not in axis_mark(share)
    assert float(axis_mark(share).removesuffix(" %")) == pytest.approx(100 * share, abs=1e-12)


def test_no_other_module_formats_shares_of_its_own():
    root = Path(meninx.__file__).parent
    own = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if _OWN_FORMAT.search(path.read_text(encoding="utf-8"))
    }
    assert own <= _COARSE


@given(st.floats(0, 20))
def test_limits_are_never_rounded_down(share):
    most = float(at_most(share)[:-2].replace(",", "")) / 100
    assert share <= most * (1 + 1e-9)
    assert most - share <= max(0.011 * share, 1.1e-6)
