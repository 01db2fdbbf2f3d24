"""Damaged headers, by the thousand: never a crash, never an unprocessed copy, never a name."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.sequence import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import KEY, image, item, nested, save

from meninx.deid import worker
from meninx.deid.config import DeidConfig
from meninx.deid.discover import Found
from meninx.deid.issuers import shared_ids
from meninx.deid.journal import WRITTEN
from meninx.deid.keys import SiteKey
from meninx.deid.pseudonyms import Pseudonyms
from meninx.deid.resolver import Resolver

SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
WORDS = [
    b"SQ",
    b"UN",
    b"PN",
    b"OB",
    b"OW",
    b"UT",
    b"\xff\xff\xff\xff",
    bytes(4),
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0",
    b"\xfe\xff\xdd\xe0",
]
WORDS += [b"\\", b"\x1b$B", b"\xe0\x7f\x10\0", b"\x10\0\x10\0PN", b"ISO_IR 192", b"\x09\0\x10\0LO", b"\0\x60\0\x30OW"]
NAMES = (b"Quillfeather", b"Marigold")


def originals(folder: Path) -> list[bytes]:
    """Return one file of every plain syntax, with nested, private, unknown and coded elements."""
    made = []
    for syntax in SYNTAXES:
        ds = image(
            DerivationImageSequence=Sequence([nested(3, item(PatientName="Quillfeather^Marigold", TextString="Marigold"))])
        )
        ds.AnatomicRegionSequence = Sequence([item(CodeValue="1", CodingSchemeDesignator="SCT", CodeMeaning="of Quillfeather")])
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", "1000")
        ds.private_block(0x0029, "ACME", create=True).add_new(0x01, "SQ", Sequence([item(PatientName="Marigold")]))
        made.append(save(ds, folder / "original", syntax=syntax).read_bytes())
    return made


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return a copy with one to six random changes behind the preamble: bytes, lengths, pieces moved, cut, doubled."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        at = draw.randrange(132, max(133, len(data) - 8))
        kind = draw.choice((0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6))
        if kind == 0:
            data[at] = draw.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            word = draw.choice(WORDS)
            data[at : at + len(word)] = word
        elif kind == 3:
            data[at:at] = draw.choice(WORDS)
        elif kind == 4:
            del data[at : at + draw.choice((1, 2, 4, 8, 64))]
        elif kind == 5:
            start = draw.randrange(132, max(133, len(data) - 8))
            data[at:at] = data[start : start + draw.choice((2, 8, 32, 200))]
        else:
            del data[len(data) - draw.randrange(1, 40) :]
    return bytes(data)


def attempt(content: bytes, folder: Path, outputs: dict[Path, bytes]) -> str:
    """De-identify one damaged file, judge what comes out, and return the reason (or "written")."""
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a").write_bytes(content)
    resolver = Resolver(Pseudonyms(SiteKey(KEY, "north")), shared=shared_ids(folder / "in", [Found("a")]))
    engine = worker.Engine(
        source=folder / "in", out=folder / "out", profile=PROFILE, resolver=resolver, rename=True, max_age=89, dry_run=False
    )
    outputs.clear()
    entry = worker.process(engine, Found("a"), None)
    out = outputs.get(engine.staged("a"), b"")
    if entry.status != WRITTEN:
        assert not engine.staged("a").exists()
        return str(entry.reason)
    assert not any(name in out for name in NAMES), "a name came out"
    assert content[132:900] not in out
    assert pydicom.dcmread(pydicom.filebase.DicomBytesIO(out), force=True).PatientIdentityRemoved == "YES"
    return WRITTEN


PROFILE = DeidConfig().compiled()


def mutate(count: int, seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how often each end was met."""
    outputs: dict[Path, bytes] = {}

    def write(path: Path, content: bytes, **options: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)  # without waiting for the disk
        outputs[path] = content

    monkeypatch.setattr(worker.files, "write_bytes", write)
    draw, ends = random.Random(seed), {}
    sources = originals(folder)
    for number in range(count):
        content = damaged(sources[number % len(sources)], draw)
        end = attempt(content, folder, outputs)
        ends[end] = ends.get(end, 0) + 1
        Path(folder / "out" / "private" / "staging").mkdir(parents=True, exist_ok=True)
        for path in (folder / "out" / "private" / "staging").iterdir():
            path.unlink()
    return ends


def test_some_hundred_damaged_files(tmp_path, monkeypatch):
    ends = mutate(300, 1, tmp_path, monkeypatch)
    assert ends[WRITTEN] > 30
    assert len(ends) >= 4


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path, monkeypatch):
    ends = mutate(10_000, 2, tmp_path, monkeypatch)
    assert ends[WRITTEN] > 1000
    assert len(ends) >= 5
