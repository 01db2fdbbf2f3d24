"""Zip archives as sources: what is read, what is refused, and that nothing hostile is more than a reason."""

from __future__ import annotations

import io
import random
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from deid_samples import clean, image, images, key_file, leaks, save, tree

from meninx.core.errors import DataError
from meninx.deid import worker
from meninx.dicomfile import zip_archive
from meninx.dicomfile.discover import files_below, member_at
from meninx.dicomfile.refusals import Reason, Refused


def instance_bytes(folder: Path, number: int = 1, **changes) -> bytes:
    return save(image(number, **changes), folder / f"made{number}").read_bytes()


def packed(path: Path, members, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write an archive of (name or ZipInfo, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def reasons(path: Path) -> dict[str, str]:
    return {member.name: member.refused for member in zip_archive.members_of(path)}


def content(path: Path, member: zip_archive.ZipMember) -> bytes:
    with zip_archive.opened(path, member, None) as found:
        return bytes(found)


def with_field(path: Path, mark: bytes, offset: int, value: bytes, nth: int = 0) -> Path:
    """Change a field of the n-th header with that mark."""
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(nth + 1):
        at = data.index(mark, at + 1)
    data[at + offset : at + offset + len(value)] = value
    path.write_bytes(data)
    return path


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_members_are_read_as_they_were_packed(tmp_path, method, size):
    whole = np.random.default_rng(1).bytes(size)
    path = packed(tmp_path / "a", [("folder/", b""), ("folder/x", whole), ("ä", b"umlaut")], method)
    found = zip_archive.members_of(path)
    assert [(member.name, member.refused) for member in found] == [("folder/x", ""), ("ä", "")]
    assert [content(path, member) for member in found] == [whole, b"umlaut"]


def test_zip64_and_streamed_archives_are_read(tmp_path):
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.parts = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.parts += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a", "b"):
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(name.encode() * 1000)
    (tmp_path / "z").write_bytes(pipe.parts)
    assert [content(tmp_path / "z", one) for one in zip_archive.members_of(tmp_path / "z")] == [
        b"a" * 1000,
        b"b" * 1000,
    ]


@pytest.mark.slow
def test_more_members_than_an_ordinary_directory_can_count_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "y", "w") as archive:
        for number in range(65_600):
            archive.writestr(str(number), b"")
    assert len(zip_archive.members_of(tmp_path / "y")) == 65_600


def test_a_zip64_end_record_is_read_and_must_agree(tmp_path):
    path = packed(tmp_path / "a", [("x", b"hello")])
    data = path.read_bytes()
    at = data.index(END)
    fields = struct.unpack_from("<4s4H2LH", data, at)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, fields[5], fields[6])
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:at] + wide + locator + end)
    (member,) = zip_archive.members_of(path)
    assert content(path, member) == b"hello"
    for wrong in (at - 1, at + 1, 0, 2**63):
        path.write_bytes(data[:at] + wide + struct.pack("<4sLQL", b"PK\x06\x07", 0, wrong, 1) + end)
        with pytest.raises(Refused, match="zip-damaged"):
            zip_archive.members_of(path)


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../x", "a//x", "a\\x", "C:x", "./x", "a" * 300, "a/" * 70 + "x", "a\nx", "a\x7f"],
)
def test_odd_names_are_refused_by_number_and_others_stay(tmp_path, name):
    path = packed(tmp_path / "a", [(name.replace("\\", "|"), b"odd"), ("good", b"good")])
    if "\\" in name:
        path.write_bytes(path.read_bytes().replace(b"a|x", b"a\\x"))
    assert reasons(path) == {"/1": "zip-name", "good": ""}


def test_a_name_with_nul_or_broken_utf_8_is_refused(tmp_path):
    path = packed(tmp_path / "a", [("abcä", b"odd"), ("good", b"good")])
    data = path.read_bytes()
    path.write_bytes(data.replace("abcä".encode(), b"abc\xff\xff"))
    assert reasons(path) == {"/1": "zip-name", "good": ""}
    path.write_bytes(data.replace("abcä".encode(), b"a\0cde"))
    assert reasons(path) == {"/1": "zip-name", "good": ""}


