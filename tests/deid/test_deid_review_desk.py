"""The review of one folder: votes on the disk, the table of decisions, the lock, and two persons."""

from __future__ import annotations

import json
import os

import pytest
from deid_samples import clean, tree

from meninx.core.errors import DataError, RunLocked, UsageError
from meninx.deid.review import layouts
from meninx.deid.review.layouts import ReviewChoice, read_decisions
from meninx.deid.review.review_desk import opened
from meninx.deid.review.review_votes import VOTES, VoteKind, VoteStage
from meninx.imaging.ocr import Box


@pytest.fixture
def folder(archive):
    clean(archive)
    return archive / "out"


def table(folder):
    return read_decisions(folder / "private" / layouts.DECISIONS)


def test_votes_become_decisions_that_a_run_applies(archive, folder):
    with opened(folder, reviewer="Anna", source=archive / "in") as desk:
        assert [len(layout.mask.boxes) for layout in desk.layouts] == [1, 1, 0]
        desk.vote(0, VoteKind.QUARANTINE)
        desk.vote(1, VoteKind.ACCEPT)
        desk.vote(2, VoteKind.REDACT, [Box(20, 30, 40, 38)])  # what the search missed
        result = desk.result()
    assert (result.decided, result.images_decided, result.votes, result.open) == (3, 4, 3, 0)
    assert "--decisions" in result.rerun
    assert {one.choice for one in table(folder)} == {"quarantine", "accept", "redact"}
    decided = folder / "private" / layouts.DECISIONS
    again = clean(archive, decisions=decided, overwrite=True)
    assert again.quarantined == {"refused-in-review": 2}
    first = tree(folder)
    clean(archive, out="other", decisions=decided)
    assert {k: v for k, v in tree(archive / "other").items() if k.startswith("images/")} == {
        k: v for k, v in first.items() if k.startswith("images/")
    }
    assert clean(archive, decisions=decided).files_resumed == 4
    assert tree(folder) == first
    with opened(folder, reviewer="Anna") as desk:  # the decisions are still known, and can be taken back
        assert desk.result().decided == 3
        kept_out = next(i for i, one in enumerate(desk.layouts) if one.decision == "quarantine")
        desk.vote(kept_out, VoteKind.ACCEPT)
    assert clean(archive, decisions=decided, overwrite=True).files_written == 4


def test_undo_goes_back_to_the_layout_and_the_table_follows(folder):
    with opened(folder, reviewer="Anna") as desk:
        desk.vote(0, VoteKind.ACCEPT)
        desk.vote(0, VoteKind.QUARANTINE)
        desk.vote(1, VoteKind.ACCEPT)
        assert desk.undo() == 1
        assert [one.choice for one in table(folder)] == [ReviewChoice.QUARANTINE]
        assert desk.undo() == 0
        assert [one.choice for one in table(folder)] == [ReviewChoice.ACCEPT]
        assert desk.next_open(0) == 1
        assert (desk.undo(), desk.undo(), table(folder)) == (0, None, ())
    lines = (folder / "private" / VOTES).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["accept", "quarantine", "accept", *3 * ["undo"]]


def test_a_review_by_two_persons_goes_on_with_the_second_and_keeps_out_what_is_not_agreed_on(archive, folder):
    decided = folder / "private" / layouts.DECISIONS
    with opened(folder, reviewer="Anna", two_person=True) as desk:
        desk.vote(0, VoteKind.ACCEPT)
        desk.vote(1, VoteKind.ACCEPT)
        result = desk.result()
        assert (result.waiting, result.decided, result.images_undecided) == (2, 0, 3)
        assert {one.choice for one in table(folder)} == {ReviewChoice.UNDECIDED}
        assert desk.next_open(1) == 2
        assert desk.next_different(-1) is None
    with pytest.raises(UsageError, match="two persons"), opened(folder, reviewer="Bert"):
        pass
    with opened(folder, reviewer="Bert", two_person=True) as desk:
        assert desk.next_open(-1) == 0
        desk.vote(0, VoteKind.ACCEPT)
        desk.vote(1, VoteKind.QUARANTINE)
        result = desk.result()
        assert (result.decided, result.different, result.open) == (1, 1, 1)
        assert [state.stage for state in desk.states()][1] == VoteStage.DIFFERENT
        assert [desk.next_different(after) for after in (-1, 0, 1, 2)] == [1, 1, 1, 1]
        text = result.summary()
        assert "1 layout on which reviewers differ" in text
        assert "the decisions keep 1 image out" in text
        assert "1 layout without a vote" in text
    assert sorted((one.choice, one.reviewers) for one in table(folder)) == [
        ("accept", "Anna; Bert"), ("undecided", "Anna; Bert"),
    ]  # fmt: skip
    again = clean(archive, decisions=decided, overwrite=True)
    assert (again.files_written, again.quarantined) == (3, {"review-undecided": 1})
    with opened(folder, reviewer="anna", two_person=True) as desk:  # the first one gives in
        kept_out = next(i for i, one in enumerate(desk.layouts) if one.decision == "undecided")
        desk.vote(kept_out, VoteKind.QUARANTINE)
        assert desk.next_different(-1) is None
    assert clean(archive, decisions=decided, overwrite=True).quarantined == {"refused-in-review": 1}


