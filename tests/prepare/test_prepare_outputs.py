"""What lies in the output folder stays whole until the new dataset is complete."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import prepare_fixtures as make
import pytest

from meninx.core import artifacts, files, integrity, workspace
from meninx.core.artifacts import DeidRecord, PrepareRecord
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.prepare.config import PrepareConfig
from meninx.prepare.outputs import _archives
from meninx.prepare.stage import run

CSV = PrepareConfig.of(reader="csv", name="toy", label_columns=("effusion", "nodule"), split="exact")


def content(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): files.digest(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def public(root: Path) -> dict[str, str]:
    return {name: digest for name, digest in content(root).items() if not name.startswith("private/")}


@pytest.mark.parametrize("place", ["in/data", "in", ".", "link/data", "in/images/data"])
@pytest.mark.parametrize("more", [{}, {"overwrite": True}, {"resume": True}, {"dry_run": True}])
def test_a_dataset_is_never_written_into_its_source_nor_around_it(tmp_path, place, more):
    root = make.make_csv(tmp_path / "in")
    (tmp_path / "link").symlink_to(root)
    before = content(tmp_path)
    with pytest.raises(UsageError, match="apart from each other"):
        run(CSV.replace(**more), root, tmp_path / place)
    assert content(tmp_path) == before


def test_every_source_is_kept_apart_and_so_is_a_folder_of_images_elsewhere(tmp_path):
    make.make_csv(tmp_path / "a")
    make.make_csv(tmp_path / "b")
    with pytest.raises(UsageError, match="apart from each other"):
        run(CSV, [tmp_path / "a", tmp_path / "b"], tmp_path / "b" / "data")
    shutil.move(tmp_path / "a" / "images", tmp_path / "pictures")
    config = CSV.replace(image_folder=str(tmp_path / "pictures"))
    with pytest.raises(UsageError, match="apart from each other"):
        run(config, tmp_path / "a", tmp_path / "pictures" / "data")
    (tmp_path / "tables").mkdir()
    table = shutil.move(tmp_path / "a" / "labels.csv", tmp_path / "tables" / "labels.csv")
    assert run(config.replace(table=str(table)), tmp_path / "a", tmp_path / "tables" / "data").cases == 12


def test_a_dataset_carries_the_digests_of_all_its_files(tmp_path):
    out = tmp_path / "out"
    run(
        CSV.replace(task="segmentation", label_columns=(), mask_folder="masks"),
        make.make_csv(tmp_path / "in", masks=True),
        out,
    )
    listed = integrity.read(out)
    assert set(listed) == set(public(out)) - {"prepare.json", "checksums.sha256"}
    assert not integrity.damage(out, leave_out=("private", "prepare.json"))
    record = artifacts.read(out, PrepareRecord)
    assert record is not None
    assert record.checksums == integrity.digest_of(out)
    assert len(Manifest.read(out).image_digests()) == 12


def test_overwriting_with_masks_gone_leaves_none_behind(tmp_path):
    root = make.make_csv(tmp_path / "in", masks=True)
    run(CSV.replace(task="segmentation", label_columns=(), mask_folder="masks"), root, tmp_path / "out")
    run(CSV.replace(overwrite=True), root, tmp_path / "out")
    assert public(tmp_path / "out").keys() == {
        *integrity.read(tmp_path / "out"),
        "prepare.json",
        "checksums.sha256",
    }
    assert not (tmp_path / "out" / "masks").exists()
    assert not list((tmp_path / "out" / "private").glob("[sr]*"))  # neither staging nor replaced


def test_a_failed_overwrite_leaves_the_earlier_dataset_as_it_was(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    before = public(tmp_path / "out")
    shutil.copy(root / "images" / "p0_0.png", root / "images" / "p3_0.png")
    with pytest.raises(DataError, match="two patients"):
        run(CSV.replace(overwrite=True, size=(8,)), root, tmp_path / "out")
    assert public(tmp_path / "out") == before
    assert len(Manifest.read(tmp_path / "out")) == 12


def test_resume_takes_no_image_over_that_was_changed_behind_its_back(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    before = public(tmp_path / "out")
    path = next((tmp_path / "out" / "images").iterdir())
    changed = bytearray(path.read_bytes())
    changed[-20] ^= 1  # the same size
    path.write_bytes(bytes(changed))
    assert run(CSV.replace(resume=True), root, tmp_path / "out").reused == 11
    assert public(tmp_path / "out") == before


def test_without_hard_links_images_are_copied(tmp_path, monkeypatch):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    before = public(tmp_path / "out")

    def refused(self: Path, target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert run(CSV.replace(resume=True), root, tmp_path / "out").reused == 12
    assert public(tmp_path / "out") == before


def test_a_dataset_of_an_older_version_is_replaced_only_when_asked(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    room = tmp_path / "out" / "private"
    (room / "workspace.json").unlink()
    (room / "settings.json").write_text('{"settings": "x"}')
    with pytest.raises(UsageError, match="complete result"):
        run(CSV, root, tmp_path / "out")
    assert run(CSV.replace(overwrite=True), root, tmp_path / "out").cases == 12
    assert not (room / "settings.json").exists()


def test_what_a_failed_older_version_left_blocks_nothing(tmp_path):
    root = make.make_csv(tmp_path / "in")
    room = tmp_path / "out" / "private"
    room.mkdir(parents=True)
    (room / "lock").touch()
    (room / "settings.json").write_text('{"settings": "x"}')
    assert run(CSV, root, tmp_path / "out").cases == 12


KILLED = """
import json, os, shutil, sys
from dataclasses import replace
from pathlib import Path
from meninx.core import integrity, workspace
from meninx.core.errors import LayoutError
from meninx.core.manifest import Manifest
from meninx.prepare import stage
from meninx.prepare.config import PrepareConfig