def test_links_encrypted_and_other_methods_are_refused_each_by_its_reason(tmp_path):
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    path = packed(tmp_path / "a", [(link, b"/etc/passwd"), ("good", b"good")])
    assert reasons(path) == {"link": "zip-link", "good": ""}
    path = packed(tmp_path / "b", [("secret", b"secret"), ("good", b"good")])
    with_field(with_field(path, CENTRAL, 8, b"\x01"), LOCAL, 6, b"\x01")
    assert reasons(path) == {"secret": "zip-encrypted", "good": ""}
    path = packed(tmp_path / "c", [("x", b"secret" * 99)], zipfile.ZIP_LZMA)
    assert reasons(path) == {"x": "zip-method"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_both_refused(tmp_path):
    path = packed(tmp_path / "a", [("x", b"1"), ("x", b"2"), ("good", b"3")])
    assert reasons(path) == {"/1 again": "zip-duplicate", "/2 again": "zip-duplicate", "good": ""}


def test_an_entry_that_points_to_the_bytes_of_another_member_is_refused(tmp_path):
    path = packed(tmp_path / "a", [("aa", b"1" * 99), ("bb", b"2"), ("cc", b"3")])
    with_field(path, CENTRAL, 42, bytes(4), nth=1)
    assert reasons(path) == {"aa": "", "bb": "zip-member-damaged", "cc": ""}


def test_a_bomb_that_quotes_the_headers_of_its_members_is_refused(tmp_path):
    """As D. Fifield built it: each member is a stored quotation of all later ones."""
    kernel = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = kernel.compress(bytes(1 << 20)) + kernel.flush()
    names, parts, offsets = [b"a", b"b", b"c"], [], []
    inner, crc, size = body, zlib.crc32(bytes(1 << 20)), 1 << 20
    for name in reversed(names):
        head = LOCAL + struct.pack("<5H3L2H", 20, 0, 8, 0, 0, crc, len(inner), size, 1, 0) + name
        parts.append((name, crc, len(inner), size))
        inner = struct.pack("<B2H", 0, len(head), len(head) ^ 0xFFFF) + head + inner
    data = inner[5:]
    for name, *_ in reversed(parts):
        offsets.append(data.index(LOCAL + struct.pack("<5H", 20, 0, 8, 0, 0), (offsets or [-1])[-1] + 1))
        assert data[offsets[-1] + 30 : offsets[-1] + 31] == name
    directory = b"".join(
        CENTRAL + struct.pack("<6H3L5H2L", 20, 20, 0, 8, 0, 0, crc, length, size, 1, 0, 0, 0, 0, 0, at) + name
        for (name, crc, length, size), at in zip(reversed(parts), offsets, strict=True)
    )
    end = END + struct.pack("<4H2LH", 0, 0, 3, 3, len(directory), len(data), 0)
    (tmp_path / "bomb").write_bytes(data + directory + end)
    assert set(reasons(tmp_path / "bomb").values()) == {"zip-overlap"}


def test_what_grows_too_far_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    path = packed(tmp_path / "a", [("x", bytes(40 << 20)), ("good", b"1")])
    assert reasons(path) == {"x": "inflates-too-far", "good": ""}
    monkeypatch.setattr(zip_archive, "ALWAYS_TOTAL", 1 << 20)
    with pytest.raises(Refused, match="zip-too-large"):
        zip_archive.members_of(path)
    monkeypatch.setattr(zip_archive, "MOST_MEMBERS", 1)
    with pytest.raises(Refused, match="zip-too-large"):
        zip_archive.members_of(path)


def test_a_size_that_lies_is_refused_and_memory_stays(tmp_path):
    path = packed(tmp_path / "a", [("x", bytes(30 << 20))])
    for mark, offset in ((CENTRAL, 24), (LOCAL, 22)):
        with_field(path, mark, offset, struct.pack("<L", 1000))
    (member,) = zip_archive.members_of(path)
    with pytest.raises(Refused, match="zip-member-damaged"):
        content(path, member)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_checksum_is_refused(tmp_path, method):
    path = packed(tmp_path / "a", [("x", b"hello" * 10)], method)
    with_field(with_field(path, CENTRAL, 16, b"\0\0\0\0"), LOCAL, 14, b"\0\0\0\0")
    (member,) = zip_archive.members_of(path)
    with pytest.raises(Refused, match="zip-member-damaged"):
        content(path, member)


def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path):
    path = packed(tmp_path / "a", [("x", b"hello" * 10), ("y", b"there")])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Refused, match="zip-damaged"):
            zip_archive.members_of(path)


