"""Properties of de-identification that hold for every input."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

import pydicom
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.sequence import Sequence
from pydicom.uid import UID

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import KEY, image, item, nested, save

from meninx.deid import dates, worker, writer
from meninx.deid.cleaner import Cleaner
from meninx.deid.config import DeidConfig
from meninx.deid.deidentifier import Deidentifier, Quarantined
from meninx.deid.identifiers import PLACEHOLDERS
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.deid.options import EVERY_CODE, Option, method_codes
from meninx.deid.output import WRITTEN
from meninx.deid.wording.text import VOCABULARY, clean_text
from meninx.deid.wording.vocabulary import MEASURE, Role, kind_of
from meninx.deid.writer import METHOD
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.elements import Element, Encoding, encode, parse
from meninx.dicomfile.refusals import Reason

NAMES = Pseudonyms(SiteKey(KEY, "north"))
DAYS = st.dates(min_value=date(1900, 1, 1), max_value=date(2100, 1, 1))
PROFILE = DeidConfig().compiled()
LITTLE = Encoding(implicit=False, little=True)
WHOLE = settings(max_examples=60, deadline=None)


def is_harmless(word: str) -> bool:
    """A known word, or a number in a form of the field."""
    return kind_of(word) != Role.UNKNOWN or bool(word.isascii() and MEASURE.fullmatch(word))


def _cleaned(data: bytes, folder: Path) -> tuple[worker.FileResult, bytes]:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a").write_bytes(data)
    engine = worker.Engine(
        source=folder / "in",
        out=folder / "out",
        cleaner=Cleaner(profile=PROFILE, resolver=Resolver(NAMES)),
    )
    entry = worker.process(engine, SourceFile("a"), None)
    staged = engine.staged("a")
    content = staged.read_bytes() if staged.exists() else b""
    staged.unlink(missing_ok=True)
    return entry, content


@given(first=DAYS, second=DAYS, patient=st.text(min_size=1))
@WHOLE
def test_a_shift_keeps_every_interval_of_a_patient(first, second, patient):
    days = NAMES.patient(patient, study_uid="1.2").shift_days
    moved = [dates.parse(dates.shift_da(day.strftime("%Y%m%d"), days)) for day in (first, second)]
    assert moved[0] is not None
    assert moved[1] is not None
    assert moved[1] - moved[0] == second - first
    assert moved[0] - first == timedelta(days=days)


@given(
    st.lists(
        st.from_regex(r"1\.2\.826\.[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){1,4}", fullmatch=True),
        unique=True,
        max_size=8,
    )
)
@WHOLE
def test_uids_stay_valid_and_distinct(uids):
    new = [NAMES.uid(uid) for uid in uids]
    assert len(set(new)) == len(uids)
    assert all(UID(uid).is_valid for uid in new)


@given(st.integers(0, 8 * len(KEY) - 1))
@WHOLE
def test_one_bit_of_the_key_changes_every_map(bit):
    flipped = bytearray(KEY)
    flipped[bit // 8] ^= 1 << bit % 8
    other = Pseudonyms(SiteKey(bytes(flipped), "north"))
    assert other.uid("1.2.3.4") != NAMES.uid("1.2.3.4")
    assert other.digest("x") != NAMES.digest("x")
    assert other.patient("7").pseudonym != NAMES.patient("7").pseudonym


@given(st.text())
@WHOLE
def test_clean_text_holds_only_the_vocabulary(text):
    rest = MEASURE.sub(" ", clean_text(text))
    assert all(is_harmless(word) for word in re.findall(r"[^\W_]+", rest))


PIECES = [
    "W/O",
    "WITH",
    "NO",
    "LEFT",
    "RIGHT",
    "CONTRAST",
    "KNEE",
    "fracture",
    "Qxz",
    "HEAD",
    ",",
    "AND",
    "C-",
    "-",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8))
@WHOLE
def test_a_meaning_never_turns_into_another(pieces):
    clean = clean_text(" ".join(pieces))
    before, after = " ".join(pieces).split(), clean.replace(",", " , ").split()
    for index, word in enumerate(after):
        if word in ("W/O", "WITH", "NO", "LEFT", "RIGHT") and after[index + 1 :] and after[index + 1] != ",":
            pair = f"{word} {after[index + 1]}"
            assert pair in " ".join(before)
        if word in ("CONTRAST", "fracture") and index and after[index - 1] != ",":
            assert f"{after[index - 1]} {word}" in " ".join(before)


@given(st.lists(st.sampled_from(["3", "12", "1961", "555", "0199", "-", "/", ".", " ", "CT"]), max_size=8))
@WHOLE
def test_a_bare_number_has_two_digits_and_stands_alone(pieces):
    clean = MEASURE.sub(" ", clean_text(" ".join(pieces)))
    assert all(len(number) <= 2 for number in re.findall(r"[0-9]+", clean))


# what every output says of itself; a name that is part of it ("Form", "Tion") cannot be searched for
MARKERS = " ".join([METHOD, *(code.meaning for code in method_codes(frozenset(Option)))]).casefold()
WORDS = st.text("abcdefghijklmnopqrstuvwxyzäöüéñ", min_size=4, max_size=12).filter(
    lambda word: word not in VOCABULARY | PLACEHOLDERS and word not in MARKERS
)
PLACES = [
    "PatientComments",
    "Manufacturer",
    "SoftwareVersions",
    "ImageComments",
    "SequenceName",
    "BodyPartExamined",
    "KVP",
    "ContentDescription",
    "SliceThickness",
]


# A patient may be called like a word that every output holds; the file is then kept out or holds it.
OWN_WORDS = " ".join([METHOD, writer.IMPLEMENTATION_NAME, *(code.meaning for code in EVERY_CODE)]).casefold()


@given(
    name=WORDS,
    place=st.sampled_from(PLACES),
    depth=st.integers(0, 4),
    kind=st.sampled_from(["LO", "UT", "CS", "UN", "OB", "SH", "LT", "SQ"]),
)
@WHOLE
def test_a_name_in_any_place_and_depth_never_survives(name, place, depth, kind):
    assume(name not in OWN_WORDS)
    ds = image(SpecificCharacterSet="ISO_IR 192", PatientName=f"{name}^Ann")
    tag = pydicom.datadict.tag_for_keyword(place)
    value = f"x {name}".encode()
    planted = (
        Element(tag, kind, value)
        if kind != "SQ"
        else Element(tag, "SQ", items=[[Element(0x00104000, "LT", value)]])
    )
    for _ in range(depth):
        planted = Element(0x00089215, "SQ", items=[[planted]])
    with tempfile.TemporaryDirectory() as folder:
        data = save(ds, Path(folder) / "a").read_bytes()
        start = data.index(b"\x08\0\5\0CS")
        body = {element.tag: element for element in parse(data[start:], LITTLE)} | {planted.tag: planted}
        data = data[:start] + encode(body.values(), LITTLE)
        entry, content = _cleaned(data, Path(folder))
    assert name.encode() not in content.lower()
    assert name.encode() in data
    assert entry.status == WRITTEN, entry.reason


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_files_never_stop_the_run_and_never_leak(data):
    with tempfile.TemporaryDirectory() as folder:
        ds = image(DerivationImageSequence=Sequence([nested(2, item(PatientName="Quillfeather^Marigold"))]))
        content = bytearray(save(ds, Path(folder) / "a").read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(128, len(content) - 130))] = data.draw(st.integers(0, 255))
        entry, out = _cleaned(bytes(content), Path(folder))
    if entry.status == WRITTEN:
        assert b"Quillfeather" not in out
        assert b"Marigold" not in out
        assert bytes(content[:900]) not in out
        assert pydicom.dcmread(io.BytesIO(out)).PatientIdentityRemoved in ("YES", "NO")
    else:
        assert not out


@given(
    changes=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=6)), max_size=6),
    cut=st.none() | st.integers(0, 4000),
    syntax=st.sampled_from(["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"]),
)
@WHOLE
def test_mutated_bytes_become_a_clean_instance_or_a_typed_error(changes, cut, syntax):
    with tempfile.TemporaryDirectory() as folder:
        inside = nested(2, item(PatientName="Quillfeather^Marigold"))
        original = image(DerivationImageSequence=Sequence([inside]))
        data = bytearray(save(original, Path(folder) / "a", syntax=syntax).read_bytes())
    for at, new in changes:
        data[at % len(data) : at % len(data) + len(new)] = new
    tool = Deidentifier(key=KEY, site="north")
    try:
        outcome: object = tool.deidentify(data[:cut])
    except Quarantined as refusal:
        outcome = refusal
    if isinstance(outcome, Quarantined):
        assert outcome.reason in Reason
        assert outcome.__context__ is None
    else:
        assert outcome.dataset.SOPInstanceUID == outcome.sop_instance_uid
        assert changes or b"Quillfeather" not in outcome.content
