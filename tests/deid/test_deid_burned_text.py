"""What is searched and redacted in pixels, and what the markers state. A fake reader finds the text."""

from __future__ import annotations

import contextlib
from unittest.mock import patch

import numpy as np
import pytest
from deid_samples import image, one
from hypothesis import event, given, settings
from hypothesis import strategies as st
from pixel_samples import bytes_in, coloured
from pydicom.uid import ExplicitVRLittleEndian

from meninx.deid.burned_in import burned_text, pixel_cleaner
from meninx.deid.burned_in.burned_text import Reader, TextRule
from meninx.deid.burned_in.pixel_cleaner import PixelCleaner
from meninx.deid.identifiers import Identifiers
from meninx.deid.review.layouts import LayoutDecision, ReviewChoice, TextLayout
from meninx.dicomfile import frames, instance, redaction
from meninx.dicomfile.refusals import Refused
from meninx.imaging import ocr
from meninx.imaging.ocr import Box, Found, Glyph, Reading

WHITE, GREY = 255, 30
NAME, LABEL = Box(4, 4, 24, 10), Box(4, 20, 16, 26)


class Fake:
    """Finds the boxes that hold white pixels, and reads what a table says."""

    def __init__(self, texts: dict[Box, str], score: float = 0.9, confidence: float = 0.95) -> None:
        self.texts, self.score, self.confidence = texts, score, confidence
        self.pictures = 0

    def find(self, picture, search):
        self.pictures += 1
        return [
            Found(box, self.score)
            for box in self.texts
            if (picture[box.top : box.bottom, box.left : box.right] > 200).any()
        ]

    def read(self, picture, box):
        return Reading(self.texts.get(box, ""), self.confidence)

    def reader(self) -> Reader:
        return Reader(self.find, self.read, lambda picture, box: None)


def page(count: int = 1, written: dict[int, list[Box]] | None = None, **changes):
    """Return a grey image of some frames with white boxes in them."""
    ds = coloured("grey 8")
    values = np.full((count, ds.Rows, ds.Columns), GREY, np.uint8)
    for number, boxes in (written or {0: [NAME, LABEL]}).items():
        for box in boxes:
            values[number, box.top : box.bottom, box.left : box.right : 2] = WHITE
    if count > 1:
        ds.NumberOfFrames = str(count)
    ds.PixelData = values.tobytes()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return instance.read(bytes_in(ds, ExplicitVRLittleEndian))


def cleaned(original, fake, found=None, **settings):
    return PixelCleaner(reader=fake.reader(), **settings).clean(original, found or Identifiers())


def pixels(original):
    return np.stack(list(frames.all_shown(original, frames.layers_of(original))))


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(ocr, "is_available", lambda: True)


def test_a_name_is_filled_and_a_technical_label_stays():
    original = page()
    result, report = cleaned(original, Fake({NAME: "QUENTINSSON", LABEL: "MI 1.2"}))
    assert report.searched
    assert report.boxes == (NAME,)
    assert report.kept == (LABEL,)
    after = pixels(result)[0]
    assert (after[NAME.top : NAME.bottom, NAME.left : NAME.right] == GREY).all()
    assert (after[LABEL.top : LABEL.bottom] == pixels(original)[0][LABEL.top : LABEL.bottom]).all()


@pytest.mark.parametrize(
    ("text", "confidence", "found"),
    [
        ("MI 1.2", 0.5, Identifiers()),  # read without confidence
        ("MI 1,Z", 0.95, Identifiers()),  # misread
        ("Gain 54", 0.95, Identifiers(names={"gain"})),  # the patient's own name
        ("512 cm", 0.95, Identifiers(numbers={"512"})),
        ("", 0.0, Identifiers()),
    ],
)
def test_a_label_that_is_not_proven_to_be_technical_goes(text, confidence, found):
    _, report = cleaned(page(), Fake({LABEL: text}, confidence=confidence), found)
    assert report.boxes == (LABEL,)


