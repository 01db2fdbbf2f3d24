"""Digests of a folder: what is missing, changed or not listed is named.

A hostile list reads nothing outside.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from meninx.core import integrity
from meninx.core.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for name in ("a.png", "images/b.png", "images/Müller 1.png"):
        (root / name).write_text(name)
    integrity.write(root, integrity.measured(root, [path for path in root.rglob("*") if path.is_file()]))
    return root


def test_an_unchanged_folder_has_no_damage_and_sha256sum_agrees(folder: Path):
    assert not integrity.damage(folder)
    if shutil.which("sha256sum"):
        subprocess.run(
            ["sha256sum", "--check", "--quiet", "--strict", integrity.CHECKSUMS], cwd=folder, check=True
        )


def test_missing_changed_and_unlisted_files_are_named(folder: Path, tmp_path: Path):
    own = integrity.digest_of(folder)
    (folder / "a.png").unlink()
    (folder / "images" / "b.png").write_text("images/b.pnG")  # of the same size
    (folder / "new").write_text("x")
    (folder / "private").mkdir()
    (folder / "private" / "key").write_text("x")
    (folder / "link").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    found = integrity.damage(folder, leave_out=("private",))
    assert found == integrity.Damage(
        missing=("a.png",), changed=("images/b.png",), unlisted=("link", "new", "pipe")
    )
    assert integrity.digest_of(folder) == own


def test_a_listed_file_behind_a_link_that_leads_out_is_changed(folder: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    shutil.move(folder / "images", outside)
    (folder / "images").symlink_to(outside)
    assert integrity.damage(folder).changed == ("images/Müller 1.png", "images/b.png")


def test_another_name_of_a_file_is_not_the_file(folder: Path):
    (folder / "a.png").rename(folder / "b.png")
    assert integrity.damage(folder) == integrity.Damage(missing=("a.png",), unlisted=("b.png",))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a\\b", "a\0b", "a/../../b", "C:x"])
def test_a_hostile_list_is_refused_with_its_line(folder: Path, name: str):
    (folder / integrity.CHECKSUMS).write_text(f"{'0' * 64}  a.png\n{'0' * 64}  {name}\n")
    with pytest.raises(DataError, match="line 2"):
        integrity.damage(folder)


@pytest.mark.parametrize(
    "text", ["hello\n", "0" * 64 + " a.png\n", "Z" * 64 + "  a.png\n", f"{'0' * 64}  a\n" * 2]
)
def test_a_damaged_list_is_refused(folder: Path, text: str):
    (folder / integrity.CHECKSUMS).write_text(text)
    with pytest.raises(DataError, match=r"line [12]"):
        integrity.read(folder)


def test_a_name_that_cannot_be_read_back_is_refused_when_the_list_is_written(tmp_path: Path):
    for name in ("a\nb", "a\\b", "", "../a", "a//b"):
        with pytest.raises(DataError):
            integrity.write(tmp_path, {name: "0" * 64})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_list_has_no_digest(tmp_path: Path):
    assert integrity.read(tmp_path) == {}
    assert integrity.digest_of(tmp_path) == ""


def test_a_folder_with_the_name_of_a_file_that_is_left_out_hides_nothing(tmp_path):
    (tmp_path / "a").write_text("a")
    integrity.write(tmp_path, integrity.measured(tmp_path, [tmp_path / "a"]))
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "b").write_text("b")
    (tmp_path / "report.html").mkdir()
    (tmp_path / "report.html" / "original.dcm").write_text("x")
    found = integrity.damage(tmp_path, leave_out=("private", "report.html"))
    assert found.unlisted == ("report.html/original.dcm",)
