"""After a review: what deid.json, the statement and the terminal say about it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from deid_samples import clean, image, save
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


@pytest.mark.parametrize("two_person", [False, True])
def test_images_that_a_review_keeps_out_are_searched_images(archive, two_person):
    """One CT is written, which nothing searched; the four captures were searched and are kept out."""
    save(image(), archive / "in" / "ct")
    clean(archive)
    folder = archive / "out"
    with opened(folder, reviewer="Anna", two_person=two_person) as desk:
        for layout in range(3):
            desk.vote(layout, VoteKind.QUARANTINE)  # of two persons, the second has not voted yet
    result = clean(archive, decisions=folder / "private" / layouts.DECISIONS, overwrite=True)
    reason = "review-undecided" if two_person else "refused-in-review"
    assert (result.files_written, result.quarantined) == (1, {reason: 4})
    if two_person:
        review = "0 of 3 layouts decided (0 of 4 images)"
        more = "NOT agreed on by two persons: 3 layouts; their 4 images are kept out"
    else:
        review = "3 of 3 layouts decided (4 of 4 images), each by 1 person: 3 kept out (4 images)"
        more = ""
    record = artifacts.read(folder, DeidRecord)
    stated = statement.of(record)
    applied, checked = dict(stated.actions)["Pixels"], dict(stated.checked)
    assert applied == "images that may hold text by their header were searched; none of them was written"
    searched = "4 images searched for text, 0 redacted, 4 kept out, 3 layouts"
    left = "1 of 5 images was not searched for text"
    assert checked["Pixels"] == f"{searched}; {left}"
    assert checked["Review of the pixels"] == "; ".join(filter(None, [review, more]))
    assert any(sentence.startswith(left) for sentence in stated.remains)
    lines = result.summary().splitlines()
    for line in (f"pixels: {left}", f"pixels: {searched}", f"review: {review}", *filter(None, [more])):
        assert line in lines
    assert "look at each layout" not in result.summary()


def test_decisions_that_fit_no_image_are_named_on_the_terminal(archive):
    clean(archive)
    with opened(archive / "out", reviewer="Anna") as desk:
        desk.vote(0, VoteKind.ACCEPT)
    save(image(), archive / "next" / "ct")
    table = archive / "out" / "private" / layouts.DECISIONS
    result = clean(archive, "other", "next", decisions=table)
    lines = result.summary().splitlines()
    assert "review: 0 of 0 layouts decided (0 of 0 images)" in lines
    assert "1 of 1 decision fits no image of this source" in lines
    assert "look at each layout" not in result.summary()


def test_decisions_of_one_reviewer_are_not_those_of_two(archive):
    clean(archive)
    folder = archive / "out"
    with opened(folder, reviewer="Anna") as desk:
        desk.vote(0, VoteKind.ACCEPT)
    with opened(folder, reviewer="Bert") as desk:
        desk.vote(1, VoteKind.ACCEPT)
    result = clean(archive, decisions=folder / "private" / layouts.DECISIONS, overwrite=True)
    assert result.review is not None
    assert result.review.persons == {1: 2}
    words = "2 of 3 layouts decided (3 of 4 images), each by 1 person: 2 accepted (3 images)"
    assert f"review: {words}" in result.summary()
    assert words in (folder / "statement.html").read_text()


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
    assert "no written image was searched, because no header gives a cause" in words
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
    listed, decisions, by = [], [], Counter()
    for number, (choice, images, reviewers) in enumerate(rows):
        mask = LayoutMask("ACME", f"Sono {number}", 10, 10, (BOX,))
        listed.append(TextLayout(mask.digest, mask, decision=choice, instances=images))
        if choice:
            names = "; ".join(["Anna", "Bert", "anna"][:reviewers])
            boxes = (BOX,) if choice in ("redact", "keep") else ()
            decisions.append(LayoutDecision(mask.digest, ReviewChoice(choice), mask, boxes, names))
            by[min(reviewers, 2)] += choice != "undecided"  # "Anna" and "anna" are one person
    for number in range(others):
        mask = LayoutMask("OTHER", str(number), 10, 10)
        decisions.append(LayoutDecision(mask.digest, ReviewChoice.ACCEPT, mask))
    counts = tallied(listed, decisions)
    assert sum(counts.layouts.values()) == len(rows)
    assert sum(counts.images.values()) == sum(images for _, images, _ in rows)
    assert counts.persons == +by
    assert (counts.decisions, counts.unused) == (len(decisions), others)
