"""A cache by digest: the same inputs find the file, others do not, and nobody else can read it."""

import stat

import pytest

from meninx.core.digest_cache import DigestCache
from meninx.core.errors import DataError


def test_only_the_same_inputs_find_the_result(tmp_path):
    cache = DigestCache(tmp_path / "audit" / "signals", suffix=".bin")
    key = cache.key("run", "ab", b"\x00")
    cache.write(key, b"found")
    assert cache.read(cache.key("run", "ab", b"\x00")) == b"found"
    for other in (("run", "a", "b", b"\x00"), ("runa", "b", b"\x00"), ("ab", "run", b"\x00"), ("run", "ab")):
        assert cache.read(cache.key(*other)) is None


def test_files_and_folders_are_private(tmp_path):
    cache = DigestCache(tmp_path / "audit" / "signals", suffix=".bin")
    cache.write(cache.key("a"), b"1")
    (file,) = cache.room.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (cache.room, cache.room.parent)} == {0o700}


def test_a_file_that_is_too_large_is_refused(tmp_path):
    cache = DigestCache(tmp_path / "room", suffix=".bin", limit=3)
    cache.write(cache.key("a"), b"1234")
    with pytest.raises(DataError):
        cache.read(cache.key("a"))
