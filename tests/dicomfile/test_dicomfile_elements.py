from __future__ import annotations

import struct

import pytest
from deid_samples import image, item, nested, save
from pydicom.sequence import Sequence

from meninx.dicomfile.elements import Element, Encoding, Malformed, Truncated, encode, parse, parse_items

LITTLE = Encoding(implicit=False, little=True)


def test_every_cut_of_a_data_set_is_noticed_or_ends_between_elements(tmp_path):
    ds = image(DerivationImageSequence=Sequence([nested(2, item(PatientName="A^B"))]))
    data = save(ds, tmp_path / "a").read_bytes()
    body = data[data.index(b"\x08\0\5\0CS") :]
    whole = parse(body, LITTLE)
    ends = set()
    for element in range(1, len(whole) + 1):
        ends.add(len(encode(whole[:element], LITTLE)))
    for cut in range(1, len(body)):
        if cut in ends:
            continue
        with pytest.raises(Truncated):
            parse(body[:cut], LITTLE)


@pytest.mark.parametrize("encoding", [Encoding(a, b) for a in (True, False) for b in (True, False)])
def test_what_is_written_is_read_back(encoding):
    tree = [
        Element(0x00080016, "UI", b"1.2\0"),
        Element(0x00081140, "SQ", items=[[Element(0x00081155, "UI", b"1.25")], []]),
        Element(0x00280010, "US", b"\1\0"),
        Element(0x7FE00010, "OW", b"\1\2\3\4"),
    ]
    again = parse(encode(tree, encoding), encoding)
    assert [(e.tag, bytes(e.value)) for e in again] == [(e.tag, bytes(e.value)) for e in tree]
    assert [[x.tag for x in i] for i in again[1].items or []] == [[0x00081155], []]


def test_undefined_lengths_and_fragments_are_read():
    item_head, item_end = (
        struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF),
        struct.pack("<HHL", 0xFFFE, 0xE00D, 0),
    )
    sequence_end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    inner = b"\x08\0\x55\x11UI\4\x001.25"
    sequence = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + item_head + inner + item_end + sequence_end
    pixels = (
        b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
        + struct.pack("<HHL", 0xFFFE, 0xE000, 0)
        + struct.pack("<HHL", 0xFFFE, 0xE000, 2)
        + b"\1\2"
        + sequence_end
    )
    references, data = parse(sequence + pixels, LITTLE)
    assert references.items is not None
    assert references.items[0][0].value == b"1.25"
    assert data.undefined
    assert len(data.value) == 18
    assert encode([data], LITTLE) == pixels
    for cut in (1, 8, 20):
        with pytest.raises(Truncated):
            parse((sequence + pixels)[:-cut], LITTLE)


def test_endless_nesting_is_refused():
    deep = b""
    for _ in range(80):
        deep = (
            encode([Element(0x00081140, "SQ", items=[[]])], LITTLE)[:8]
            + struct.pack("<L", len(deep) + 8)
            + struct.pack("<HHL", 0xFFFE, 0xE000, len(deep))
            + deep
        )
    with pytest.raises(Malformed):
        parse(deep, LITTLE)
    assert parse_items(b"Marigold", little=True) is None
    assert parse_items(b"", little=True) is None
