"""The fast searches for identifiers find what the plain ones find."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.deid.identifiers import Identifiers
from meninx.deid.raw_search import ByteKind, raw_search
from meninx.dicomfile.file_part import WINDOW, FilePart, JoinedPieces

NAMES = ("müller", "smith", "dracu", "quillfeather")
UID = b"1.2.3.4.5.678"
PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"Smith", b"SMITH", b"M\xfcller", "Müller".encode(), b"5512347", b"19570314", UID, b"Elm  Street"]
    ),
    st.text("abcsmith 0123457.", max_size=12).map(str.encode),
)


def plainly(content: bytes, needles: dict[bytes, bytes]) -> bool:
    """Return whether an identifier stands in the bytes, by looking at every place."""
    lower = content.lower()
    return any(
        re.compile(pattern, re.IGNORECASE).match(content, found.start())
        for needle, pattern in needles.items()
        for found in re.finditer(b"(?=" + re.escape(needle) + b")", lower)
    )


@given(st.lists(PIECES, max_size=8).map(b"".join))
def test_identifiers_in_bytes_are_found_where_a_plain_search_finds_them(content):
    parts = [frozenset(part) for part in (NAMES, ("5512347",), ("19570314",), ("elm street",), ())]
    search = raw_search(*parts, frozenset({"iso8859"}))
    around = rb"(?<![0-9.])" + re.escape(UID) + rb"(?![0-9])(?!\.[0-9])"
    needles = {**search.patterns, UID: around}
    uids = frozenset({UID})
    assert search.found_in(content, uids) == plainly(content, needles)
    lower = content.lower()
    glued = [needle for needle in needles if len(content) < ByteKind.BYTES.longest(needle)]
    wide = [b"\0".join(needle[at : at + 1] for at in range(len(needle))) for needle in glued]
    spelled = any(needle in lower for needle in glued)
    assert search.found_in(content, uids, kind=ByteKind.SAMPLES) == (spelled or plainly(content, needles))
    if any(way in lower for way in wide):
        assert search.found_in(content, uids, kind=ByteKind.BYTES)


@given(
    st.sampled_from([b"DrAcu", b"dracu", b"Quillfeather", b"5512347", UID]),
    st.integers(0, 40) | st.integers((1 << 18) - 12, (1 << 18) + 4),
    st.sampled_from([b"\xff", b"\0", b"Q", b"51", b"\1\x0f"]),
    st.integers(0, 9),
    st.sampled_from(ByteKind),
)
def test_an_identifier_is_found_at_every_place_among_any_pixels(word, place, pixels, behind, kind):
    parts = [frozenset(part) for part in (NAMES, ("5512347",), ("19570314",), (), ())]
    search = raw_search(*parts, frozenset({"iso8859"}))
    content = (pixels * place)[:place] + b" " + word + b" " + (pixels * behind)[:behind]
    assert search.found_in(content, frozenset({UID}), kind=kind)
    assert not search.found_in(content.replace(word, word[:-2] + b"\0\0"), frozenset({UID}), kind=kind)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["14 Mar 1957", "14.3.57", "1957-03-14", "19570314", "Smith", "MRN 5512347", "elm   street"]
            ),
            st.text("smith elmstreet0123457./- ", max_size=12),
        ),
        max_size=5,
    ).map(" ".join)
)
def test_a_text_without_a_piece_of_an_identifier_holds_none(text):
    found = Identifiers(set(NAMES), {"5512347"}, {"19570314"}, set(), {"elm street"})
    assert found.found_in(text) == bool(found._texts.pattern.search(text.casefold()))


@settings(max_examples=20)
@given(st.integers(0, 3 * WINDOW), st.integers(0, 9), st.data())
def test_a_part_of_a_file_is_the_bytes_of_the_file(size, head, data):
    content = bytes(range(256)) * (size // 256 + 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(bytes(head) + content)
        with path.open("rb", buffering=0) as stream:
            part = FilePart(stream, head, len(content))
            start = data.draw(st.integers(0, len(content)))
            stop = data.draw(st.integers(start, len(content)))
            assert bytes(part[start:stop]) == content[start:stop]
            assert b"".join(part.windows()) == bytes(part) == content
            assert part[-1] == content[-1]
            joined = JoinedPieces([b"ab", part, memoryview(b"cd")])
            assert joined[start : stop + 4] == (b"ab" + content + b"cd")[start : stop + 4]


@settings(max_examples=20)
@given(st.binary(max_size=200), st.data())
def test_changed_bytes_of_a_file_are_the_same_in_every_slice(content, data):
    def change(part: bytes) -> bytes:
        return bytes(byte ^ 0x0F for byte in part)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        with path.open("rb", buffering=0) as stream:
            part = FilePart(stream, 0, len(content)).changed(change)
            start = data.draw(st.integers(0, len(content)))
            stop = data.draw(st.integers(start, len(content)))
            assert bytes(part[start:stop]) == change(content)[start:stop]
            assert bytes(part) == change(content)
