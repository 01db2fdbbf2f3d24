from __future__ import annotations

import os
import stat

import pytest
from deid_samples import KEY, key_file

from meninx.core.errors import PrivacyRefusal
from meninx.deid.identity import keys
from meninx.deid.identity.keys import KeyFile, SiteKey, make_key, read_key

POSIX = pytest.mark.skipif(os.name != "posix", reason="modes and owners of POSIX")


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"k" * 31,
        bytes(64),
        b"0" * 64,
        b"password" * 8,
        b"northern-star" * 3,  # ten distinct bytes, but a short text again and again
        bytes(range(9)) * 8,
        bytes(10_000) + bytes(range(9)),
    ],
)
def test_what_somebody_may_guess_is_no_key(tmp_path, secret):
    for make in (lambda: SiteKey(secret, "north"), lambda: read_key(key_file(tmp_path, secret), "north")):
        with pytest.raises(PrivacyRefusal) as refusal:
            make()
        assert secret.decode("latin-1")[:8] not in str(refusal.value) or not secret[:8].strip(b"\0")


def test_every_new_key_is_one(tmp_path):
    for number in range(30):
        assert read_key(make_key(tmp_path / str(number)), "north").fingerprint()
        SiteKey(os.urandom(32), "north")
    SiteKey(b"correct horse battery staple 1234", "north")


@POSIX
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o620, 0o644, 0o666, 0o677])
def test_a_key_that_others_can_read_or_change_is_refused_with_the_command(tmp_path, mode):
    path = key_file(tmp_path)
    path.chmod(mode)
    for read in (lambda: read_key(path, "north"), lambda: KeyFile(path).read("north")):
        with pytest.raises(PrivacyRefusal, match=rf"mode {mode:04o} .*`chmod 600 site\.key`"):
            read()
    assert stat.S_IMODE(path.stat().st_mode) == mode  # only looked at


@POSIX
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_of_the_owner_alone_is_read(tmp_path, mode):
    path = key_file(tmp_path)
    path.chmod(mode)
    (tmp_path / "link").symlink_to(path)
    for name in ("site.key", "link"):
        assert read_key(tmp_path / name, "north").derive("uid") == SiteKey(KEY, "north").derive("uid")
    path.chmod(0o640)
    with pytest.raises(PrivacyRefusal, match="mode 0640"):
        read_key(tmp_path / "link", "north")


@POSIX
def test_a_key_or_link_of_another_user_is_refused(tmp_path, monkeypatch):
    path = key_file(tmp_path)
    mine = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1000)
    if mine:
        with pytest.raises(PrivacyRefusal, match="file of your own"):
            read_key(path, "north")
        return
    read_key(path, "north")  # the administrator's own, readable by this user
    os.chown(path, 4321, 4321)
    with pytest.raises(PrivacyRefusal, match=r"another user.*`chown 1000 site\.key`"):
        read_key(path, "north")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    read_key(path, "north")
    os.chown(path, 0, 0)
    (tmp_path / "link").symlink_to(path)
    os.chown(tmp_path / "link", 4321, 4321, follow_symlinks=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PrivacyRefusal, match="file or link of another user"):
        read_key(tmp_path / "link", "north")


@POSIX
def test_a_key_in_a_folder_that_everybody_can_change_is_refused(tmp_path):
    path = key_file(tmp_path / "open")
    path.parent.chmod(0o777)
    with pytest.raises(PrivacyRefusal, match="folder that others cannot change"):
        read_key(path, "north")
    path.parent.chmod(0o1777)  # as /tmp: nobody replaces another user's file there
    read_key(path, "north")


def test_a_key_that_is_too_large_or_no_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "MAXIMUM_BYTES", 40)
    read_key(key_file(tmp_path, KEY), "north")
    (tmp_path / "folder").mkdir()
    for path in (key_file(tmp_path, KEY + b"x", "large"), tmp_path / "folder", tmp_path / "none", None):
        with pytest.raises(PrivacyRefusal):
            read_key(path, "north")
