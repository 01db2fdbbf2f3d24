"""Large files stay in the file: the same bytes as in memory, flat memory, and every byte of them checked."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from deid_samples import KEY, clean, image, images, key_file, save
from pydicom.encaps import encapsulate, generate_frames

from meninx.core.progress import SILENT
from meninx.deid import stage, worker
from meninx.deid.cleaner import Cleaner
from meninx.deid.config import DeidConfig
from meninx.deid.deidentifier import Deidentifier
from meninx.deid.identity import identity_registry
from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.deid.output import WRITTEN, FileJournal, FileResult
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.refusals import Reason

FRAGMENTS = "1.2.840.10008.1.2.1.98"  # native frames as fragments, which no codec has to read
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
FRAME = 512 * 512 * 2  # bytes
_RUN = """
import resource, sys
from pathlib import Path
from meninx.deid.config import DeidConfig
from meninx.deid.stage import run
source, out, key = map(Path, sys.argv[1:])
written = run(DeidConfig(key=key, site="north", workers=1), source, out).files_written
print(written, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def engine(folder: Path) -> worker.Engine:
    cleaner = Cleaner(profile=DeidConfig().compiled(), resolver=Resolver(Pseudonyms(SiteKey(KEY, "north"))))
    return worker.Engine(source=folder / "in", out=folder / "out", cleaner=cleaner)


def many_frames(path: Path, frames: int) -> Path:
    """Write a multi-frame image whose zero pixels take no room on the disk; return its path."""
    one = image(Rows=512, Columns=512, NumberOfFrames=str(frames), PixelData=b"\0\0")
    content = save(one, path).read_bytes()
    with path.open("wb") as stream:
        stream.write(content[:-6] + struct.pack("<L", frames * FRAME))
        stream.truncate(len(content) - 2 + frames * FRAME)
    return path


def many_fragments(path: Path, frames: int) -> Path:
    """Write an encapsulated multi-frame image whose zero pixels take no room on the disk; return its path."""
    one = image(Rows=512, Columns=512, NumberOfFrames=str(frames), PixelData=encapsulate([b"\0\0"]))
    one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    content = save(one, path, syntax=FRAGMENTS).read_bytes()
    at = content.index(b"\xe0\x7f\x10\0OB") + 12
    with path.open("wb") as stream:
        stream.write(content[:at] + b"\xfe\xff\0\xe0\0\0\0\0")
        for _ in range(frames):
            stream.write(b"\xfe\xff\0\xe0" + struct.pack("<L", FRAME))
            stream.seek(FRAME, os.SEEK_CUR)
        stream.write(b"\xfe\xff\xdd\xe0\0\0\0\0")
    return path


def noise(frames: int = 10) -> bytes:
    return np.random.default_rng(5).integers(0, 4096, frames * FRAME // 2).astype("<u2").tobytes()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_file_that_stays_on_the_disk_gives_the_bytes_that_memory_gives(tmp_path, syntax):
    pixels = noise()
    if syntax == BIG_ENDIAN:
        pixels = np.frombuffer(pixels, dtype="<u2").astype(">u2").tobytes()
    large = image(Rows=512, Columns=512, NumberOfFrames="10", PixelData=pixels)
    path = save(large, tmp_path / "in" / "a", syntax=syntax)
    assert path.stat().st_size > worker._LARGE
    with worker._file(path) as data:
        assert isinstance(data, FilePart)
    assert clean(tmp_path).files_written == 1
    expected = Deidentifier(key=KEY, site="north").deidentify(path.read_bytes()).content
    [written] = images(tmp_path / "out")
    assert written.read_bytes() == expected
    assert syntax == DEFLATED or pixels in expected


@pytest.mark.parametrize("way", ["one fragment a frame", "text behind frames", "frames in two fragments"])
def test_a_compressed_file_that_stays_on_the_disk_gives_the_bytes_that_memory_gives(tmp_path, way):
    ds = image(Rows=512, Columns=512, NumberOfFrames="3", PixelData=noise(3))
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    coded = list(generate_frames(ds.PixelData, number_of_frames=3))
    if way == "text behind frames":
        coded = [frame + b"Marigold" for frame in coded]
    parts = 2 if way == "frames in two fragments" else 1
    ds.PixelData = encapsulate(coded, fragments_per_frame=parts, has_bot=way != "text behind frames")
    ds["PixelData"].is_undefined_length = True
    path = save(ds, tmp_path / "in" / "a", syntax=pydicom.uid.RLELossless)
    assert path.stat().st_size > worker._LARGE
    assert clean(tmp_path).files_written == 1
    [written] = images(tmp_path / "out")
    assert written.read_bytes() == Deidentifier(key=KEY, site="north").deidentify(path.read_bytes()).content
    [entry] = FileJournal(tmp_path / "out" / "private").new.tables()
    assert entry["digest"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry["output_digest"] == hashlib.sha256(written.read_bytes()).hexdigest()


@pytest.mark.parametrize("cut", [4, 12, FRAME])
def test_a_compressed_file_that_is_cut_off_is_kept_out(tmp_path, cut):
    path = many_fragments(tmp_path / "in" / "a", 4)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - cut)
    assert clean(tmp_path).quarantined == {"truncated": 1}


@pytest.mark.parametrize("made", [many_frames, many_fragments])
def test_memory_does_not_grow_with_the_pixels(tmp_path, made):
    peaks = []
    for frames in (16, 96):
        made(tmp_path / "in" / "a", frames)
        tracemalloc.start()
        try:
            assert worker.process(engine(tmp_path), SourceFile("a"), None).status == WRITTEN
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 24 << 20
    assert peaks[1] - peaks[0] < 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("made", [many_frames, many_fragments])
def test_two_gibibytes_add_less_than_twenty_megabytes(tmp_path, made):
    most = {}
    for frames in (1, 4095):
        folder = tmp_path / str(frames)
        made(folder / "in" / "a", frames)
        words = [folder / "in", folder / "out", key_file(tmp_path)]
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *map(str, words)], check=True, capture_output=True, text=True
        )
        written, most[frames] = map(int, done.stdout.split())
        assert written == 1
        [output] = images(folder / "out")
        assert output.stat().st_size > frames * FRAME
        output.unlink()
    assert (most[4095] - most[1]) * 1024 < 20_000_000


