"""Damaged headers, by the thousand: never a crash, never an unprocessed copy, never a name."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import image, images, item, key_file, nested, save

from meninx.deid.config import DeidConfig
from meninx.deid.output import WRITTEN
from meninx.deid.stage import run

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
WORDS += [
    b"\\",
    b"\x1b$B",
    b"\xe0\x7f\x10\0",
    b"\x10\0\x10\0PN",
    b"ISO_IR 192",
    b"\x09\0\x10\0LO",
    b"\0\x60\0\x30OW",
]
NAMES = (b"Quillfeather", b"Marigold")


def originals(folder: Path) -> list[bytes]:
    """Return one file of every plain syntax, with nested, private, unknown and coded elements."""
    made = []
    for syntax in SYNTAXES:
        ds = image(
            DerivationImageSequence=Sequence(
                [nested(3, item(PatientName="Quillfeather^Marigold", TextString="Marigold"))]
            )
        )
        ds.AnatomicRegionSequence = Sequence(
            [item(CodeValue="1", CodingSchemeDesignator="SCT", CodeMeaning="of Quillfeather")]
        )
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", "1000")
        ds.private_block(0x0029, "ACME", create=True).add_new(
            0x01, "SQ", Sequence([item(PatientName="Marigold")])
        )
        made.append(save(ds, folder / "original", syntax=syntax).read_bytes())
    return made


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return a copy with one to six random changes of bytes, lengths or order behind the preamble."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        at = draw.randrange(132, max(133, len(data) - 8))
        kind = draw.choice((0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 7, 8))
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
        elif kind == 6:
            del data[len(data) - draw.randrange(1, 40) :]
        elif kind == 7:  # a NUL, a path or a line end in the middle of a UID
            place = data.find(b"1.2.", at)
            word = draw.choice((b"\0", b"\t", b"\n", b"../", b"/", b"\xe2\x80\xae"))
            data[place + 5 : place + 5 + len(word)] = word
        else:  # lengths swapped
            other = draw.randrange(132, max(133, len(data) - 8))
            data[at : at + 2], data[other : other + 2] = data[other : other + 2], data[at : at + 2]
    return bytes(data)


def all_samples(folder: Path) -> list[bytes]:
    """Return the plain files, compressed ones, and small files of pydicom's installed test data."""
    found = originals(folder)
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        ds = image(Rows=64, Columns=64, PixelData=bytes(range(256)) * 96, NumberOfFrames="3")
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = SYNTAXES[1]
        ds.compress(syntax, generate_instance_uid=False)
        found.append(save(ds, folder / "original", syntax=syntax).read_bytes())
    paths = sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*.dcm"))
    return found + [path.read_bytes() for path in paths if path.stat().st_size < 60_000]


def numbered(content: bytes, number: int) -> bytes:
    """Return an explicit VR file with an instance UID of its own, so that not all but one are duplicates."""
    at = content.find(b"\x08\0\x18\0UI")
    if at < 0:
        return content
    end = at + 8 + int.from_bytes(content[at + 6 : at + 8], "little")
    return content[: end - 7] + f".1{number:04d}".encode() + content[end - 1 :]


def mutate(count: int, seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """De-identify a folder of damaged files, judge what comes out, and return how often each end was met."""
    monkeypatch.setattr("os.fsync", lambda handle: None)  # without waiting for the disk
    draw, samples = random.Random(seed), all_samples(folder)
    source, out = folder / "deep" / "in", folder / "deep" / "out"
    source.mkdir(parents=True)
    for number in range(count):
        content = numbered(samples[number % len(samples)], number)
        (source / f"{number:05d}").write_bytes(damaged(content, draw))
    before = set(folder.rglob("*"))
    config = DeidConfig(key=key_file(folder), site="north", workers=1, pixels="keep")
    result = run(config, source, out)
    assert result.files_read == count == result.files_written + sum(result.quarantined.values())
    outside = {path for path in folder.rglob("*") if not path.is_relative_to(out)} - before
    registry = "site.key.north.registry"
    assert outside == {folder / name for name in ("site.key", registry, f"{registry}.lock")}
    for path in images(out):
        content = path.read_bytes()
        assert not any(name in content for name in NAMES), "a name came out"
        ds = pydicom.dcmread(path)
        assert ds.PatientIdentityRemoved in ("YES", "NO")
        assert path.stem == ds.SOPInstanceUID
    return {**result.quarantined, WRITTEN: result.files_written}


def test_some_hundred_damaged_files(tmp_path, monkeypatch):
    ends = mutate(300, 1, tmp_path, monkeypatch)
    assert ends[WRITTEN] > 30
    assert len(ends) >= 4
    assert ends.get("processing-failed", 0) <= 3  # every other reason says what is wrong with the file


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path, monkeypatch):
    ends = mutate(10_000, 2, tmp_path, monkeypatch)
    assert ends[WRITTEN] > 1000
    assert len(ends) >= 8
    assert ends.get("processing-failed", 0) <= 100
