"""The audit log: every change by somebody without the key is found, and a kill loses no line."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core import files
from meninx.core.errors import DataError, MeninxError, UsageError
from meninx.federated.audit_log import AuditLog

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    found = AuditLog.create(tmp_path, KEY)
    for number in range(4):
        found.append("round", number=number, site="north")
    return found


def _path(root: Path) -> Path:
    return root / "private" / "audit.jsonl"


def test_lines_are_read_back_in_order_with_owner_only_rights(tmp_path, log):
    found = AuditLog.open(tmp_path, KEY).verify()
    assert [entry.details.get("number") for entry in found] == [None, 0, 1, 2, 3]
    assert _path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert log.anchor().startswith("5:")


def _edited(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"number":0', b'"number":7'), *lines[2:]]


def _resealed(lines: list[bytes]) -> list[bytes]:
    """A line that somebody else signed, with the right chain."""
    body = lines[4].rpartition(b',"signature":"')[0]
    signature = Ed25519PrivateKey.generate().sign(b"meninx audit line 1\0" + body).hex().encode()
    return [*lines[:4], body + b',"signature":"' + signature + b'"}\n']


@pytest.mark.parametrize(
    "change",
    [
        _edited,
        _resealed,
        lambda lines: lines[:2] + lines[3:],
        lambda lines: lines[1:],
        lambda lines: lines[:-1],
        lambda lines: lines[:-2],
        lambda lines: [],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
        lambda lines: [lines[0].replace(b"{", b"{ ", 1), *lines[1:]],
        lambda lines: [*lines, b"{}\n"],
        lambda lines: [*lines, b"\xff\n"],
        lambda lines: [*lines[:-1], lines[-1] + lines[-1] + b"more"],
    ],
)
def test_every_change_is_found(tmp_path, log, change):
    path = _path(tmp_path)
    before = path.read_bytes().splitlines(keepends=True)
    after = b"".join(change(before))
    assert after != b"".join(before)
    path.write_bytes(after)
    with pytest.raises(DataError, match="audit log"):
        AuditLog.open(tmp_path, KEY).verify()


def test_an_older_head_with_a_shorter_log_is_found_by_an_anchor(tmp_path, log):
    files_before = {
        name: (tmp_path / "private" / name).read_bytes() for name in ("audit.jsonl", "audit.head")
    }
    log.append("study refused", reason="epsilon")
    anchor = log.anchor()
    for name, content in files_before.items():
        (tmp_path / "private" / name).write_bytes(content)
    rolled_back = AuditLog.open(tmp_path, KEY)
    assert len(rolled_back.verify()) == 5
    assert rolled_back.anchor() != anchor


def test_lines_of_another_copy_of_the_same_log_are_found(tmp_path):
    """A log that was continued twice from one backup: every line is signed with the right key."""
    roots = (tmp_path / "one", tmp_path / "two")
    AuditLog.create(roots[0], KEY)
    shutil.copytree(roots[0], roots[1])
    for root, words in zip(roots, ("approved", "rejected"), strict=True):
        log = AuditLog.open(root, KEY)
        log.append(words)
        log.append("round")
    one, two = (_path(root).read_bytes().splitlines(keepends=True) for root in roots)
    _path(roots[0]).write_bytes(b"".join([one[0], two[1], one[2]]))
    with pytest.raises(DataError, match="line 3"):
        AuditLog.open(roots[0], KEY).verify()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 5000, b'{"count":1}', b"x" * 10_000])
def test_a_damaged_head_is_a_sentence(tmp_path, log, content):
    (tmp_path / "private" / "audit.head").write_bytes(content)
    with pytest.raises(DataError):
        log.append("x")
    with pytest.raises(DataError):
        log.verify()


def test_a_head_of_somebody_else_is_refused(tmp_path, log):
    head = json.loads((tmp_path / "private" / "audit.head").read_text())
    head["count"] = 4
    (tmp_path / "private" / "audit.head").write_text(json.dumps(head))
    with pytest.raises(DataError, match="head"):
        log.verify()


def test_a_log_that_is_gone_is_not_begun_again(tmp_path, log):
    _path(tmp_path).unlink()
    with pytest.raises(DataError, match="missing"):
        AuditLog.open(tmp_path, KEY)
    (tmp_path / "private" / "audit.head").unlink()
    with pytest.raises(DataError, match="missing"):
        AuditLog.open(tmp_path, KEY)


def test_a_second_log_is_not_begun(tmp_path, log):
    with pytest.raises(UsageError):
        AuditLog.create(tmp_path, KEY)


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_line_that_was_torn_by_a_kill_goes_and_a_whole_one_stays(tmp_path, log, monkeypatch, cut):
    """The process dies after some bytes of the line, or after the line and before the head."""

    def torn(path: Path, line: str, *, mode: int) -> None:
        with path.open("ab") as stream:
            stream.write((line.rstrip("\n") + "\n").encode()[:cut])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "append_line", torn)
        with pytest.raises(KeyboardInterrupt):
            log.append("round", number=4)
    again = AuditLog.open(tmp_path, KEY)
    again.append("round", number=5)
    numbers = [entry.details.get("number") for entry in again.verify()]
    assert numbers == [None, 0, 1, 2, 3, *([4] if cut == 10_000 else []), 5]


def test_a_new_key_takes_over_and_the_old_one_serves_no_more(tmp_path, log):
    new = Ed25519PrivateKey.generate()
    log.rotate(new)
    log.append("round", number=9)
    assert len(AuditLog.open(tmp_path, new).verify()) == 7
    with pytest.raises(DataError):
        AuditLog.open(tmp_path, KEY).verify()
    with pytest.raises(DataError):
        AuditLog.open(tmp_path, KEY).append("x")


def test_a_history_that_somebody_invents_does_not_end_in_our_key(tmp_path):
    other, ours = tmp_path / "other", tmp_path / "ours"
    thief = Ed25519PrivateKey.generate()
    invented = AuditLog.create(other, thief)
    AuditLog.create(ours, KEY).append("study refused")
    thief_head = (other / "private" / "audit.head").read_bytes()
    invented.rotate(KEY)  # names our key, but the head that would say so needs our signature
    (ours / "private" / "audit.jsonl").write_bytes(_path(other).read_bytes())
    with pytest.raises(DataError):
        AuditLog.open(ours, KEY).verify()
    (ours / "private" / "audit.head").write_bytes(thief_head)
    with pytest.raises(DataError):
        AuditLog.open(ours, KEY).verify()


def test_texts_from_elsewhere_are_harmless_and_bounded(tmp_path, log):
    log.append("study\x1b[2J refused", reason="\u202e" + "x" * 10_000, missing=None, share=0.5)
    entry = log.verify()[-1]
    assert entry.event == "study?[2J refused"
    assert entry.details["reason"] == "?" + "x" * 1999
    assert _path(tmp_path).read_text().isascii()
    with pytest.raises(MeninxError):
        log.append("x", **{f"name{number}": "y" * 2000 for number in range(40)})
    assert len(log.verify()) == 6


def test_two_handles_of_one_log_take_turns(tmp_path, log):
    other = AuditLog.open(tmp_path, KEY)
    for number, handle in zip(range(10), itertools.cycle([log, other]), strict=False):
        handle.append("round", number=number)
    assert len(log.verify()) == 15