@pytest.mark.parametrize("place", ["first pixel", "last pixel", "middle"])
def test_a_byte_that_changes_between_writing_and_checking_is_found(tmp_path, monkeypatch, place):
    pixels = noise()
    save(image(Rows=512, Columns=512, NumberOfFrames="10", PixelData=pixels), tmp_path / "in" / "a")
    at = {"first pixel": -len(pixels), "last pixel": -1, "middle": -len(pixels) // 2}[place]
    check = worker.selfcheck.check

    def after_a_fault(written, original, context, see):
        path = engine(tmp_path).staged("a")
        with path.open("r+b") as stream:
            stream.seek(at, os.SEEK_END)
            byte = stream.read(1)[0]
            stream.seek(at, os.SEEK_END)
            stream.write(bytes([byte ^ 1]))
        check(written, original, context, see)

    monkeypatch.setattr(worker.selfcheck, "check", after_a_fault)
    entry = worker.process(engine(tmp_path), SourceFile("a"), None)
    assert entry.reason == Reason.PIXELS_CHANGED
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_identifier_far_inside_the_pixels_of_a_large_file_is_found(tmp_path):
    for number, at in enumerate((0, (1 << 20) - 4, 3_000_001, 10 * FRAME - 8)):
        pixels = bytes(at) + b"Marigold" + bytes(10 * FRAME - at - 8)
        many = {"Rows": 512, "Columns": 512, "NumberOfFrames": "10", "BitsStored": 16, "HighBit": 15}
        save(image(number, PixelData=pixels, **many), tmp_path / "in" / str(number))
    assert clean(tmp_path).quarantined == {"residual-identifier": 4}


def test_a_pixel_that_changed_is_noticed_on_resume_with_the_same_size_and_time(tmp_path):
    path = save(image(Rows=512, Columns=512, NumberOfFrames="10", PixelData=noise()), tmp_path / "in" / "a")
    clean(tmp_path)
    assert clean(tmp_path).files_resumed == 1
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-1000, os.SEEK_END)
        stream.write(b"\1\2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert clean(tmp_path).files_resumed == 0
    [written] = images(tmp_path / "out")
    assert written.read_bytes()[-1000:-998] == b"\1\2"


def _entry(number: int) -> FileResult:
    """Return the entry of one written file; the values of no two files share memory."""
    return FileResult(
        path=f"{number:08d}", digest=f"{number:064x}", status=WRITTEN, output=f"images/P/{number}.dcm",
        size=1, output_digest=f"{number:064x}", patient=(f"old{number % 50}", f"new{number % 50}"),
        study=f"2.25.{number % 200}", series=f"2.25.{number % 400}", instance=f"2.25.{number}",
        uids={f"1.2.{number}.{k}": f"2.25.{number}{k}" for k in range(20)},
        actions={f"Keyword{k}": {"X": number} for k in range(60)},
    )  # fmt: skip


def test_the_main_process_holds_little_of_each_file(tmp_path, monkeypatch):
    """The list of paths and the owner of each instance stay; results, journal entries and tables do not."""

    def results(*given, **more) -> Iterator[tuple[FileResult, bool]]:
        for number in range(len(found)):
            yield _entry(number), False

    monkeypatch.setattr(stage, "_processed", results)
    monkeypatch.setattr(stage.output, "publish", lambda *given: None)
    key, held = SiteKey(KEY, "north"), []
    for count in (200, 800):
        found = [SourceFile(f"{number:08d}") for number in range(count)]
        journal = FileJournal(tmp_path / str(count))
        journal.new.path.parent.mkdir()
        registry = identity_registry.IdentityRegistry(None, key, IssuerPolicy("north"))
        tracemalloc.start()
        try:
            stage._work(stage._Job(engine(tmp_path), registry, DeidConfig(), found, SILENT), journal)
            held.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        lines = journal.new.path.read_text().splitlines()
        assert [json.loads(line)["path"] for line in lines] == [item.path for item in found]
    assert (held[1] - held[0]) / 600 < 250