def test_archives_are_found_by_content_and_members_stand_in_the_order_of_paths(tmp_path):
    packed(tmp_path / "in" / "b.dat", [("z", b"1"), ("a/b", b"2")])
    (tmp_path / "in" / "no.zip").write_bytes(b"no archive")
    packed(tmp_path / "in" / "c.zip", [])
    found = files_below(tmp_path / "in")
    assert [(one.path, one.refused) for one in found] == [
        ("b.dat//a/b", ""),
        ("b.dat//z", ""),
        ("c.zip", "zip-empty"),
        ("no.zip", ""),
    ]
    assert [one.path for one in files_below(tmp_path / "in" / "b.dat")] == ["b.dat//a/b", "b.dat//z"]
    assert member_at(tmp_path / "in", "b.dat//z") == found[1]
    with pytest.raises(Refused):
        member_at(tmp_path / "in", "b.dat//other")


def cohort(tmp_path: Path) -> Path:
    for number in range(1, 5):
        save(image(number), tmp_path / "in" / "folder" / f"IM{number}")
    (tmp_path / "in" / "note.txt").write_text("no image")
    return tmp_path / "in"


def test_a_folder_and_the_zip_of_that_folder_give_the_same_images(tmp_path):
    source = cohort(tmp_path)
    clean(tmp_path, "plain")
    for kind in ("zip", "stored"):
        method = zipfile.ZIP_DEFLATED if kind == "zip" else zipfile.ZIP_STORED
        members = [(path.relative_to(source).as_posix(), path.read_bytes()) for path in source.rglob("*")
                   if path.is_file()]  # fmt: skip
        archive = packed(tmp_path / f"{kind}.zip", members, method)
        result = clean(tmp_path, kind, f"{kind}.zip")
        assert (result.files_read, result.files_written, result.quarantined) == (5, 4, {"not-dicom": 1})
        assert tree(tmp_path / kind / "images") == tree(tmp_path / "plain" / "images")
        archive.unlink()
    assert not leaks(tmp_path / "zip")


def test_one_bad_member_never_stops_the_others_and_each_is_accounted_for(tmp_path):
    good = instance_bytes(tmp_path / "made")
    inner = packed(tmp_path / "inner.zip", [("x", good)]).read_bytes()
    packed(
        tmp_path / "in" / "delivery",
        [("../climb", good), ("a", good), ("inner", inner), ("t", b"\0" * 257 + b"ustar"), ("text", b"text")],
    )
    for name, head in (("7z", b"7z\xbc\xaf\x27\x1c"), ("rar", b"Rar!\x1a\x07"), ("gz", b"\x1f\x8b")):
        (tmp_path / "in" / name).write_bytes(head.ljust(600, b"\0"))
    (tmp_path / "in" / "tar").write_bytes(b"\0" * 257 + b"ustar".ljust(300))
    result = clean(tmp_path)
    assert (result.files_read, result.files_written) == (9, 1)
    assert result.quarantined == {
        "archive": 4,
        "archive-in-archive": 2,
        "not-dicom": 1,
        "zip-name": 1,
    }
    listed = (tmp_path / "out" / "private" / "quarantine.csv").read_text()
    assert '"delivery///1","zip-name"' in listed
    assert "climb" not in listed


