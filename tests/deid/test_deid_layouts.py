"""Layouts of text: images of one device with text in the same places, and decisions about them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
import pydicom
import pytest
from deid_samples import clean, images, key_file, save
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_samples import LABEL, NAME, OTHER, SECOND_NAME, capture

from meninx.core import artifacts
from meninx.core.errors import DataError
from meninx.deid import Deidentifier, Quarantined
from meninx.deid.burned_in import burned_text
from meninx.deid.burned_in.burned_text import TextLine, TextRule
from meninx.deid.identifiers import Identifiers
from meninx.deid.review import layouts
from meninx.deid.review.layouts import (
    LayoutDecision,
    LayoutMask,
    LayoutTable,
    ReviewChoice,
    TextLayout,
    line_boxes,
)
from meninx.deid.review.review_tally import tallied
from meninx.dicomfile import redaction
from meninx.imaging.ocr import Box

FOUND = {"filled": [], "kept": [], "texts": ["QUENTINSSON"], "decision": ""}


def decisions_of(folder, **choices):
    found = layouts.read_layouts(folder / "out" / "private" / layouts.LAYOUTS)
    rows = [
        LayoutDecision(one.layout, choices["choice"], one.mask, choices.get("chosen", ()))
        for one in found[:1]
    ]
    path = folder / "decisions.csv"
    layouts.write_decisions(path, rows)
    return path


def test_a_run_lists_layouts_with_their_images(archive):
    result = clean(archive)
    assert result.files_written == 4, result.quarantined
    found = layouts.read_layouts(archive / "out" / "private" / layouts.LAYOUTS)
    assert [(one.mask.model, len(one.mask.boxes), one.instances) for one in found] == [
        ("Sono 1", 1, 2), ("Sono 2", 1, 1), ("Sono 1", 0, 1),
    ]  # fmt: skip
    assert found[0].kept == (LABEL,)
    assert found[0].texts == ("AXIAL CHEST",)
    record = artifacts.read(archive / "out", artifacts.DeidRecord)
    assert (record.pixels_searched, record.pixels_redacted, record.layouts) == (4, 3, 3)
    written = [pydicom.dcmread(path) for path in images(archive / "out")]
    assert record.code_files == Counter(
        code.CodeValue for ds in written for code in ds.DeidentificationMethodCodeSequence
    )
    assert record.code_files["113101"] == 4
    public = (archive / "out" / "audit.jsonl").read_text() + (archive / "out" / "deid.json").read_text()
    assert "Sono 1" not in public
    assert [json.loads(line)["boxes_redacted"] for line in public.splitlines()[:4] if "boxes" in line]


@pytest.mark.parametrize(("text", "count"), [("", 2), ("AXIAL CHEST", 0)])
def test_a_filled_box_in_which_nothing_was_read_is_explained(archive, written, text, count):
    written[0] = text
    clean(archive)
    private = archive / "out" / "private"
    found = layouts.read_layouts(private / layouts.LAYOUTS)
    assert [len(one.unread) for one in found] == [bool(count), bool(count), 0]
    assert all(one.unread == (one.mask.boxes if count else ()) for one in found)
    page = (private / "layouts.html").read_text()
    assert page.count("1 box with a shape taken for text, in which nothing was read: ") == count


def test_the_sheet_shows_before_mask_and_after(archive):
    clean(archive)
    private = archive / "out" / "private"
    page = (private / "layouts.html").read_text()
    assert page.count("<section>") == 3
    assert page.count("<img") == 9
    found = layouts.read_layouts(private / layouts.LAYOUTS)
    for kind in ("before", "mask", "after"):
        path = private / "layouts" / f"{found[0].layout}-{kind}.png"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"\x89PNG")
    before = (private / "layouts" / f"{found[0].layout}-before.png").stat().st_mtime_ns
    clean(archive)
    assert (private / "layouts" / f"{found[0].layout}-before.png").stat().st_mtime_ns == before


def test_a_decision_holds_for_every_image_of_its_layout(archive):
    clean(archive)
    more = decisions_of(archive, choice=ReviewChoice.REDACT, chosen=(LABEL,))
    clean(archive, out="more", decisions=more)
    filled = [
        ds.pixel_array[LABEL.top : LABEL.bottom].max() == 30
        for ds in map(pydicom.dcmread, images(archive / "more"))
    ]
    assert filled.count(True) == 4  # both images of the layout, and the two without a label
    refused = decisions_of(archive, choice=ReviewChoice.QUARANTINE)
    result = clean(archive, out="refused", decisions=refused)
    assert result.quarantined == {"refused-in-review": 2}
    found = layouts.read_layouts(archive / "more" / "private" / layouts.LAYOUTS)
    assert sorted(one.decision for one in found) == ["", "", "redact"]


def test_a_decision_that_fits_no_image_is_told(archive):
    clean(archive)
    table = decisions_of(archive, choice=ReviewChoice.QUARANTINE)
    [one] = layouts.read_decisions(table)
    listed = layouts.read_layouts(archive / "out" / "private" / layouts.LAYOUTS)
    assert tallied(listed, [one]).unused == 0
    other = replace(one, mask=replace(one.mask, model="another device"))
    assert tallied([TextLayout("0" * 12, one.mask, instances=1)], [one, other]).unused == 1
    layouts.write_decisions(table, [one, other])
    for dry_run in (True, False):
        told = clean(archive, out=f"told{dry_run}", decisions=table, dry_run=dry_run)
        assert "1 of 2 decisions fits no image of this source" in told.summary()


def test_other_decisions_make_the_files_again(archive):
    clean(archive)
    accepted = decisions_of(archive, choice=ReviewChoice.ACCEPT)
    result = clean(archive, decisions=accepted, overwrite=True)
    assert result.files_resumed == 0


@pytest.mark.parametrize(
    "row",
    [
        'x,maybe,,A,B,10,10,""', 'x,redact,,A,B,10,10,""', 'x,accept,1 1 2 2,A,B,10,10,""',
        'x,redact,1 1 20 2,A,B,10,10,""', 'x,redact,1 1 1 2,A,B,10,10,""', 'x,redact,a b c d,A,B,10,10,""',
        'x,keep,,A,B,ten,10,""', "x,keep", 'x,redact,1 1 2,A,B,10,10,""', 'x,keep,,A,B,10,10,"1 1 2 2"',
        'x,keep,1 1 3 3,A,B,10,10,"1 1 2 2"', 'x,redact,١ 1 2 2,A,B,10,10,""', 'x,accept,,A,B,1_0,10,""',
    ],
)  # fmt: skip
def test_a_damaged_row_is_refused_by_its_number(tmp_path, row):
    path = tmp_path / "decisions.csv"
    path.write_text(",".join(layouts.COLUMNS[:-1]) + "\n" + row + "\n")
    with pytest.raises(DataError, match="row 2"):
        layouts.read_decisions(path)


def test_two_decisions_about_one_layout_are_refused_whatever_their_order(tmp_path):
    mask = LayoutMask("A", "B", 100, 100, (Box(1, 1, 20, 9),))
    keep = LayoutDecision(mask.digest, ReviewChoice.KEEP, mask, mask.boxes, "Anna")
    refuse = LayoutDecision(mask.digest, ReviewChoice.QUARANTINE, mask, (), "Bert")
    for rows in ([keep, refuse], [refuse, keep]):
        layouts.write_decisions(tmp_path / "decisions.csv", rows)
        with pytest.raises(DataError, match="row 3"):
            layouts.read_decisions(tmp_path / "decisions.csv")
    layouts.write_decisions(tmp_path / "decisions.csv", [keep, keep])
    assert layouts.read_decisions(tmp_path / "decisions.csv") == (keep, keep)


def test_of_two_layouts_that_an_image_has_quarantine_counts():
    mask = LayoutMask("A", "B", 100, 100, (Box(1, 1, 20, 9),))
    near = LayoutMask("A", "B", 100, 100, (Box(1, 1, 21, 9),))
    assert near.matches(mask)
    keep = LayoutDecision(mask.digest, ReviewChoice.KEEP, mask, mask.boxes)
    refuse = LayoutDecision(near.digest, ReviewChoice.QUARANTINE, near)
    assert layouts.decision_for([keep, refuse], mask) == refuse
    assert layouts.decision_for([refuse, keep], near) == refuse


def test_tables_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError):
        layouts.read_decisions(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column"):
        layouts.read_decisions(tmp_path / "other.csv")
    (tmp_path / layouts.LAYOUTS).write_text("{}\n")
    with pytest.raises(DataError, match="damaged"):
        layouts.read_layouts(tmp_path / layouts.LAYOUTS)


def test_words_of_a_line_are_one_box():
    assert line_boxes([Box(70, 11, 90, 21), Box(10, 10, 60, 20), Box(10, 40, 60, 50)]) == (
        Box(10, 10, 90, 21),
        Box(10, 40, 60, 50),
    )
    assert len(line_boxes([Box(10, 10, 60, 20), Box(200, 10, 260, 20)])) == 2


def test_a_thousand_images_of_forty_layouts_are_forty_decisions():
    draw = np.random.default_rng(0)
    table = LayoutTable()
    for number in range(1000):
        device = number % 40
        boxes = [
            Box(left := 20 + int(draw.integers(-2, 3)), top := 30 * n + device + int(draw.integers(2, 7)),
                left + int(draw.integers(60, 200)), top + 20)
            for n in range(1 + device % 4)
        ]  # fmt: skip
        table.add(LayoutMask("ACME", f"Sono {device}", 768, 1024, tuple(boxes)), FOUND, "a", "images/a")
    assert len(table.layouts) == 40
    assert sum(one.instances for one in table.layouts) == 1000
    assert all(len(one.outputs) <= layouts.MOST_OUTPUTS for one in table.layouts)


def test_of_a_kept_layout_only_lines_in_the_kept_boxes_stay(archive):
    clean(archive)
    kept = decisions_of(archive, choice=ReviewChoice.KEEP, chosen=(NAME,))
    result = clean(archive, out="kept", decisions=kept)
    found = {ds.pixel_array[5, 20] == 255: ds for ds in map(pydicom.dcmread, images(archive / "kept"))}
    stays = [
        ds
        for ds in map(pydicom.dcmread, images(archive / "kept"))
        if "kept" in str(ds.DeidentificationMethod)
    ]
    assert len(stays) == 1, result.quarantined  # the longer line reaches out of the box and is redacted
    assert set(found) == {True, False}
    assert stays[0].pixel_array[NAME.top : NAME.bottom, NAME.left : NAME.right : 2].min() == 255
    assert (stays[0].PatientIdentityRemoved, "BurnedInAnnotation" in stays[0]) == ("YES", False)
    record = artifacts.read(archive / "kept", artifacts.DeidRecord)
    assert [(one.name, one.chosen, one.files) for one in record.departures] == [("decisions", "keep", 1)]
    assert record.pixels_redacted == 2


@pytest.mark.parametrize(
    ("sop_class", "stated"), [("1.2.840.10008.5.1.4.1.1.1.1", "NO"), ("1.2.840.10008.5.1.4.1.1.6.1", None)]
)
def test_what_the_device_said_of_the_text_does_not_stay_where_a_reviewer_keeps_it(archive, sop_class, stated):
    for path in (archive / "in").iterdir():
        ds = pydicom.dcmread(path)
        ds.SOPClassUID, ds.BurnedInAnnotation = sop_class, "YES"
        ds.save_as(path)
    clean(archive)
    clean(archive, out="kept", decisions=decisions_of(archive, choice=ReviewChoice.KEEP, chosen=(NAME,)))
    after = [pydicom.dcmread(path) for path in images(archive / "kept")]
    (kept,) = [ds for ds in after if "kept" in str(ds.DeidentificationMethod)]
    assert (kept.PatientIdentityRemoved, kept.get("BurnedInAnnotation")) == ("YES", stated)


@pytest.mark.parametrize(
    ("word", "confidence"),
    [
        ("QUILLFEATHER", 0.9),
        ("QU1LLFEATHFR", 0.9),
        ("ID 0000123", 0.9),
        ("AXIAL CHEST", 0.7),
        ("WINTERBOTTOM IDA", 0.9),
        ("DOB 24.12.1948", 0.9),
        ("MRN 5512347", 0.9),
        ("CHEST 5512347", 0.9),
    ],
)
def test_a_kept_line_that_resembles_the_header_or_is_not_legible_is_redacted(
    archive, written, word, confidence
):
    clean(archive)
    kept = decisions_of(archive, choice=ReviewChoice.KEEP, chosen=(NAME,))
    written[:] = [word, confidence]
    clean(archive, out="kept", decisions=kept)
    after = [pydicom.dcmread(path) for path in images(archive / "kept")]
    assert len(after) == 4
    assert not any(ds.pixel_array[5, 4] == 255 for ds in after)
    assert {ds.BurnedInAnnotation for ds in after} == {"NO"}


def test_of_two_boxes_only_the_chosen_one_is_kept(archive, written):
    for name in "cd":
        (archive / "in" / name).unlink()
    (archive / "in" / "b").unlink()
    save(capture(1, [NAME, OTHER]), archive / "in" / "a")
    clean(archive)
    (layout,) = layouts.read_layouts(archive / "out" / "private" / layouts.LAYOUTS)
    assert layout.mask.boxes == layout.filled == (NAME, OTHER)
    kept = decisions_of(archive, choice=ReviewChoice.KEEP, chosen=(OTHER,))
    clean(archive, out="kept", decisions=kept)
    (path,) = images(archive / "kept")
    after = pydicom.dcmread(path).pixel_array
    assert (after[NAME.top : NAME.bottom] == 30).all()
    assert after[OTHER.top : OTHER.bottom, OTHER.left : OTHER.right].max() == 255
    (layout,) = layouts.read_layouts(archive / "kept" / "private" / layouts.LAYOUTS)
    assert (layout.mask.boxes, layout.filled, layout.kept) == ((NAME, OTHER), (NAME,), (OTHER,))


@pytest.mark.parametrize(
    ("confidence", "box", "text", "stays"),
    [
        (0.9, NAME, "AXIAL CHEST", True), (0.7, NAME, "AXIAL CHEST", False),
        (0.9, OTHER, "AXIAL CHEST", False), (0.9, NAME, "QUILLFEATHER", False),
    ],
)  # fmt: skip
def test_a_line_stays_in_a_chosen_place_if_it_is_legible_and_names_nobody(confidence, box, text, stays):
    line = TextLine(box, text, technical=False, confidence=confidence)
    (result,) = burned_text.kept_by_reviewer([line], [NAME], TextRule(Identifiers()))
    assert (result.technical, result.reviewed) == (stays, stays)


def test_what_a_decision_redacts_besides_is_on_the_list(archive):
    clean(archive)
    clean(archive, out="more", decisions=decisions_of(archive, choice=ReviewChoice.REDACT, chosen=(LABEL,)))
    found = layouts.read_layouts(archive / "more" / "private" / layouts.LAYOUTS)
    (layout,) = [one for one in found if one.decision == "redact" and one.mask.boxes]
    assert layout.mask.boxes == (NAME,)
    assert layout.filled == (SECOND_NAME, LABEL)  # of all its images


def test_a_picture_that_is_mostly_filled_is_counted_and_marked(archive, monkeypatch):
    result = clean(archive)
    assert "more than half" not in result.summary() + (archive / "out" / "statement.html").read_text()
    monkeypatch.setattr(layouts, "MOSTLY", 0.05)
    result = clean(archive, out="much")
    assert "in 2 images more than half of the picture was filled" not in result.summary()
    assert result.pixels_mostly_filled == 3
    assert "in 3 images more than half of the picture was filled" in result.summary()
    assert (
        "in 3 images more than half of the picture was filled"
        in (archive / "much" / "statement.html").read_text()
    )
    assert artifacts.read(archive / "much", artifacts.DeidRecord).pixels_mostly_filled == 3
    assert (archive / "much" / "private" / "layouts.html").read_text().count("of the picture is filled") == 2


def test_a_layout_that_is_kept_out_stays_on_the_list(archive):
    clean(archive)
    refused = decisions_of(archive, choice=ReviewChoice.QUARANTINE)
    assert clean(archive, decisions=refused, overwrite=True).quarantined == {"refused-in-review": 2}
    private = archive / "out" / "private"
    found = {one.decision: one for one in layouts.read_layouts(private / layouts.LAYOUTS)}
    assert (found["quarantine"].instances, found["quarantine"].outputs) == (2, ())
    assert found["quarantine"].source == "a"
    assert f"{found['quarantine'].layout}-mask.png" in (private / "layouts.html").read_text()
    again = clean(archive, decisions=refused)  # from the journal
    assert (again.files_resumed, len(layouts.read_layouts(private / layouts.LAYOUTS))) == (4, 3)
    public = [json.loads(line) for line in (archive / "out" / "audit.jsonl").read_text().splitlines()]
    assert {one["boxes_redacted"] for one in public if one["status"] == "quarantined"} == {0}
    refused.write_text("")
    layouts.write_decisions(refused, [])
    assert clean(archive, decisions=refused, overwrite=True).files_written == 4


def test_layouts_of_one_mask_and_two_decisions_have_two_names():
    table, mask = LayoutTable(), LayoutMask("ACME", "Sono", 100, 100, (NAME,))
    for decision in ("", "accept", "redact", ""):
        table.add(mask, FOUND | {"decision": decision}, "a", "images/a")
    names = [one.layout for one in table.layouts]
    assert (len(names), len(set(names)), names[0]) == (3, 3, mask.digest)


GOOD = TextLayout(
    "0123456789ab", LayoutMask("A", "B", 100, 100, (NAME,)), (), ("x",), "", 1, "a", ("images/b",)
)


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "../../../etc/x"}, {"layout": "0123456789AB"}, {"layout": 12}, {"source": "../secret"},
        {"source": "/etc/passwd"}, {"source": 1}, {"outputs": ["../secret"]}, {"outputs": ["images/../../x"]},
        {"outputs": ["private/site.key"]}, {"outputs": ["images/b"] * 51}, {"instances": "1"},
        {"instances": -1}, {"instances": 1e400}, {"decision": "<b>"}, {"texts": ["x" * 81]},
        {"texts": ["x"] * 501}, {"kept": [[0, 0, 101, 5]]}, {"kept": [[0, 0, 5]]},
        {"filled": [[0, 0, 101, 5]]}, {"filled": [[5, 0, 5, 5]]},
        {"filled": [[0, 0, 1, 1]] * 501}, {"kept": [["0", 0, 5, 5]]},
        {"kept": [[0, 0, 1, 1]] * 501}, {"mask": {}}, {"mask": None},
        {"mask": {"manufacturer": "A" * 81, "model": "B", "rows": 100, "columns": 100, "boxes": []}},
        {"mask": {"manufacturer": "A", "model": "B", "rows": 0, "columns": 100, "boxes": []}},
        {"mask": {"manufacturer": "A", "model": "B", "rows": 1 << 40, "columns": 100, "boxes": []}},
        {"mask": {"manufacturer": "A", "model": "B", "rows": 10, "columns": 10, "boxes": [[0, 0, 10, 11]]}},
    ],
)  # fmt: skip
def test_no_value_of_a_list_of_layouts_is_trusted(tmp_path, change):
    path, table = tmp_path / layouts.LAYOUTS, json.loads(GOOD.to_line())
    path.write_bytes(GOOD.to_line())
    assert layouts.read_layouts(path) == [GOOD]
    path.write_bytes(json.dumps(table | change).encode() + b"\n")
    with pytest.raises(DataError, match="line 1"):
        layouts.read_layouts(path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000, b"{" * 99, b'{"layout": ' + b"9" * 9000 + b"}\n", b"\xff\n", b"x" * (1 << 21),
        GOOD.to_line() * 2, b"null\n",
    ],
)  # fmt: skip
def test_a_list_that_is_none_is_an_error_of_the_data(tmp_path, content):
    path = tmp_path / layouts.LAYOUTS
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"line \d"):
        layouts.read_layouts(path)


def test_a_source_whose_name_is_no_path_is_left_out():
    table = LayoutTable()
    table.add(GOOD.mask, FOUND, "a\udc80\x01", "images/b")
    assert TextLayout.from_line(table.layouts[0].to_line()).source == ""


def test_a_device_named_like_a_formula_computes_nothing_in_a_spreadsheet(tmp_path):
    mask = LayoutMask("=cmd|'/c calc'!A0", "@SUM(1)", 100, 100, (NAME,))
    one = LayoutDecision(mask.digest, ReviewChoice.ACCEPT, mask, (), "'+1")
    layouts.write_decisions(tmp_path / "decisions.csv", [one])
    text = (tmp_path / "decisions.csv").read_text()
    assert "\"'=cmd|" in text
    assert "\"'@SUM" in text
    assert layouts.read_decisions(tmp_path / "decisions.csv") == (one,)


near = st.lists(
    st.tuples(st.integers(-5, 40), st.integers(-5, 30), st.integers(1, 20), st.integers(1, 9)).map(
        lambda t: Box(t[0], t[1], t[0] + t[2], t[1] + t[3])
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(near, near, st.sampled_from([3, 500]))
def test_lists_of_boxes_hold_every_pixel_of_every_image(boxes, others, most):
    with mock.patch.object(layouts, "MOST_BOXES", most):
        mine, theirs = layouts.listed(boxes, 30, 40), layouts.listed(others, 30, 40)
        both = layouts.with_boxes(mine, theirs)
    assert max(len(mine), len(theirs), len(both)) <= most
    for given_ones, result in ((boxes, mine), (others, theirs), ([*mine, *theirs], both)):
        layouts.check_boxes(result, 30, 40)
        inside = [box.grown(0, (30, 40)) for box in given_ones if box.right > 0 < box.bottom]
        assert not (redaction.outside((30, 40), result) & ~redaction.outside((30, 40), inside)).any()
        assert layouts.share(result, 30, 40) == pytest.approx(1 - redaction.outside((30, 40), result).mean())


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
boxes = st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 10), st.integers(1, 10)).map(
    lambda t: Box(t[0], t[1], t[0] + t[2], t[1] + t[3])
)


@settings(max_examples=12, deadline=None)
@given(
    words,
    words,
    st.lists(boxes, max_size=4),
    st.sampled_from(ReviewChoice),
    st.lists(boxes, min_size=1, max_size=3),
)
def test_decisions_and_layouts_come_back_as_they_were_written(
    tmp_path_factory, maker, model, places, choice, extra
):
    mask = LayoutMask(maker, model, 100, 100, tuple(places))
    places = places or [Box(1, 1, 2, 2)]
    mask = LayoutMask(maker, model, 100, 100, tuple(places))
    more = {ReviewChoice.REDACT: tuple(extra), ReviewChoice.KEEP: tuple(places[:1])}.get(choice, ())
    one = LayoutDecision(mask.digest, choice, mask, more, "a; b")
    path = tmp_path_factory.mktemp("rows") / "decisions.csv"
    layouts.write_decisions(path, [one])
    assert layouts.read_decisions(path) == (one,)
    layout = TextLayout(
        mask.digest, mask, tuple(extra), ("x", "\u2028"), "accept", 3, "a", ("images/b",), mask.boxes
    )
    assert not any(cell.startswith(tuple("=+-@\t\r\n")) for cell in one.to_row().values())
    assert TextLayout.from_line(layout.to_line()) == layout
    assert layouts.decision_for([one], mask) == one


def test_a_decision_holds_for_an_instance_in_memory_too(archive):
    clean(archive)
    refused = decisions_of(archive, choice=ReviewChoice.QUARANTINE)
    deidentifier = Deidentifier(key=key_file(archive), site="north", decisions=refused)
    reasons = []
    for path in sorted((archive / "in").iterdir()):
        try:
            deidentifier.deidentify(path.read_bytes())
        except Quarantined as kept_out:
            reasons.append(str(kept_out.reason))
    assert reasons == ["refused-in-review"] * 2