def test_weak_finds_count_if_they_can_be_read_or_resemble_the_header():
    weak = {"score": 0.3}
    assert cleaned(page(), Fake({NAME: "Quentinsson"}, **weak))[1].boxes == (NAME,)
    assert not cleaned(page(), Fake({NAME: "Quentinsson"}, confidence=0.4, **weak))[1].boxes
    own = Identifiers(names={"quentinsson"})
    assert cleaned(page(), Fake({NAME: "Ouentlnsson"}, confidence=0.4, **weak), own)[1].boxes == (NAME,)
    assert not cleaned(page(), Fake({NAME: "Quentinsson"}, score=0.05))[1].boxes


def test_text_of_any_frame_is_found_and_filled_in_all():
    clip = page(
        12, {n: [LABEL] for n in range(12)} | {7: [LABEL, NAME]}, SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1"
    )
    fake = Fake({NAME: "QUENTINSSON", LABEL: "MI 1.2"})
    result, report = cleaned(clip, fake)
    assert report.boxes == (NAME,)
    assert (pixels(result)[:, NAME.top : NAME.bottom, NAME.left : NAME.right] == GREY).all()
    assert fake.pictures <= 6  # three projections, twice


def test_dark_text_of_one_frame_is_in_the_lowest_values():
    values = np.full((9, 40, 48), 220, np.uint8)
    values[4, 4:10, 4:24] = 15
    values[:, 30, 30] = range(9)  # all frames differ
    ds = coloured("grey 8")
    ds.NumberOfFrames, ds.PixelData, ds.SOPClassUID = "9", values.tobytes(), "1.2.840.10008.5.1.4.1.1.3.1"
    original = instance.read(bytes_in(ds, ExplicitVRLittleEndian))
    lowest = next(burned_text.views(original, frames.layers_of(original)))
    assert (lowest[4:10, 4:24] == 15).all()


