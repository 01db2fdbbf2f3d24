"""The cache of decoded images: built once, used only when whole and of this dataset, private, removable."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.core import files, integrity, machine, provenance
from meninx.core.errors import DataError, StorageError
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.progress import Silent
from meninx.core.randomness import child
from meninx.core.run import Run
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.learn import cache_file
from meninx.learn.cache import FILE, Demand, obtained
from meninx.learn.cache_file import BLOCK, Damaged, ImageCache, Item, Stopped, build
from meninx.learn.config import ModelConfig
from meninx.learn.data import CaseStore

Data = Callable[..., Manifest]
PATCHES = ModelConfig(patch_size=(6, 6, 6))


def prepared(manifest: Manifest) -> Manifest:
    """Return a dataset with digests and a private room, as ``prepare`` leaves it."""
    root = manifest.root
    integrity.write(root, integrity.measured(root, [path for path in root.rglob("*.*") if path.is_file()]))
    (root / "private").mkdir(mode=0o700)
    return Manifest.read(root)


class Notes(Silent):
    """Progress that keeps what a person would see."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.decoded = 0

    def note(self, message: str) -> None:
        self.notes.append(message)

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.decoded += count


def got(
    store: CaseStore, run: Path | None = None, notes: Notes | None = None, **changes: Any
) -> ImageCache | None:
    demand = Demand(arrays=store.wanted(places=True), reads=9.0, progress=notes or Notes())
    return obtained(store.manifest, replace(demand, **changes), run=run or store.manifest.root / "none")


def place(manifest: Manifest) -> Path:
    return manifest.root / "private" / "cache" / FILE


@pytest.fixture
def volumes(dataset: Data) -> Manifest:
    return prepared(dataset(TaskKind.SEGMENTATION, cases=3, valid=0, size=(12, 11, 12)))


def numbers(*shape: int, kind: str = "u1") -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 200, shape).astype(kind)


# the file


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_box_of_every_array_comes_back(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4)
    kinds = st.sampled_from(["u1", "u2", "i2", "f4"])
    arrays = [numbers(*data.draw(shapes), kind=data.draw(kinds)) for _ in range(data.draw(st.integers(1, 4)))]
    path = tmp_path_factory.mktemp("c") / "decoded.bin"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_file, "BLOCK", data.draw(st.sampled_from([3, 16, 1 << 18])))
        wanted = {Item(f"{n}", "image"): partial(np.copy, array) for n, array in enumerate(arrays)}
        build(path, "k", wanted, limit=1 << 20)
        with ImageCache.open(path, "k") or pytest.fail("not used") as made:
            for number, array in enumerate(arrays):
                box = tuple(
                    slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))))
                    for n in array.shape[: data.draw(st.integers(0, array.ndim))]
                )
                found = made.read(Item(f"{number}", "image"), box)
                assert found.dtype == array.dtype
                assert np.array_equal(found, array[box])


def test_a_file_is_its_owners_alone_and_has_no_traces_when_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FILE
    build(path, "k", {Item("a", "image"): lambda: numbers(1, 4, 4)}, limit=1 << 20)
    assert path.stat().st_mode & 0o777 == 0o600

    def full(*_: Any) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(cache_file._Blocks, "write", full)
    with pytest.raises(StorageError):
        build(path, "other", {Item("a", "image"): lambda: numbers(1, 4, 4)}, limit=1 << 20)
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]
    assert ImageCache.open(path, "k") is not None  # the earlier one is whole


