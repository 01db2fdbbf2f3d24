"""Broken and hostile files: every read is bounded, and one bad file never stops a dataset."""

from __future__ import annotations

import gzip
import os
import re
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import prepare_fixtures as make
import pydicom
import pytest
from PIL import Image as Pillow

from meninx.core import files
from meninx.core.csv_table import read_table
from meninx.core.errors import ConfigError, DataError, LayoutError, MeninxError
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.imaging import dicom_image, load
from meninx.prepare import checks
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers.npz import read_arrays
from meninx.prepare.stage import run

CSV = PrepareConfig.of(reader="csv", name="toy", label_columns=("effusion", "nodule"), split="exact")


def peak(work: Callable[[], object]) -> int:
    """Most bytes that Python allocated meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def nifti_head(shape: tuple[int, ...], kind: type = np.int16) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return bytes(header.binaryblock) + b"\0\0\0\0"


def test_a_small_file_that_promises_gigabytes_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(nifti_head((2000, 2000, 1000)) + bytes(1000)))

    def refused() -> None:
        with pytest.raises(
            DataError, match=r"at most 4,294,967,296 bytes, got 8,000,000,352 \(bomb.nii.gz\)"
        ):
            load.load(path)

    assert peak(refused) < 1 << 20


def test_a_compressed_file_is_unpacked_no_further_than_its_header_promises(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(nifti_head((5, 4, 3)) + bytes(64 << 20), 1))
    assert peak(lambda: load.load(path)) < 4 << 20
    assert load.load(path).size == (5, 4, 3)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 2)])
def test_a_file_shorter_than_its_header_promises_is_refused(tmp_path, shape):
    for name, packed in (("a.nii", lambda x: x), ("a.nii.gz", gzip.compress)):
        (tmp_path / name).write_bytes(packed(nifti_head(shape) + bytes(3)))
        with pytest.raises(DataError, match=r"360 bytes|472 bytes"):
            load.load(tmp_path / name)


def png_head(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(100))
    data = b"IDAT" + rows
    parts = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (body, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("limit", [None, Pillow.MAX_IMAGE_PIXELS])
def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", limit)
    (tmp_path / "bomb.png").write_bytes(png_head(60_000, 60_000))

    def refused() -> None:
        with pytest.raises(DataError, match="too many pixels"):
            load.load(tmp_path / "bomb.png")

    assert peak(refused) < 1 << 20


def test_a_dicom_header_that_promises_gigabytes_is_refused(tmp_path):
    path = make.write_dicom(tmp_path / "bomb.dcm", make.picture(0), NumberOfFrames=1000)
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(path)
    with pytest.raises(DataError, match="promised by Rows"):
        dicom_image.read_instance(path)
    with pytest.raises(DataError, match=r"promised by Rows|contradicts"):
        dicom_image.read_series([path])


def test_arrays_beyond_the_limit_or_their_own_size_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "large.npz", images=np.zeros((1000, 10, 10), np.uint8))
    lying = tmp_path / "plain.npz"
    np.savez(lying, images=np.zeros((1000, 10, 10), np.uint8))
    lying.write_bytes(lying.read_bytes().replace(b"(1000, 10, 10), ", b"(9999999,9999),"))

    def refused() -> None:
        with pytest.raises(LayoutError):
            read_arrays(lying)

    assert peak(refused) < 1 << 20
    monkeypatch.setattr(files, "IMAGE_LIMIT", 5000)
    with pytest.raises(LayoutError, match="arrays of at most 5,000 bytes"):
        read_arrays(tmp_path / "large.npz")


def test_tables_are_bounded_plain_and_packed(tmp_path, monkeypatch):
    with (tmp_path / "labels.csv").open("wb") as stream:
        stream.truncate(files.TABLE_LIMIT + 1)  # sparse
    with pytest.raises(DataError, match=r"labels\.csv"):
        read_table(tmp_path / "labels.csv")
    make.write_table(tmp_path / "labels.csv.gz", ["a"], [["x" * 1000]] * 100)
    monkeypatch.setattr(files, "TABLE_LIMIT", 5000)
    with pytest.raises(LayoutError, match="larger than 5,000 bytes"):
        read_table(tmp_path / "labels.csv.gz")
    monkeypatch.undo()
    (tmp_path / "cell.csv").write_text('a,b\n1,2\n"' + "x" * 200_000 + '",2\n')
    with pytest.raises(LayoutError, match=r"cell.csv, line 3"):
        read_table(tmp_path / "cell.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,patient_id,y,y\na.png,p,0,1\n", "several columns have the name 'y' .t.csv, row 1"),
        ("file,y, y\na.png,0,1\n", "several columns have the name 'y'"),
    ],
)
def test_tables_with_two_columns_of_one_name_are_refused(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(LayoutError, match=words):
        read_table(tmp_path / "t.csv")


def test_columns_without_a_name_may_be_several(tmp_path):
    (tmp_path / "t.csv").write_text("a,,\n1,2,3\n")
    assert read_table(tmp_path / "t.csv").columns == ("a",)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices")
def test_a_device_is_no_table_and_no_image(tmp_path):
    root = make.make_csv(tmp_path / "in")
    with pytest.raises(DataError, match="no such file"):
        run(CSV.replace(table="/dev/zero"), root, tmp_path / "out")
    (root / "images" / "p0_0.png").unlink()
    (root / "images" / "p0_0.png").symlink_to("/dev/zero")
    assert run(CSV.replace(allow_missing=0.1), root, tmp_path / "out").skipped == {"missing file": 1}


def mutated(content: bytes, seed: int) -> bytes:
    """The content with a few bytes changed, cut, doubled or filled in."""
    random = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        place = int(random.integers(0, max(1, len(data))))
        kind = int(random.integers(0, 5))
        if kind == 0:
            data[place : place + 1] = random.bytes(1)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = data[: int(random.integers(0, 64))]
        elif kind == 3:
            data[place : place + 8] = bytes([int(random.integers(0, 2)) * 255] * 8)
        else:
            del data[place : place + int(random.integers(1, 32))]
    return bytes(data)


def samples(root: Path) -> dict[str, Callable[[Path], object]]:
    """One whole file of each format, with what reads it."""
    make.write_picture(root / "a.png", make.picture(0, (12, 10, 3)))
    make.write_picture(root / "b.jpg", make.picture(1))
    make.write_volume(root / "c.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    make.write_volume(root / "d.nii.gz", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    make.write_dicom(root / "e.dcm", make.picture(2), WindowCenter=100, WindowWidth=50, PixelSpacing=[1, 2])
    np.savez_compressed(
        root / "f.npz",
        images=make.picture(3, (4, 5, 6)),
        labels=np.arange(4),
        names=np.array(["a", "b"], object),
    )
    make.write_table(root / "g.csv", ["a", "b"], [["1", "x,y"], ["2", 'say "z"']])
    make.write_table(root / "h.csv.gz", ["a", "b"], [["1", "x"], ["2", "y"]])
    make.write_picture(root / "i.tif", make.picture(4))
    return dict.fromkeys(("a.png", "b.jpg", "i.tif", "c.nii", "d.nii.gz", "e.dcm"), load.load) | {
        "f.npz": read_arrays, "g.csv": read_table, "h.csv.gz": read_table,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["a.png", "b.jpg", "c.nii", "d.nii.gz", "e.dcm", "f.npz", "g.csv", "h.csv.gz", "i.tif"]
)
def test_no_mutation_of_a_file_raises_anything_outside_the_tree(tmp_path, name):
    read = samples(tmp_path / "whole")[name]
    whole = (tmp_path / "whole" / name).read_bytes()
    path = tmp_path / name
    told = []
    for seed in range(300):
        path.write_bytes(mutated(whole, seed))
        try:
            read(path)
        except MeninxError as error:
            told.append(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
    assert len(told) > 30
    assert not any(str(tmp_path) in text for text in told)


@pytest.mark.parametrize("name", ["manifest.csv", "dataset.toml", "checksums.sha256"])
def test_no_mutation_of_a_dataset_raises_anything_outside_the_tree(tmp_path, name):
    info = DatasetInfo(
        name="x",
        task=TaskKind.MULTILABEL,
        labels=("a", "b"),
        attributes=("sex",),
        size=(8, 8),
        spacing_mm=(1.0, 2.0),
    )
    cases = [
        Case(
            case_id=f"c{n}",
            patient_id=f"p{n}",
            image=f"images/c{n}.png",
            labels={"a": 1.0, "b": None},
            attributes={"sex": "F"},
        )
        for n in range(3)
    ]
    Manifest(tmp_path, info, tuple(cases)).write()
    (tmp_path / "checksums.sha256").write_text("".join(f"{n:064x}  images/c{n}.png\n" for n in range(3)))
    whole = (tmp_path / name).read_bytes()
    refused = 0
    for seed in range(200):
        (tmp_path / name).write_bytes(mutated(whole, seed))
        try:
            data = Manifest.read(tmp_path)
            data.targets()
            assert set(data.checksums) is not None
        except MeninxError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
    assert refused > 30


def test_mutated_images_are_counted_and_the_rest_becomes_a_dataset(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=30)
    for seed, path in enumerate(sorted((root / "images").iterdir())[::2]):
        path.write_bytes(mutated(path.read_bytes(), seed))
    result = run(CSV.replace(size=(8,)), root, tmp_path / "out")
    assert set(result.skipped) <= {checks.UNREADABLE, checks.CONSTANT, checks.UNFIT}
    assert result.cases + sum(result.skipped.values()) == 60
    assert sum(result.skipped.values()) > 10


def test_mutated_volumes_are_counted_and_the_rest_becomes_a_dataset(tmp_path):
    root = tmp_path / "in"
    for number in range(40):
        path = make.write_volume(
            root / ("b" if number % 2 else "a") / f"{number}.nii",
            np.random.default_rng(number).normal(size=(4, 5, 6)).astype(np.float32),
        )
        content = path.read_bytes()
        if number > 3:
            path.write_bytes(mutated(content[:348], number)[:348].ljust(348, b"\0") + content[348:])
    result = run(PrepareConfig.of(reader="folder", name="toy", spacing_mm=(1.5,)), root, tmp_path / "out")
    assert result.cases >= 4
    assert result.cases + sum(result.skipped.values()) == 40


@pytest.mark.parametrize(
    "name", ["$__import__('os').system('x')", "=1+1", "@x", "%x", "\u202egnp", "x" * 300, "a\nb"]
)
def test_a_hostile_column_class_or_site_stops_before_any_image_is_read(tmp_path, name):
    root = make.make_csv(tmp_path / "in")
    table = root / "labels.csv"
    whole = table.read_text()
    make.write_table(table, [name, "b"], [])
    header = table.read_text().split(",b")[0]
    table.write_text(whole.replace("effusion", header, 1))
    for changes in (
        {"label_columns": (name,)},
        {"attribute_columns": (name,), "label_columns": ("nodule",)},
        {"name": name},
    ):
        with pytest.raises(ConfigError, match="plain names"):
            CSV.replace(**changes)
    table.write_text(whole.replace("virus", header).replace("site1", header))
    with pytest.raises(DataError, match="plain name for label"):
        run(PrepareConfig.of(reader="csv", name="toy", class_column="kind"), root, tmp_path / "out")
    with pytest.raises(DataError, match="plain name for site"):
        run(CSV.replace(site_mode="column", site_column="hospital"), root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cell", ["x" * 10_000, "a\x00b"])
def test_a_cell_that_no_attribute_can_be_is_refused_with_its_row(tmp_path, cell):
    root = make.make_csv(tmp_path / "in")
    table = root / "labels.csv"
    table.write_text(table.read_text().replace("site1", cell, 1))
    with pytest.raises(DataError, match=r"labels.csv, row 4"):
        run(CSV.replace(attribute_columns=("hospital",)), root, tmp_path / "out")


def test_an_identifier_with_a_nul_is_refused_with_its_row(tmp_path):
    root = make.make_csv(tmp_path / "in")
    table = root / "labels.csv"
    table.write_text(re.sub(r"(png,P)(\w+)", "\\1\0\\2", table.read_text(), count=1))
    with pytest.raises(LayoutError, match=r"patient or study holds a NUL .labels.csv, row 2"):
        run(CSV.replace(dry_run=True), root, tmp_path / "out")


def test_image_names_that_no_disk_knows_are_missing_files(tmp_path):
    root = make.make_csv(tmp_path / "in")
    table = root / "labels.csv"
    table.write_text(table.read_text().replace("p0_0.png", "x" * 5000).replace("p0_1.png", "a\x00.png"))
    assert run(CSV.replace(allow_missing=0.2), root, tmp_path / "out").skipped == {"missing file": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_file_names_that_are_no_text_are_spelled_out(tmp_path):
    root = make.make_folder(tmp_path / "in")
    odd = os.fsencode(root / "cat") + b"/\xff.png"
    Path(os.fsdecode(odd)).write_bytes((root / "cat" / "0.png").read_bytes() + b"\0")
    broken = os.fsencode(root / "dog") + b"/\xfe"
    Path(os.fsdecode(broken)).mkdir()
    (Path(os.fsdecode(broken)) / "x.png").write_bytes(b"no picture")
    (root / "cat" / "0.png").unlink()
    result = run(PrepareConfig.of(reader="folder", name="toy"), root, tmp_path / "out")
    assert (result.cases, result.skipped) == (9, {"unreadable image": 1})
    assert "\\udcff.png" in (tmp_path / "out" / "private" / "cases.csv").read_text()
    odd_class = Path(os.fsdecode(os.fsencode(root) + b"/\xffclass"))
    make.write_picture(odd_class / "0.png", make.picture(99))
    with pytest.raises(DataError, match="plain name for label"):
        run(PrepareConfig.of(reader="folder", name="toy"), root, tmp_path / "out2")