def test_rectangles_that_two_persons_dragged_are_both_filled(archive, folder):
    first, second = Box(20, 30, 40, 38), Box(22, 28, 43, 36)
    for reviewer, box in (("Anna", first), ("Bert", second)):
        with opened(folder, reviewer=reviewer, two_person=True) as desk:
            desk.vote(2, VoteKind.REDACT, [box])
    [one] = table(folder)
    assert (one.choice, set(one.chosen)) == (ReviewChoice.REDACT, {first, second})
    clean(archive, decisions=folder / "private" / layouts.DECISIONS, overwrite=True)
    listed = layouts.read_layouts(folder / "private" / layouts.LAYOUTS)
    filled = next(one.filled for one in listed if one.decision == "redact")
    covered = {(x, y) for box in filled for x in range(box.left, box.right)
               for y in range(box.top, box.bottom)}  # fmt: skip
    assert all((x, y) in covered for box in (first, second)
               for x in range(box.left, box.right) for y in range(box.top, box.bottom))  # fmt: skip


def test_files_are_private_whatever_the_umask(folder):
    before = os.umask(0)
    try:
        with opened(folder, reviewer="Anna") as desk:
            desk.vote(0, VoteKind.ACCEPT)
    finally:
        os.umask(before)
    for name in (VOTES, layouts.DECISIONS):
        assert (folder / "private" / name).stat().st_mode & 0o777 == 0o600


def test_neither_a_run_nor_a_second_review_enters_while_one_is_open(archive, folder):
    with opened(folder, reviewer="Anna"):
        with pytest.raises(RunLocked):
            clean(archive)
        with pytest.raises(RunLocked), opened(folder, reviewer="Bert"):
            pass
    clean(archive)


def test_a_table_that_somebody_else_wrote_is_not_replaced(folder):
    path = folder / "private" / layouts.DECISIONS
    with opened(folder, reviewer="Anna") as desk:
        desk.vote(0, VoteKind.ACCEPT)
    before = path.read_bytes()
    with opened(folder, reviewer="Anna") as desk:
        desk.vote(1, VoteKind.ACCEPT)
    path.write_bytes(before)  # as if the process was killed between vote and table
    with opened(folder, reviewer="Anna") as desk:
        assert desk.result().decided == 2
    path.write_bytes(before.replace(b"accept", b"quarantine"))
    with pytest.raises(UsageError, match="does not follow"), opened(folder, reviewer="Anna"):
        pass


def test_a_torn_last_vote_is_left_out_and_a_damaged_one_is_an_error(folder):
    path = folder / "private" / VOTES
    with opened(folder, reviewer="Anna") as desk:
        desk.vote(0, VoteKind.ACCEPT)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    with opened(folder, reviewer="Anna") as desk:
        assert desk.result().decided == 1
        desk.vote(1, VoteKind.ACCEPT)
    assert len(path.read_text().splitlines()) == 2
    path.write_text('{"time": "x"}\n' + whole.decode())
    with pytest.raises(DataError, match="no vote"), opened(folder, reviewer="Anna"):
        pass


@pytest.mark.parametrize(
    ("kind", "boxes"),
    [
        (VoteKind.KEEP, [Box(0, 0, 5, 5)]), (VoteKind.REDACT, [Box(0, 0, 5, 500)]),
        (VoteKind.REDACT, [Box(5, 5, 5, 9)]), (VoteKind.ACCEPT, [Box(0, 0, 5, 5)]), (VoteKind.KEEP, []),
    ],
)  # fmt: skip
def test_a_choice_with_other_boxes_is_refused_and_changes_nothing(folder, kind, boxes):
    with opened(folder, reviewer="Anna") as desk:
        with pytest.raises(UsageError):
            desk.vote(0, kind, boxes)
        assert desk.result().votes == 0


def test_a_folder_that_is_none_is_refused(tmp_path, archive):
    with pytest.raises(UsageError, match="no clean folder"), opened(archive / "in", reviewer="Anna"):
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no clean folder"), opened(tmp_path / "empty", reviewer="Anna"):
        pass
    assert not (tmp_path / "empty" / "private").exists()


def test_a_review_says_how_many_images_no_layout_shows(archive):
    clean(archive, pixels="keep")
    with opened(archive / "out", reviewer="Anna") as desk:
        result = desk.result()
    assert (result.layouts, result.not_searched, result.may_show_text) == (0, 4, 4)
    assert "4 images may show text in their pixels, which were not searched" in result.summary()
    assert "private/review.html" in result.summary()


def test_a_sealed_folder_says_that_it_is_sealed(archive):
    clean(archive, escrow="key", escrow_only=True)
    with pytest.raises(UsageError, match="the folder is sealed"), opened(archive / "out", reviewer="Anna"):
        pass