def test_a_static_clip_costs_no_more_than_one_frame():
    fake = Fake({NAME: "QUENTINSSON"})
    cleaned(page(30, {n: [NAME] for n in range(30)}, SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1"), fake)
    assert fake.pictures == 2  # the search, and the search of the result


def test_every_page_of_a_secondary_capture_is_searched():
    fake = Fake({NAME: "QUENTINSSON", LABEL: "Dr. X"})
    _, report = cleaned(page(5, {0: [NAME], 1: [], 2: [], 3: [], 4: [LABEL]}), fake)
    assert set(report.boxes) == {NAME, LABEL}
    assert fake.pictures == 3 + 1  # three distinct pages; one after redaction


def test_the_result_is_searched_and_what_is_left_is_redacted_too():
    class Blind(Fake):
        def find(self, picture, search):
            found = super().find(picture, search)
            return found if search == burned_text.SECOND else [one for one in found if one.box != NAME]

    result, report = cleaned(page(), Blind({NAME: "QUENTINSSON", LABEL: "MI 1.2"}))
    assert len(report.boxes) == 1
    assert report.mask.boxes == report.filled == report.boxes  # a later search has no list of its own
    assert report.filled[0].shared(NAME) == NAME.area
    assert (pixels(result)[0, NAME.top : NAME.bottom, NAME.left : NAME.right] == GREY).all()


places = st.tuples(st.integers(0, 36), st.integers(0, 30), st.integers(2, 12), st.integers(2, 9)).map(
    lambda t: Box(t[0], t[1], t[0] + t[2], t[1] + t[3])
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(places, st.integers(0, 3), st.sampled_from(["QUENTINSSON", "MI 1.2", "Г"])), max_size=6
    ),
    st.sampled_from(["grey 8", "RGB", "palette", "422"]),
    st.lists(places, max_size=2),
)
def test_no_pixel_changes_outside_the_listed_boxes(finds, kind, more):
    """Whatever search of whatever round finds it, and whatever a reviewer adds."""
    texts, rounds = {box: text for box, _, text in finds}, {box: number for box, number, _ in finds}

    class Later(Fake):
        def find(self, picture, search):
            self.pictures += 1
            seen = [box for box, number in rounds.items() if number < self.pictures]
            return [
                Found(box, 0.9)
                for box in seen
                if len(np.unique(picture[box.top : box.bottom, box.left : box.right].reshape(-1, 3), axis=0))
                > 1
            ]

    def reader() -> Reader:
        fake = Later(texts)
        return Reader(fake.find, fake.read, lambda picture, box: Glyph(box) if box.width < 5 else None)

    ds = coloured("RGB" if kind == "422" else kind)
    if kind == "422":
        ds.PhotometricInterpretation = "YBR_FULL_422"
        values = np.random.default_rng(1).integers(90, 160, (ds.Rows, ds.Columns // 2, 4), dtype=np.uint8)
        ds.PixelData = values.tobytes()
    original = instance.read(bytes_in(ds, ExplicitVRLittleEndian))
    with patch.object(ocr, "is_available", lambda: True), contextlib.suppress(Refused):  # text-remains
        result, report = PixelCleaner(reader=reader()).clean(original, Identifiers())
        check_listed(original, result, report)
        assert report.mask.boxes == report.filled  # without a decision
        event("filled" if report.filled else "nothing to fill")
        if more:
            decision = LayoutDecision("x", ReviewChoice.REDACT, report.mask, tuple(more))
            cleaner = PixelCleaner(decisions=(decision,), reader=reader())
            result, again = cleaner.clean(original, Identifiers())
            check_listed(original, result, again)
            assert again.mask == report.mask  # the same decision is found in the next run


def check_listed(original, result, report):
    before, after = pixels(original), pixels(result)
    outside = redaction.outside(before.shape[1:3], report.filled)
    assert np.array_equal(before[:, outside], after[:, outside])
    layout = TextLayout("0123456789ab", report.mask, filled=report.filled)
    assert layout.share == pytest.approx(1 - outside.mean())


def test_a_side_marker_stays_and_the_initials_beside_it_go():
    marker, initials = Box(10, 14, 24, 28), Box(12, 7, 20, 11)
    both = Box(8, 6, 27, 25)  # the search cuts the marker off

    class Joined(Fake):
        def find(self, picture, search):
            return [Found(both, 0.9)] if search == burned_text.SECOND or self.pictures else []

        def read(self, picture, box):
            return Reading("T", 0.4)

    shapes = {True: Glyph(marker, (initials,)), False: Glyph(marker)}
    fake = Joined({})

    def glyph(picture, box):
        lit = picture[initials.top : initials.bottom, initials.left : initials.right] > 200
        return shapes[bool(lit.any())]

    original = page(1, {0: [marker, initials]})
    result, report = PixelCleaner(reader=Reader(fake.find, fake.read, glyph)).clean(original, Identifiers())
    assert marker in report.kept
    before, after = pixels(original)[0], pixels(result)[0]
    assert np.array_equal(before[13:], after[13:])
    assert (after[:13] == GREY).all()
    assert not any(box.shared(marker) for box in report.filled)


def test_a_worse_reading_of_a_part_of_a_label_does_not_make_it_text():
    part = Box(LABEL.left, LABEL.top, LABEL.left + 4, LABEL.bottom)

    class Partial(Fake):
        def find(self, picture, search):
            return [Found(part if search == burned_text.SECOND else LABEL, 0.9)]

    _, report = cleaned(page(), Partial({LABEL: "MI 1.2", part: "Mi"}))
    assert (report.boxes, report.kept) == ((), (LABEL,))


@pytest.mark.parametrize(
    ("height", "text", "counts"), [(23, "p", False), (23, "QUENTIN", True), (19, "p", True)]
)
def test_what_fills_half_of_a_small_picture_counts_if_it_can_be_read(height, text, counts):
    box = Box(2, 6, 46, 6 + height)
    _, report = cleaned(page(1, {0: [box]}), Fake({box: text}))
    assert bool(report.boxes) is counts


def test_text_that_stays_after_redaction_keeps_the_file_out():
    class Stubborn(Fake):
        def find(self, picture, search):
            return [Found(NAME, 0.9)]

    with pytest.raises(Refused, match="text-remains"):
        cleaned(page(), Stubborn({NAME: "QUENTINSSON"}))


def test_what_may_hold_text_is_kept_out_without_the_extra(monkeypatch):
    monkeypatch.setattr(ocr, "is_available", lambda: False)
    fake = Fake({})
    with pytest.raises(Refused, match="text-in-pixels-possible"):
        cleaned(page(), fake)
    with pytest.raises(Refused, match="burned-in-declared"):
        cleaned(page(BurnedInAnnotation="YES"), fake)
    _, report = cleaned(page(), fake, pixels="keep")
    assert not report.searched
    assert report.unread == ("kind of device that writes text", "secondary capture or photograph")
    plain = instance.read(bytes_in(image(), ExplicitVRLittleEndian))
    assert cleaned(plain, fake)[0] is plain
    assert cleaned(plain, fake)[1] == pixel_cleaner.PixelReport()


def test_all_images_are_searched_on_request(monkeypatch):
    ds = image(Rows=40, Columns=48, PixelData=bytes(2 * 40 * 48))
    original = instance.read(bytes_in(ds, ExplicitVRLittleEndian))
    fake = Fake({})
    assert not cleaned(original, fake)[1].searched
    assert cleaned(original, fake, search_all=True)[1].searched
    monkeypatch.setattr(ocr, "is_available", lambda: False)
    with pytest.raises(Refused, match="text-in-pixels-possible"):  # never written as if it had been searched
        cleaned(original, fake, search_all=True)


def test_measurements_stay_on_request():
    fake = Fake({LABEL: "Dist 3.4 cm"})
    assert cleaned(page(), fake)[1].boxes == (LABEL,)
    assert cleaned(page(), fake, keep_measurements=True)[1].kept == (LABEL,)


def test_a_letter_that_stands_alone_is_a_marker_and_beside_text_it_goes():
    marker, beside = Box(36, 4, 42, 10), Box(26, 4, 32, 10)
    reader = Fake({}).reader()
    for boxes, kept in (((marker,), {marker}), ((NAME, beside), set())):
        fake = Fake({box: "Г" if box != NAME else "QUENTIN" for box in boxes})
        reader = Reader(fake.find, fake.read, lambda picture, box: Glyph(box) if box.width < 10 else None)
        original = page(1, {0: list(boxes)})
        lines = burned_text.lines(original, frames.layers_of(original), TextRule(Identifiers()), reader)
        assert {line.box for line in lines if line.technical} == kept


def test_images_too_small_for_a_name_are_not_searched():
    fake = Fake({})
    tiny = instance.read(bytes_in(image(Modality="US"), ExplicitVRLittleEndian))
    report = cleaned(tiny, fake)[1]
    assert report.searched
    assert report.table()["boxes"] == 0  # it counts among the searched images, as its markers say
    assert fake.pictures == 0


def test_sixteen_bits_show_the_image_and_not_only_the_text():
    values = np.full((40, 48), 300, np.int16)
    values[20:, :] = 340
    values[0, 0], values[5, 5] = -2048, 32767
    shades = set(np.unique(burned_text.as_picture(values)))
    assert len(shades & set(range(1, 255))) or {0, 255} <= shades
    assert burned_text.as_picture(values)[10, 10, 0] != burned_text.as_picture(values)[30, 10, 0]


def test_markers_state_what_was_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(ocr, "find", lambda picture, search: [])
    ds = coloured("grey 8")
    ds.BurnedInAnnotation = "YES"
    written = one(tmp_path, ds)
    assert (written.BurnedInAnnotation, written.PatientIdentityRemoved) == ("NO", "YES")
    assert "113101" in [code.CodeValue for code in written.DeidentificationMethodCodeSequence]
    kept = one(tmp_path, ds, out="kept", pixels="keep")
    assert (kept.BurnedInAnnotation, kept.PatientIdentityRemoved) == ("YES", "NO")
    assert "113101" not in [code.CodeValue for code in kept.DeidentificationMethodCodeSequence]
    ds.BurnedInAnnotation = "NO"
    assert "BurnedInAnnotation" not in one(tmp_path, ds, out="unread", pixels="keep")  # nobody has checked it
