from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import keyword_dict

from meninx.deid.options import Option, method_codes
from meninx.deid.profile import Action, Profile, allowed_text, canonical, iod_of_sop_class, rows, safe_private

DATES = {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES}
options = st.frozensets(st.sampled_from(list(Option))).filter(lambda chosen: not chosen >= DATES)
classes = st.sampled_from([*iod_of_sop_class(), "", "1.2.3"])
TEXT = {"AE", "AS", "LO", "LT", "OB", "PN", "SH", "ST", "UC", "UR", "UT"}
OTHER = {
    "AT",
    "CS",
    "DA",
    "DS",
    "DT",
    "FD",
    "FL",
    "IS",
    "OD",
    "OF",
    "OL",
    "OV",
    "OW",
    "SL",
    "SQ",
    "SS",
    "SV",
    "TM",
    "UI",
    "UL",
    "UN",
}
vrs = st.sampled_from(sorted(TEXT | OTHER | {"US", "UV"}))
odd = st.integers(0, 0x7FFF).map(lambda number: 2 * number + 1)
listed = st.sampled_from(list(rows())).map(lambda tag: tag if tag & 0xFFFF else tag | 5)
tags = st.one_of(
    st.sampled_from(list(rows())), st.sampled_from(list(keyword_dict.values())), st.integers(0, 0xFFFFFFFF)
)
few = settings(deadline=None, max_examples=150)


@few
@given(chosen=options, sop=classes)
def test_every_combination_of_options_compiles_to_known_actions(chosen, sop):
    profile = Profile.compile(chosen)
    assert {action for _, action in profile.describe(sop)} <= set(Action)
    assert len(method_codes(chosen)) == 1 + len(chosen)


@few
@given(chosen=options, sop=classes, tag=listed, top=st.booleans())
def test_an_option_cell_overrides_the_basic_action(chosen, sop, tag, top):
    row = rows()[canonical(tag)]
    cells = {row.cells[option] for option in chosen if option in row.cells}
    action = Profile.compile(chosen).action(tag, row.vr.split(" ")[0], sop_class_uid=sop, top_level=top)
    if "C" in cells:
        assert action == "C"
    elif "K" in cells:
        assert action == "K"
    else:
        letters = set(row.basic.rstrip("*").split("/"))
        assert action in letters | {"D", "Z"}
        assert action == "U" or "U" not in letters


@few
@given(chosen=options, sop=classes, tag=tags, vr=vrs, top=st.booleans())
def test_text_and_bytes_stay_only_by_a_rule_that_names_them(chosen, sop, tag, vr, top):
    profile = Profile.compile(chosen)
    action = profile.action(tag, vr, sop_class_uid=sop, top_level=top)
    named = tag in rows() or tag in allowed_text() or 0x5000 <= tag >> 16 <= 0x60FF
    if tag >> 16 & 1 or not tag & 0xFFFF:
        assert action == "X"
    elif not named and (vr in TEXT or (vr in {"DA", "DT", "TM"} and not DATES & chosen)):
        assert action in {"X", "Z", "D"}


@few
@given(chosen=options, tag=listed, letter=st.sampled_from("DZXKC"), sop=classes, top=st.booleans())
def test_an_override_wins_over_every_option(chosen, tag, letter, sop, top):
    row = rows()[canonical(tag)]
    profile = Profile.compile(chosen, {row.keyword: letter})
    assert profile.action(tag, row.vr.split(" ")[0], sop_class_uid=sop, top_level=top) == letter
    assert profile.fingerprint() != Profile.compile(chosen).fingerprint()


@few
@given(
    chosen=options,
    group=odd,
    element=st.integers(0, 0xFFFF),
    creator=st.text(max_size=12),
)
def test_private_elements_stay_only_when_published_and_asked_for(chosen, group, element, creator):
    listed = (group, element & 0xFF, creator.strip()) in safe_private()
    assert Profile.compile(chosen).keep_private(group, element, creator) == (
        listed and Option.RETAIN_SAFE_PRIVATE in chosen
    )
    places = Profile.compile(chosen).kept_of_block(group, creator)
    assert (element & 0xFF in places) == (listed and Option.RETAIN_SAFE_PRIVATE in chosen)


@few
@given(chosen=options, entry=st.sampled_from(sorted(safe_private())), block=st.integers(0x10, 0xFF))
def test_published_private_elements_stay_in_any_block(chosen, entry, block):
    group, element, creator = entry
    kept = Profile.compile(chosen).keep_private(group, block << 8 | element, f"{creator} ")
    assert kept == (Option.RETAIN_SAFE_PRIVATE in chosen)
    assert kept == (element in Profile.compile(chosen).kept_of_block(group, f"{creator} "))
