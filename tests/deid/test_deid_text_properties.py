from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.deid.wording.text import clean_text

NEGATIONS = ("without", "W/O", "no", "NON", "w/wo", "before")
SIDES = ("LEFT", "right", "LT", "BILATERAL")
PLACES = ("CHEST", "abdomen", "pelvis", "FOREARM")
OTHERS = ("AX", "T2", "3mm", "AND", "contrast", "NODULE", "C", "12", "Head", "B30f")
UNKNOWN = ("Quillfeather", "Marigold", "Zweygardt", "Qx77131", "\u014cnishi", "Nguy\u1ec5n", "Sm\u0131thers")
JOINS = st.sampled_from([" ", "_", "-", "/", "^", ", ", " - ", ": "])
WORDS = st.sampled_from([*NEGATIONS, *SIDES, *PLACES, *OTHERS, *UNKNOWN])
TEXTS = st.lists(st.tuples(WORDS, JOINS), min_size=1, max_size=9).map(
    lambda parts: "".join(map("".join, parts))
)
INSIDE = st.sampled_from([" ", "_", "-", "/", "^"])  # what does not end a phrase
PHRASES = st.lists(st.tuples(WORDS, INSIDE), min_size=1, max_size=9).map(
    lambda parts: "".join(map("".join, parts))
)
LETTERS = st.sampled_from("ABCDEFGHIJKLMNOPRSTVZ")
DIGITS = st.integers(10**5, 10**9 - 1)
PEOPLE = st.one_of(
    st.tuples(st.sampled_from(UNKNOWN), st.sampled_from(["^", "_", ", ", " ", "-"]), st.sampled_from(UNKNOWN)).map("".join),  # noqa: E501
    st.tuples(LETTERS, st.sampled_from([". ", "."]), st.sampled_from(UNKNOWN)).map("".join),
    st.tuples(LETTERS, LETTERS).map(lambda pair: f"{pair[0]}.{pair[1]}."),
    st.tuples(st.sampled_from(["", "MRN", "MRN-", "ID_"]), DIGITS).map(lambda pair: f"{pair[0]}{pair[1]}"),
    st.tuples(st.integers(1, 28), st.sampled_from(["Jan", "March", "Sept"]), st.integers(1930, 2020)).map(
        lambda day: f"{day[0]} {day[1]} {day[2]}"
    ),
    DIGITS.map(lambda number: f"x{number}@hospital.org"),
)  # fmt: skip


def tokens(text):
    return re.findall(r"w/(?:wo|o)(?![^\W_])|[^\W_]+", text.casefold())


@given(PHRASES)
@settings(max_examples=300, deadline=None)
def test_no_negation_and_no_side_is_dropped_while_what_it_stands_before_stays(text):
    before, after = tokens(text), tokens(clean_text(text))
    for word in {word.casefold() for word in PLACES}:
        if before.count(word) != 1 or word not in after:
            continue
        at = before.index(word)
        said = {word.casefold() for word in (*NEGATIONS, *SIDES)}
        if at and before[at - 1] in said:
            assert after[: after.index(word)][-1:] == [before[at - 1]], clean_text(text)


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_a_clean_text_is_clean(text):
    clean = clean_text(text)
    assert clean_text(clean) == clean


@given(TEXTS, TEXTS)
@settings(max_examples=200, deadline=None)
def test_two_descriptions_never_become_one(first, second):
    one, other = first.strip(), second.strip()
    clean = {clean_text(text, keyed=lambda text: text.encode().hex()) for text in (one, other)}
    assert len(clean) == len({one, other})


@given(TEXTS, PEOPLE, st.integers(0, 80), JOINS, JOINS)
@settings(max_examples=400, deadline=None)
def test_nothing_planted_stays(text, planted, at, before, behind):
    places = [0, *(found.end() for found in re.finditer(r"[^\W_]+", text))]
    place = places[at % len(places)]
    clean = clean_text(text[:place] + before + planted + behind + text[place:])
    assert planted not in clean
    own = {word.casefold() for word in (*UNKNOWN, planted)} | set(re.findall(r"[0-9]{4,}", planted))
    assert not own & set(tokens(clean)), clean


@pytest.mark.parametrize(
    "unit",
    [
        "A",
        "1",
        "1.",
        "A.",
        "w/",
        "12 ",
        "LEFT ",
        "without and ",
        "CHEST ",
        "Quill ",
        "B1000,",
        "-",
        "\u00e9_",
        "x@",
        "t1of",
    ],
)
def test_a_long_text_takes_less_than_a_second(unit):
    text = (unit * 65536)[:65536]
    start = time.process_time()
    clean_text(text)
    assert time.process_time() - start < 1.0