def die_at(count):
    for name in ("replace", "rename", "hardlink_to"):
        def counted(self, target, real=getattr(Path, name)):
            nonlocal count
            count -= 1
            if count < 0:
                os.kill(os.getpid(), 9)
            return real(self, target)
        setattr(Path, name, counted)

def state(out):
    try:
        whole = (out / "manifest.csv").exists()
        if not whole or integrity.damage(out, leave_out=("private", "prepare.json")):
            return "broken"
        return Manifest.read(out).info.size[0]
    except LayoutError:
        return "being replaced"

os.fsync = lambda handle: None  # a killed process loses nothing that it has written
source, root, told = Path(sys.argv[1]), Path(sys.argv[2]), []
config = PrepareConfig.of(reader="csv", name="toy", label_columns=("effusion", "nodule"))
stage.run(config, source, root / "old")
changed = config.replace(size=(8,), overwrite=True)
for count in range(0, int(sys.argv[3]), 2):
    out = root / str(count)
    shutil.copytree(root / "old", out)
    child = os.fork()
    if not child:
        die_at(count)
        stage.run(changed, source, out)
        os._exit(0)
    code = os.waitpid(child, 0)[1]
    killed = state(out)
    if killed in ("broken", "being replaced"):
        readable = "refused"
        try:
            Manifest.read(out)
            readable = "read"
        except LayoutError:
            pass
        killed = readable
    completed = 8
    if killed == "refused":  # whoever claims the folder next, for whatever, completes the publication
        with workspace.claim(out, stage="prepare", fingerprint="another", overwrite=True):
            completed = state(out)
    stage.run(changed, source, out)
    told.append([code, killed, completed, state(out)])
print(json.dumps(told))
"""


def test_a_kill_at_any_moment_leaves_the_old_dataset_or_the_new_one(tmp_path):
    """Every rename is a moment: the old one is whole until publication, which the next run completes."""
    make.make_csv(tmp_path / "in", patients=1)
    words = [sys.executable, "-c", KILLED, str(tmp_path / "in"), str(tmp_path / "work"), "28"]
    told = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    assert {(completed, after) for _, _, completed, after in told} == {(8, 8)}
    killed = [during for code, during, _, _ in told if code]
    assert {12, "refused", 8} >= set(killed) >= {12, "refused"}
    assert any(not code for code, _, _, _ in told)  # the last moments lie behind the end


@pytest.mark.skipif(os.name == "nt", reason="no umask")
@pytest.mark.parametrize("mask", [0o077, 0o022, 0o000])
def test_files_obey_the_umask_and_private_ones_are_nobody_elses(tmp_path, mask):
    root = make.make_csv(tmp_path / "in", patients=1)
    before = os.umask(mask)
    try:
        run(CSV, root, tmp_path / "out")
    finally:
        os.umask(before)
    room = tmp_path / "out" / "private"
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert modes.pop(room) == 0o700
    for path, mode in modes.items():
        if path.is_relative_to(room):
            assert mode == 0o600, path
        else:
            assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_the_marker_names_only_files_of_the_stage(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    marker = tmp_path / "out" / "private" / "workspace.json"
    for name in ("../x", "lock", "a/b", ".."):
        table = json.loads(marker.read_text())
        marker.write_text(json.dumps({**table, "secret": [name]}))
        with pytest.raises(DataError, match=r"workspace\.json"):
            workspace.read_marker(tmp_path / "out")
        marker.write_text(json.dumps(table))


def test_a_dataset_names_the_clean_archive_that_it_was_made_from(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "plain")
    assert artifacts.require(tmp_path / "plain", PrepareRecord, fix="").archives == ()
    artifacts.write(root, DeidRecord(profile="basic", checksums=integrity.write(root, {})))
    run(CSV, root, tmp_path / "out")
    assert artifacts.require(tmp_path / "out", PrepareRecord, fix="").archives == (integrity.digest_of(root),)


def test_a_dataset_names_the_clean_archives_in_the_folders_of_its_sites(tmp_path):
    roots = [make.make_csv(tmp_path / "in" / name) for name in ("north", "south")]
    for root in roots:
        listed = integrity.measured(root, [root / "labels.csv"]) if root.name == "north" else {}
        artifacts.write(root, DeidRecord(profile="basic", checksums=integrity.write(root, listed)))
    digests = {integrity.digest_of(root) for root in roots}
    assert set(_archives([tmp_path / "in"])) == set(_archives(roots)) == digests