def test_workers_dry_run_kept_folders_and_a_second_run_work_as_for_files(tmp_path, monkeypatch):
    source = cohort(tmp_path)
    large = np.zeros((1100, 1100), "<u2")
    large[0, 0] = 7
    save(image(9, PixelData=np.tile(large, 3).tobytes(), Rows=1100, Columns=3300), source / "large")
    packed(tmp_path / "zips" / "d.zip", [(p.name, p.read_bytes()) for p in source.rglob("*") if p.is_file()])
    dry = clean(tmp_path, "none", "zips", dry_run=True)
    assert dry.quarantined == {"not-dicom": 1}
    assert not (tmp_path / "none").exists()
    first = clean(tmp_path, "one", "zips")
    clean(tmp_path, "two", "zips", workers=2)
    assert first.files_written == 5
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert clean(tmp_path, "kept", "zips", rename=False).files_written == 5
    monkeypatch.setattr(worker, "_deidentified", None)
    assert clean(tmp_path, "one", "zips").files_resumed == 6


def test_a_source_of_nothing_but_other_archives_says_what_to_do(tmp_path):
    packed(tmp_path / "in" / "a.zip", [("x", b"text")])
    with pytest.raises(DataError, match="7z and rar archives must be unpacked"):
        clean(tmp_path)


def mutated(data: bytes, seed: int) -> bytes:
    draw = random.Random(seed)
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at = draw.randrange(len(content))
        action = draw.randrange(4)
        if action == 0:
            content[at] = draw.randrange(256)
        elif action == 1:
            del content[at : at + draw.randrange(1, 40)]
        elif action == 2:
            content[at:at] = draw.randbytes(draw.randrange(1, 40))
        else:
            content[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", CENTRAL, LOCAL, END))
        content = content or bytearray(b"P")
    return bytes(content)


def attack(tmp_path: Path, seeds: range) -> tuple[int, int]:
    """Read mutated archives; return how many members were given and how many archives were refused."""
    given = refused = 0
    parts = [(f"f/{number}", instance_bytes(tmp_path, number)) for number in (1, 2)]
    parts.append(("text", bytes(300)))
    data = packed(tmp_path / "whole.zip", parts).read_bytes()
    originals = {content for _, content in parts}
    path = tmp_path / "mutated.zip"
    for seed in seeds:
        path.write_bytes(mutated(data, seed))
        try:
            found = zip_archive.members_of(path)
        except Refused:
            refused += 1
            continue
        assert len({member.name for member in found}) == len(found)
        for member in found:
            if member.refused:
                assert member.refused in set(Reason)
                continue
            try:
                assert content(path, member) in originals
                given += 1
            except Refused:
                refused += 1
    return given, refused


def test_mutated_archives_give_whole_members_or_reasons(tmp_path):
    given, refused = attack(tmp_path, range(300))
    assert given > 50
    assert refused > 50


@pytest.mark.slow
def test_ten_thousand_mutated_archives_give_whole_members_or_reasons(tmp_path):
    given, refused = attack(tmp_path, range(10_000))
    assert given > 1000
    assert refused > 1000


@pytest.mark.slow
def test_no_mutated_archive_leads_to_an_unprocessed_copy(tmp_path):
    parts = [(f"f/{number}", instance_bytes(tmp_path, number)) for number in (1, 2)]
    data = packed(tmp_path / "whole.zip", parts).read_bytes()
    (tmp_path / "in").mkdir()
    key = key_file(tmp_path)
    for seed in range(200):
        (tmp_path / "in" / "a.zip").write_bytes(mutated(data, seed))
        try:
            clean(tmp_path, key=key)
        except DataError:
            continue
        assert not leaks(tmp_path / "out")
        assert len(images(tmp_path / "out")) <= 2
        shutil.rmtree(tmp_path / "out")
