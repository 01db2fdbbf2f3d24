"""After a review: what deid.json, the statement and the terminal say about it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from deid_samples import clean
from hypothesis import given
from hypothesis import strategies as st

from meninx import verify
from meninx.core import artifacts, review_words
from meninx.core.artifacts import DeidRecord
from meninx.core.summaries import ReviewCounts
from meninx.deid.papers import statement
from meninx.deid.review import layouts
from meninx.deid.review.layouts import LayoutDecision, LayoutMask, ReviewChoice, TextLayout
from meninx.deid.review.review_desk import opened
from meninx.deid.review.review_tally import tallied
from meninx.deid.review.review_votes import VoteKind
from meninx.imaging.ocr import Box

BOX = Box(1, 1, 9, 5)


@pytest.fixture
def reviewed(archive):
    """A folder of three layouts: two persons agree on the first, differ on the second, leave the third."""
    clean(archive)
    folder = archive / "out"
    for reviewer, choice in (("Anna", VoteKind.ACCEPT), ("Bert", VoteKind.QUARANTINE)):
        with opened(folder, reviewer=reviewer, two_person=True) as desk:
            desk.vote(0, VoteKind.ACCEPT)
            desk.vote(1, choice)
    return folder


def test_terminal_record_and_statement_say_what_a_review_decided(archive, reviewed):
    result = clean(archive, decisions=reviewed / "private" / layouts.DECISIONS, overwrite=True)
    record = artifacts.read(reviewed, DeidRecord)
    none = {"redact": 0, "keep": 0, "quarantine": 0}
    assert record.review == result.review == ReviewCounts(
        layouts={"accept": 1, "undecided": 1, "not-reviewed": 1, **none},
        images={"accept": 2, "undecided": 1, "not-reviewed": 1, **none},
        persons={2: 1}, decisions=2, unused=0,
    )  # fmt: skip
    page = re.sub(r"\s+", " ", (reviewed / "statement.html").read_text())
    for text in (result.summary(), page):
        assert "1 of 3 layouts decided (2 of 4 images), each by 2 persons: 1 accepted (2 images)" in text
        assert "NOT agreed on by two persons: 1 layout; its 1 image is kept out" in text
        assert "NOT reviewed: 1 layout; its 1 image is written without anybody" in text
        assert "look at each layout once" in text or "Look at private/layouts.html" in text
    assert "1 × review-undecided (two persons have not agreed on the layout)" in page
    assert "settle it with `meninx review --two-person`" in " ".join(result.alerts())
    public = "".join((reviewed / name).read_text() for name in ("deid.json", "statement.html", "audit.jsonl"))
    assert not re.search("Anna|Bert|Sono", public)
    assert verify(reviewed).ok


def test_after_a_whole_review_nobody_is_told_to_look_again(archive, reviewed):
    with opened(reviewed, reviewer="Anna", two_person=True) as desk:
        desk.vote(1, VoteKind.QUARANTINE)
        desk.vote(2, VoteKind.ACCEPT)
    with opened(reviewed, reviewer="Bert", two_person=True) as desk:
        desk.vote(2, VoteKind.ACCEPT)
    result = clean(archive, decisions=reviewed / "private" / layouts.DECISIONS, overwrite=True)
    assert "3 of 3 layouts decided (4 of 4 images), each by 2 persons" in result.summary()
    assert "look at each layout" not in result.summary()
    assert result.alerts() == ()
    page = (reviewed / "statement.html").read_text()
    assert "Look at private/layouts.html" not in page
    assert "NOT " not in page


def test_a_run_without_decisions_says_so(archive):
    result = clean(archive)
    assert result.review is None
    assert json.loads((archive / "out" / "deid.json").read_text())["review"] is None
    assert "no decisions of reviewers were applied" in (archive / "out" / "statement.html").read_text()
    assert "look at each layout once" in result.summary()


def test_the_record_follows_from_the_table_and_not_from_what_lies_in_the_folder(archive, reviewed):
    table = reviewed / "private" / layouts.DECISIONS
    clean(archive, decisions=table, overwrite=True)
    clean(archive, out="elsewhere", decisions=table)
    for name in ("deid.json", "statement.html"):
        assert (archive / "elsewhere" / name).read_bytes() == (reviewed / name).read_bytes()


def test_a_statement_tells_older_archives_and_those_without_images_apart(archive):
    clean(archive)
    record = artifacts.read(archive / "out", DeidRecord)
    nothing = replace(record, pixels_searched=0, pixels_redacted=0, layouts=0, images=4)
    words = str(statement.of(nothing))
    assert "none were searched, because no header gives a cause" in words
    assert "layouts.html" not in words
    unread = str(statement.of(replace(nothing, quarantined={"text-in-pixels-possible": 2})))
    assert "kept out, because nothing read them" in unread


@pytest.mark.parametrize(
    ("persons", "words"),
    [({1: 3}, "each by 1 person"), ({1: 1, 2: 2}, "2 by 2 persons, 1 by 1 person"),
     ({0: 1}, "by persons who are not named")],
)  # fmt: skip
def test_by_how_many_persons_a_layout_was_decided_is_said(persons, words):
    counts = ReviewCounts(layouts={"accept": 3}, images={"accept": 9}, persons=persons)
    assert words in review_words.decided(counts)


choices = st.sampled_from(["", *map(str, ReviewChoice)])
found = st.lists(st.tuples(choices, st.integers(1, 50), st.integers(0, 3)), max_size=6)


@given(found, st.integers(0, 2))
def test_every_layout_and_every_image_is_counted_once(rows, others):
    listed, decisions, by = [], [], 0
    for number, (choice, images, reviewers) in enumerate(rows):
        mask = LayoutMask("ACME", f"Sono {number}", 10, 10, (BOX,))
        listed.append(TextLayout(mask.digest, mask, decision=choice, instances=images))
        if choice:
            names = "; ".join(["Anna", "Bert", "anna"][:reviewers])
            boxes = (BOX,) if choice in ("redact", "keep") else ()
            decisions.append(LayoutDecision(mask.digest, ReviewChoice(choice), mask, boxes, names))
            by += choice != "undecided"
    for number in range(others):
        mask = LayoutMask("OTHER", str(number), 10, 10)
        decisions.append(LayoutDecision(mask.digest, ReviewChoice.ACCEPT, mask))
    counts = tallied(listed, decisions)
    assert sum(counts.layouts.values()) == len(rows)
    assert sum(counts.images.values()) == sum(images for _, images, _ in rows)
    assert sum(counts.persons.values()) == by
    assert set(counts.persons) <= {0, 1, 2}  # two spellings are one person
    assert (counts.decisions, counts.unused) == (len(decisions), others)