def test_only_a_whole_private_file_of_this_dataset_is_used(tmp_path: Path) -> None:
    path = tmp_path / FILE
    build(path, "k", {Item("a", "image"): lambda: numbers(2, 9, 9)}, limit=1 << 20)
    content = path.read_bytes()
    assert ImageCache.open(path, "k") is not None
    assert ImageCache.open(path, "another") is None
    assert ImageCache.open(tmp_path / "none", "k") is None
    tail = len(content) - 48
    for torn in (
        content[:-1], content[1:], content[: tail // 2], b"", content + b"x",
        content[:tail] + struct.pack("<QQ", 1 << 60, 9) + content[tail + 16 :],
        content[: tail - 5] + b"?" + content[tail - 4 :],
    ):  # fmt: skip
        files.write_bytes(path, torn, mode=0o600)
        assert ImageCache.open(path, "k") is None
    files.write_bytes(path, content, mode=0o644)
    assert ImageCache.open(path, "k") is None


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "|O"},
        {"dtype": "V9"},
        {"dtype": "no"},
        {"shape": [-1, 9]},
        {"shape": [9, 9, 9]},
        {"offset": 4},
        {"shape": [2, 9, 9] + [1] * 70},
        {"dtype": "{"},
        {"dtype": "u1,"},
    ],
)
def test_an_index_that_does_not_fit_its_file_is_not_used(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / FILE
    build(path, "k", {Item("a", "image"): lambda: numbers(2, 9, 9)}, limit=1 << 20)
    content = path.read_bytes()
    size, length, _ = cache_file._TAIL.unpack(content[-48:])
    start = len(content) - 48 - length
    index = json.loads(content[start:-48])
    index["entries"][0].update(change)
    text = json.dumps(index).encode()
    tail = cache_file._TAIL.pack(size, len(text), hashlib.sha256(text).digest())
    files.write_bytes(path, content[:start] + text + tail, mode=0o600)
    assert ImageCache.open(path, "k") is None


def forged(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write an index that agrees with itself and not with the dataset."""
    content = path.read_bytes()
    size, length, _ = cache_file._TAIL.unpack(content[-48:])
    start = len(content) - 48 - length
    index = json.loads(content[start:-48])
    change(index)
    text = json.dumps(index).encode()
    tail = cache_file._TAIL.pack(size, len(text), hashlib.sha256(text).digest())
    files.write_bytes(path, content[:start] + text + tail, mode=0o600)


@pytest.mark.parametrize("shape", [[0, 1 << 62], [0, -1]])
def test_an_empty_array_of_a_forged_index_is_not_used(tmp_path: Path, shape: list[int]) -> None:
    path = tmp_path / FILE
    build(path, "k", {Item("a", "places"): lambda: np.zeros(0, np.uint32)}, limit=1 << 20)
    assert ImageCache.open(path, "k") is not None
    forged(path, lambda index: index["entries"][0].update(shape=shape))
    assert ImageCache.open(path, "k") is None


def test_two_arrays_of_one_name_are_not_used_and_what_is_not_there_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / FILE
    build(path, "k", {Item(name, "image"): lambda: numbers(1, 2, 3) for name in "ab"}, limit=1 << 20)
    with ImageCache.open(path, "k") or pytest.fail("not used") as made:
        for item, box in ((Item("c", "image"), ()), (Item("a", "image"), (slice(0, 1),) * 4)):
            with pytest.raises(Damaged):
                made.read(item, box)
    forged(path, lambda index: index.update(items=[["a", "image"]] * 2))
    assert ImageCache.open(path, "k") is None


def test_a_forged_number_of_axes_is_decoded_again(volumes: Manifest) -> None:
    def flat(index: dict[str, Any]) -> None:
        for entry in index["entries"]:
            entry["shape"] = [int(np.prod(entry["shape"]))]

    store = CaseStore(volumes, ModelConfig(), memory=0)
    path = volumes.root / FILE
    build(path, "k", store.wanted(), limit=1 << 30)
    forged(path, flat)
    expected = store.image(0)
    store.cache = ImageCache.open(path, "k")
    assert store.cache is not None
    assert torch.equal(store.image(0), expected)


def test_a_changed_byte_is_found_when_its_block_is_read_and_only_then(tmp_path: Path) -> None:
    path, array = tmp_path / FILE, numbers(1, 4, BLOCK)
    build(path, "k", {Item("a", "image"): lambda: array}, limit=1 << 30)
    content = bytearray(path.read_bytes())
    content[len(cache_file._SIGNATURE) + 3 * BLOCK + 7] ^= 1
    files.write_bytes(path, bytes(content), mode=0o600)
    with ImageCache.open(path, "k") or pytest.fail("not used") as made:
        for row in (slice(0, 1), slice(1, 3)):
            assert np.array_equal(made.read(Item("a", "image"), (slice(0, 1), row)), array[:, row])
        with pytest.raises(Damaged):
            made.read(Item("a", "image"), (slice(0, 1), slice(2, 4)))


@pytest.mark.skipif(os.name != "posix", reason="a mapped file cannot be cut off elsewhere")
@pytest.mark.parametrize("length", [0, 100, BLOCK])
def test_a_file_that_is_cut_off_while_it_is_mapped_does_not_end_the_process(
    tmp_path: Path, length: int
) -> None:
    path, array = tmp_path / FILE, numbers(1, 3 * BLOCK)
    build(path, "k", {Item("a", "image"): lambda: array}, limit=1 << 30)
    with ImageCache.open(path, "k") or pytest.fail("not used") as made:
        last = (slice(0, 1), slice(3 * BLOCK - 5, 3 * BLOCK))
        assert np.array_equal(made.read(Item("a", "image"), last), array[last])
        os.truncate(path, length)
        for box in (last, (slice(0, 1), slice(0, 5)), ()):
            with pytest.raises(Damaged):
                made.read(Item("a", "image"), box)


def test_a_run_whose_cache_is_cut_off_decodes_its_images_and_the_next_builds_another(
    volumes: Manifest,
) -> None:
    plain, store = (CaseStore(volumes, ModelConfig(), memory=0) for _ in range(2))
    store.cache = got(store)
    assert store.cache is not None
    os.truncate(place(volumes), 10)
    assert torch.equal(store.image(0), plain.image(0))
    assert not place(volumes).exists()
    assert got(store) is not None


def test_a_stopped_build_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        build(tmp_path / FILE, "k", {Item("a", "image"): lambda: numbers(1, 2)}, limit=99, stop=lambda: True)
    assert not list(tmp_path.iterdir())


# the cache of a dataset


def test_a_store_gives_the_same_with_and_without_a_cache_and_decodes_once(
    volumes: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, cached = (CaseStore(volumes, PATCHES, memory=0) for _ in range(2))
    cached.cache = got(cached)
    patches = [plain.patch(n % 3, child(n, "p"), foreground=0.5) for n in range(12)]
    monkeypatch.setattr(load, "load", lambda path: pytest.fail("decoded twice"))
    for number, patch in enumerate(patches):
        other = cached.patch(number % 3, child(number, "p"), foreground=0.5)
        assert torch.equal(patch.image, other.image)
        assert torch.equal(patch.target, other.target)
    again = Notes()
    assert got(CaseStore(volumes, PATCHES), notes=again) is not None
    assert again.decoded == 0


def test_a_patch_reads_only_the_rows_that_it_lies_in(
    volumes: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_file, "BLOCK", 132)  # one plane of a volume
    store = CaseStore(volumes, PATCHES)
    store.cache = got(store)
    assert store.cache is not None
    store._window(0, (3, 0, 0), (6, 6, 6))
    assert np.flatnonzero(store.cache._checked).tolist() == list(range(3, 9))


def test_a_damaged_cache_is_not_used_and_built_again(volumes: Manifest) -> None:
    store = CaseStore(volumes, ModelConfig())
    whole = store.image(1)
    assert got(store) is not None
    path = place(volumes)
    content = bytearray(path.read_bytes())
    content[len(cache_file._SIGNATURE) + 20] ^= 255
    files.write_bytes(path, bytes(content), mode=0o600)
    damaged = CaseStore(volumes, ModelConfig())
    damaged.cache = got(damaged)
    assert damaged.cache is not None
    assert torch.equal(damaged.image(1), whole)
    assert not path.exists()
    assert got(store) is not None


def test_another_dataset_and_other_decoders_have_another_cache(
    volumes: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, notes = CaseStore(volumes, ModelConfig()), Notes()
    got(store)
    case = volumes.cases[0]
    array = numbers(1, 12, 11, 12)
    load.save(volumes.root / case.image, Image(array))
    integrity.write(volumes.root, {**volumes.checksums, case.image: files.digest(volumes.root / case.image)})
    changed = Manifest.read(volumes.root)
    store = CaseStore(changed, ModelConfig())
    store.cache = got(store, notes=notes)
    assert notes.decoded == len(store.wanted())
    assert torch.equal(store.image(0), torch.from_numpy((array.astype(np.float32) - 127.5) / 127.5))
    monkeypatch.setattr(provenance, "versions", lambda names: {"nibabel": "0"})
    got(store, notes=notes)
    assert notes.decoded == 2 * len(store.wanted())


def test_a_run_that_wants_more_adds_it(volumes: Manifest) -> None:
    few = CaseStore(volumes.select(lambda case: case.case_id == "case001"), ModelConfig())
    assert len(got(few) or ()) == 2
    notes = Notes()
    assert len(got(CaseStore(volumes, ModelConfig()), notes=notes) or ()) == 6
    assert len(got(few, notes=notes) or ()) == 6
    assert notes.decoded == 6


def test_room_on_the_disk_decides_what_it_holds_and_a_note_says_so(
    volumes: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, notes = CaseStore(volumes, ModelConfig()), Notes()
    monkeypatch.setattr(machine, "free_disk", lambda folder: 5000)  # half of it holds one volume
    store.cache = got(store, notes=notes)
    assert len(store.cache or ()) == 1
    assert "1 of 6 arrays, 2.5 KB may be used" in notes.notes[0]
    assert torch.equal(store.image(2), CaseStore(volumes, ModelConfig()).image(2))
    before = notes.decoded
    got(store, notes=notes)  # not again while there is no more room
    assert notes.decoded == before
    monkeypatch.setattr(machine, "free_disk", lambda folder: 1 << 30)
    assert len(got(store, notes=notes) or ()) == 6
    assert len(got(store, setting="3 KB") or ()) == 6  # a smaller limit removes nothing that is there
    monkeypatch.setattr(machine, "free_disk", lambda folder: 0)
    place(volumes).unlink()
    assert got(store, notes=notes) is None
    assert "the disk is full" in notes.notes[-1]


def test_a_disk_that_fills_while_the_cache_is_written_stops_nothing(
    volumes: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no space left")

    notes, store = Notes(), CaseStore(volumes, ModelConfig())
    monkeypatch.setattr(cache_file._Blocks, "write", full)
    assert got(store, notes=notes) is None
    assert "none, the disk is full" in notes.notes[0]
    assert sorted(entry.name for entry in place(volumes).parent.iterdir()) == ["lock"]


def test_off_keeps_nothing_and_removes_what_was_kept(volumes: Manifest) -> None:
    store = CaseStore(volumes, ModelConfig())
    got(store)
    assert place(volumes).is_file()
    assert got(store, setting="off") is None
    assert not place(volumes).exists()


def test_a_run_that_reads_every_image_once_builds_none_and_uses_one(volumes: Manifest) -> None:
    store = CaseStore(volumes, ModelConfig())
    assert got(store, reads=1.0) is None
    assert not place(volumes).parent.exists()
    got(store)
    assert got(store, reads=1.0) is not None


def test_without_digests_there_is_no_cache(dataset: Data) -> None:
    manifest = dataset()
    (manifest.root / "private").mkdir(mode=0o700)
    assert got(CaseStore(manifest, ModelConfig())) is None


@pytest.mark.parametrize("obstacle", ["no room", "open room", "link"])
def test_a_dataset_of_somebody_else_is_cached_in_the_run_as_long_as_the_process_lives(
    volumes: Manifest, new_run: Callable[..., Run], tmp_path: Path, obstacle: str
) -> None:
    room, run = volumes.root / "private", new_run()
    if obstacle == "open room":
        room.chmod(0o755)
    else:
        room.rmdir()
    if obstacle == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        room.symlink_to(tmp_path / "elsewhere")
    store = CaseStore(volumes, ModelConfig())
    store.cache = got(store, run.private)
    assert len(store.cache or ()) == 6
    assert not (run.private / "cache").exists()  # already removed, and still readable
    assert not (room / "cache").exists()
    assert torch.equal(store.image(2), CaseStore(volumes, ModelConfig()).image(2))


def test_what_a_killed_process_left_is_removed_and_an_unreadable_image_is_left_out(volumes: Manifest) -> None:
    left = place(volumes).with_name(f"{files.PARTIAL}dead")
    files.write_bytes(left, b"images", mode=0o600)
    (volumes.root / volumes.cases[1].image).write_bytes(b"torn")
    store = CaseStore(volumes, ModelConfig())
    store.cache = got(store)
    assert not left.exists()
    assert len(store.cache or ()) == 5
    with pytest.raises(DataError, match=r"manifest\.csv, row 3"):
        store.sample(1)


def test_no_file_stays_open(volumes: Manifest) -> None:
    def opened() -> int:
        return sum(FILE in str(link.resolve()) for link in Path("/proc/self/fd").iterdir())

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(FILE)

    gc.collect()  # an earlier test's cache may still be open, and would be closed in the middle of this one
    before = opened(), mapped()  # of other tests of this process
    store = CaseStore(volumes, ModelConfig())
    for _ in range(3):
        made = got(store)
        assert made is not None
        made.read(next(iter(made.entries)))
        made.close()
    assert (opened(), mapped()) == before
