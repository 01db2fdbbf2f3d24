"""Votes about layouts: who decided what, taking back, and two persons."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meninx.core import plain
from meninx.core.errors import DataError, UsageError
from meninx.deid.review.layouts import LayoutMask, ReviewChoice
from meninx.deid.review.review_votes import (
    Vote,
    VoteKind,
    VoteStage,
    decisions,
    last_of,
    person,
    read_vote,
    reviewer_name,
    state_of,
)
from meninx.imaging.ocr import Box

TIME = "2026-11-28T12:00:00+00:00"
BOXES = (Box(1, 1, 9, 5), Box(1, 20, 9, 25))
MASKS = [LayoutMask("ACME", f"Sono {number}", 100, 100, BOXES) for number in range(3)]
CHOICES = [kind for kind in VoteKind if kind != VoteKind.UNDO]


def vote(reviewer="Anna", kind=VoteKind.ACCEPT, layout=0, boxes=None, **more) -> Vote:
    taken = BOXES[:1] if kind in (VoteKind.REDACT, VoteKind.KEEP) else ()
    mask = MASKS[layout]
    return Vote(TIME, reviewer, mask.digest, kind, mask, taken if boxes is None else boxes, **more)


votes = st.lists(
    st.builds(
        vote,
        st.sampled_from(["Anna", "Bert", "Cleo"]),
        st.sampled_from([*CHOICES, VoteKind.UNDO]),
        st.integers(0, 2),
    ),
    max_size=12,
)


@given(votes, st.booleans())
def test_a_vote_that_is_taken_back_was_never_given(before, two_person):
    again = [*before, vote("Anna", VoteKind.QUARANTINE), vote("Anna", VoteKind.UNDO)]

    assert decisions(again, two_person=two_person) == decisions(before, two_person=two_person)
    assert last_of(again, "anna") == last_of(before, "anna")


@given(votes)
def test_with_two_persons_every_decision_has_two_reviewers_and_no_vote_against_it(given_votes):
    found = decisions(given_votes, two_person=True)
    for one in found:
        own = [v for v in given_votes if v.layout == one.layout]
        standing = state_of(own, two_person=True).standing
        assert one.reviewers == "; ".join(sorted(v.reviewer for v in standing))
        if one.choice != ReviewChoice.UNDECIDED:
            assert len({v.person for v in standing}) >= 2
            assert {str(v.kind) for v in standing} == {str(one.choice)}
        else:
            assert len({v.kind for v in standing}) != 1 or len(standing) == 1
    voted = {v.layout for v in given_votes if state_of(
        [other for other in given_votes if other.layout == v.layout], two_person=True).standing}  # fmt: skip
    assert {one.layout for one in found} == voted


@given(votes, st.booleans(), st.randoms())
def test_the_order_of_layouts_does_not_matter_and_that_of_one_does(given_votes, two_person, random):
    """Votes of different layouts may be given in any order."""
    lanes = [[v for v in given_votes if v.layout == mask.digest] for mask in MASKS]
    mixed = []
    while any(lanes):
        lane = random.choice([lane for lane in lanes if lane])
        mixed.append(lane.pop(0))
    assert decisions(mixed, two_person=two_person) == decisions(given_votes, two_person=two_person)


@given(votes)
def test_votes_come_back_as_they_were_written(given_votes):
    for one in given_votes:
        assert read_vote(json.loads(plain.to_json(one))) == one


@given(votes)
def test_the_last_vote_is_the_one_that_undo_takes_back(given_votes):
    last = last_of(given_votes, "anna")
    if last is None:
        assert not any(
            v.person == "anna" for mask in MASKS for v in
            state_of([one for one in given_votes if one.layout == mask.digest], two_person=False).standing
        )  # fmt: skip
        return
    undone = [*given_votes, vote("Anna", VoteKind.UNDO, [m.digest for m in MASKS].index(last.layout))]
    assert last_of(undone, "anna") != last or given_votes.count(last) > 1


def test_one_person_under_two_spellings_is_one_person():
    pair = [vote("Anna"), vote("anna")]
    assert state_of(pair, two_person=True).stage == VoteStage.WAITING
    assert [one.choice for one in decisions(pair, two_person=True)] == [ReviewChoice.UNDECIDED]


@pytest.mark.parametrize("name", ["anna  Árnyék", "ANNA ÁRNYÉK", "Anna A\u0301rnye\u0301k", "Ａnna Árnyék"])
def test_a_name_typed_on_another_keyboard_is_the_same_person(name):
    assert person("Anna Árnyék") == person(name)
    pair = [vote("Anna Árnyék"), vote(reviewer_name(name))]
    assert state_of(pair, two_person=True).stage == VoteStage.WAITING


def test_two_reviewers_who_differ_keep_the_layout_out_until_one_changes():
    pair = [vote("Anna"), vote("Bert", VoteKind.QUARANTINE)]
    assert state_of(pair, two_person=True).stage == VoteStage.DIFFERENT
    assert [one.choice for one in decisions(pair, two_person=True)] == [ReviewChoice.UNDECIDED]
    assert [one.choice for one in decisions(pair)] == [ReviewChoice.QUARANTINE]  # the latest decides
    agreed = decisions([*pair, vote("Anna", VoteKind.QUARANTINE)], two_person=True)
    assert [(one.choice, one.reviewers) for one in agreed] == [(ReviewChoice.QUARANTINE, "Anna; Bert")]


def test_a_layout_with_one_vote_of_two_is_kept_out_and_one_without_a_vote_is_not_listed():
    [one] = decisions([vote("Anna", VoteKind.REDACT)], two_person=True)
    assert (one.choice, one.chosen, one.mask) == (ReviewChoice.UNDECIDED, (), MASKS[0])
    assert decisions([vote("Anna"), vote("Anna", VoteKind.UNDO)], two_person=True) == []


def test_two_reviewers_who_redact_more_agree_and_the_boxes_of_both_are_filled():
    first, second = Box(34, 32, 44, 41), Box(36, 34, 46, 42)  # dragged by hand over the same text
    pair = [vote("Anna", VoteKind.REDACT, boxes=(first,)), vote("Bert", VoteKind.REDACT, boxes=(second,))]
    assert state_of(pair, two_person=True).stage == VoteStage.DECIDED
    [one] = decisions(pair, two_person=True)
    assert (one.choice, one.chosen, one.reviewers) == (ReviewChoice.REDACT, (first, second), "Anna; Bert")
    assert decisions(pair[::-1], two_person=True) == [one]
    assert [one.chosen for one in decisions(pair)] == [(second,)]  # alone, the latest decides


def test_of_two_reviewers_who_keep_text_only_what_both_keep_stays():
    both = [vote("Anna", VoteKind.KEEP, boxes=BOXES), vote("Bert", VoteKind.KEEP, boxes=BOXES[:1])]
    assert [one.chosen for one in decisions(both, two_person=True)] == [BOXES[:1]]
    other = [vote("Anna", VoteKind.KEEP, boxes=BOXES[1:]), vote("Bert", VoteKind.KEEP, boxes=BOXES[:1])]
    assert state_of(other, two_person=True).stage == VoteStage.DIFFERENT
    turned = [vote("Anna", VoteKind.KEEP, boxes=BOXES), vote("Bert", VoteKind.KEEP, boxes=BOXES[::-1])]
    assert [set(one.chosen) for one in decisions(turned, two_person=True)] == [set(BOXES)]


drawn = st.lists(
    st.builds(
        lambda left, top, width, height: Box(left, top, left + width, top + height),
        st.integers(0, 90), st.integers(0, 90), st.integers(1, 10), st.integers(1, 10),
    ),
    min_size=1, max_size=400, unique=True,
)  # fmt: skip


@given(drawn, drawn)
def test_every_pixel_that_one_of_two_reviewers_redacts_is_filled(first, second):
    """Also where both together drew more boxes than a decision takes."""
    pair = [vote("Anna", VoteKind.REDACT, boxes=tuple(first)),
            vote("Bert", VoteKind.REDACT, boxes=tuple(second))]  # fmt: skip
    [one] = decisions(pair, two_person=True)
    filled = np.zeros((100, 100), bool)
    for box in one.chosen:
        filled[box.top : box.bottom, box.left : box.right] = True
    assert all(filled[box.top : box.bottom, box.left : box.right].all() for box in first + second)


@pytest.mark.parametrize(
    "change",
    [
        {"time": "yesterday"}, {"layout": "../x"}, {"reviewer": ""}, {"reviewer": "a\nb"},
        {"reviewer": "a; b"},
        {"reviewer": "x" * 61}, {"kind": "burn"}, {"boxes": [[0, 0, 1, 1]]}, {"boxes": 3}, {"mask": None},
        {"two_person": "no"}, {"kind": "redact"}, {"kind": "keep", "boxes": [[50, 50, 60, 60]]},
        {"kind": "redact", "boxes": [[50, 50, 60, 600]]}, {"kind": "undo", "boxes": [[1, 1, 9, 5]]},
    ],
)  # fmt: skip
def test_no_value_of_the_votes_is_trusted(change):
    table = json.loads(plain.to_json(vote()))
    assert read_vote(table) == vote()
    with pytest.raises(DataError, match="no vote"):
        read_vote(table | change)


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\x1bb", "a;b"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(UsageError):
        reviewer_name(name)
