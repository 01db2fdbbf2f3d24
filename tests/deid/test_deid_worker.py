from __future__ import annotations

from pathlib import Path

import pytest
from deid_samples import KEY, image, save

from meninx.core.errors import StorageError
from meninx.deid import walker, worker
from meninx.deid.burned_in import pixel_triggers
from meninx.deid.cleaner import Cleaner
from meninx.deid.config import DeidConfig
from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.deid.output import WRITTEN
from meninx.dicomfile import instance
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.instance import DEFLATED, read
from meninx.dicomfile.refusals import Reason


def engine(folder: Path, *, resolver: Resolver | None = None, dry_run: bool = False) -> worker.Engine:
    resolver = resolver or Resolver(Pseudonyms(SiteKey(KEY, "north")))
    cleaner = Cleaner(profile=DeidConfig().compiled(), resolver=resolver)
    return worker.Engine(source=folder / "in", out=folder / "out", cleaner=cleaner, dry_run=dry_run)


def test_an_output_waits_in_the_private_room_until_it_is_published(tmp_path):
    save(image(), tmp_path / "in" / "Marigold")
    entry = worker.process(engine(tmp_path), SourceFile("Marigold"), None)
    assert entry.status == WRITTEN
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == [engine(tmp_path).staged("Marigold")]
    assert "images" not in files[0].parts
    assert "Marigold" not in str(files[0])
    assert files[0].stat().st_size == entry.size


def test_what_is_unchanged_is_not_done_again(tmp_path, monkeypatch):
    save(image(IssuerOfPatientID="SOUTH"), tmp_path / "in" / "a")
    known = worker.process(engine(tmp_path), SourceFile("a"), None)
    target = tmp_path / "out" / known.output
    target.parent.mkdir(parents=True)
    engine(tmp_path).staged("a").rename(target)
    monkeypatch.setattr(worker, "_deidentified", None)
    assert worker.process(engine(tmp_path), SourceFile("a"), known) is known
    monkeypatch.undo()
    for change in ("other person", "output gone", "input changed"):
        others = Resolver(
            Pseudonyms(SiteKey(KEY, "north")),
            IssuerPolicy("north", "separate") if change == "other person" else IssuerPolicy("north"),
        )
        if change == "output gone":
            target.unlink()
        if change == "input changed":
            save(image(IssuerOfPatientID="SOUTH", InstanceNumber="2"), tmp_path / "in" / "a")
        assert worker.process(engine(tmp_path, resolver=others), SourceFile("a"), known) is not known, change


def test_whatever_goes_wrong_with_a_file_is_counted_and_nothing_is_left(tmp_path, monkeypatch):
    save(image(), tmp_path / "in" / "a")

    def broken(*given, **more):
        raise RuntimeError("Marigold")

    monkeypatch.setattr(walker, "clean", broken)
    entry = worker.process(engine(tmp_path), SourceFile("a"), None)
    assert entry.reason == Reason.PROCESSING_FAILED
    assert not (tmp_path / "out").exists()
    assert worker.process(engine(tmp_path), SourceFile("absent"), None).reason == Reason.UNREADABLE
    assert (
        worker.process(engine(tmp_path), SourceFile("a", refused=Reason.SYMLINK_OUTSIDE), None).reason
        == Reason.SYMLINK_OUTSIDE
    )


def test_a_full_disk_is_no_fault_of_the_file(tmp_path, monkeypatch):
    save(image(), tmp_path / "in" / "a")

    def full(*given, **more):
        raise StorageError("expected a writable folder, got no space left")

    monkeypatch.setattr(worker.files, "atomic", full)
    with pytest.raises(StorageError):
        worker.process(engine(tmp_path), SourceFile("a"), None)


@pytest.mark.parametrize(("mebibytes", "reason"), [(24, ""), (40, Reason.INFLATES_TOO_FAR)])
def test_a_file_that_inflates_out_of_proportion_is_kept_out(tmp_path, mebibytes, reason):
    many = {
        "NumberOfFrames": str(mebibytes),
        "Rows": 1024,
        "Columns": 512,
        "PixelData": bytes(mebibytes << 20),
    }
    path = save(image(**many), tmp_path / "in" / "a", syntax=DEFLATED)
    assert path.stat().st_size < 100_000
    assert worker.process(engine(tmp_path, dry_run=True), SourceFile("a"), None).reason == reason


def test_no_file_inflates_beyond_its_share(monkeypatch):
    asked = []

    class Stream:
        eof = True

        def decompress(self, view, most):
            asked.append(most - 1)
            return b""

    monkeypatch.setattr(instance.zlib, "decompressobj", lambda bits: Stream())
    for size in (1, 1 << 20, 1 << 23):
        instance._inflated(memoryview(bytes(size)))
    assert asked == [32 << 20, 100 << 20, 512 << 20]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"BurnedInAnnotation": "YES"}, True),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "CT"}, True),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, False),  # a reformatted slice
        ({"ImageType": ["DERIVED", "SECONDARY"], "ImagePositionPatient": None}, True),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, True),
        ({"ImageType": ["DERIVED", "PRIMARY", "SCREEN SAVE"]}, True),
        ({"SeriesDescription": "3-plane_loc"}, True),
        ({"SeriesDescription": "Scout 5.0"}, True),
        ({"SeriesDescription": "Dose Report"}, True),
        ({"SeriesDescription": "t1_location_free block"}, False),
        ({"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, False),
        ({"ConversionType": "WSD"}, True),
        ({"BurnedInAnnotation": "YES", "PixelData": None}, False),
    ],
)
def test_images_that_may_show_text(tmp_path, changes, expected):
    original = read(save(image(**changes), tmp_path / "a").read_bytes())
    assert bool(pixel_triggers.review_reasons(original)) is expected
