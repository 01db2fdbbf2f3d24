"""Every target that was ever asked of a release: one file in its private room, which only grows.

A target that is chosen after an attack was seen proves nothing. Which one came first is a fact about the
release, not about the folder in which an audit lies: an audit that writes elsewhere is entered, too, and
the entry outlives the record. ``private/asked_targets.jsonl`` begins with the digest of the release. Each
line carries a digest under the key of the release over itself and the line before, and the last line is a
digest of the whole. An edit, a removed line and a removed file are detected. Not detected is a private room
that was put back as a whole to an earlier state, or an edit by a program that computes digests with the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.core import artifacts, files, plain, workspace
from meninx.core.artifacts import ReleaseAuditRecord
from meninx.core.errors import DataError, problem
from meninx.core.obfuscation_records import AskedTarget
from meninx.obfuscate import sealed_release
from meninx.obfuscate.release_verdict import FAILED, PASSED

HISTORY = "asked_targets.jsonl"
_LIMIT, _MOST = 1 << 22, 4096
_LINE, _END = "asked target", "end of the asked targets"
_WORDS = {FAILED: "missed", PASSED: "met"}


@dataclass(frozen=True, kw_only=True)
class AskedAudit:
    """One audit of a release: a line of the file.

    Attributes:
        release: SHA-256 of the release's ``checksums.sha256``; the first line holds nothing else.
        attribute: the attacked attribute; empty in the first line.
        classes: its classes.
        target: 0 for none.
        verdict: on that target, with the numbers of that time.
        seed: of the attackers.
        made: time, ISO 8601 in UTC; empty in a deterministic audit.
        elsewhere: the record was written into another folder than the release.
        seal: digest under the key over this line and the one before.
    """

    release: str
    attribute: str = ""
    classes: tuple[str, ...] = ()
    target: float = 0.0
    verdict: str = ""
    seed: int = 0
    made: str = ""
    elsewhere: bool = False
    seal: str = ""

    @property
    def asked(self) -> AskedTarget:
        """The entry as it stands in a record."""
        return AskedTarget(target=self.target, verdict=self.verdict, seed=self.seed, made=self.made)

    def is_about(self, record: ReleaseAuditRecord) -> bool:
        """Return whether it is about the same classes of the same attribute."""
        return (self.attribute, self.classes) == (record.attribute, record.classes)

    def words(self) -> str:
        """Return attribute, target and verdict in words."""
        what = f"{sealed_release.stated(self.attribute)}, "
        target = f"target {self.target:.2f}" if self.target else "no target"
        place = " (record in another folder)" if self.elsewhere else ""
        return f"{what}{target}: {_WORDS.get(self.verdict, self.verdict)}{place}"


def begin(room: Path, checksums: str, key: bytes) -> None:
    """Write the history of a release that nobody has attacked yet into its private room."""
    _write(room / HISTORY, [_sealed(AskedAudit(release=checksums), "", key)], key)


def history(root: Path) -> tuple[AskedAudit, ...]:
    """Return all audits of a release, the first one first; nothing where its private room is not here.

    Raises:
        DataError: the file is missing, was changed, or belongs to another release.
    """
    return tuple(line for line in _lines(root) if line.attribute)


def enter(root: Path, record: ReleaseAuditRecord, *, elsewhere: bool) -> None:
    """Enter an audit into the history of a release whose private room is here; else do nothing.

    Args:
        root: the release.
        record: the finished audit; the last of its targets is entered.
        elsewhere: its record goes to another folder.

    Raises:
        DataError: as :func:`history`, or the file is full.
    """
    key = sealed_release.key_of(root)
    if not key:
        return
    lines, last = _lines(root), record.asked[-1]
    if len(lines) >= _MOST:
        raise DataError(problem("the release was audited too often", where=f"{workspace.PRIVATE}/{HISTORY}"))
    line = AskedAudit(
        release=lines[0].release, attribute=record.attribute, classes=record.classes, target=last.target,
        verdict=last.verdict, seed=last.seed, made=last.made, elsewhere=elsewhere,
    )  # fmt: skip
    _write(root / workspace.PRIVATE / HISTORY, [*lines, _sealed(line, lines[-1].seal, key)], key)


def lost(lines: Iterable[AskedAudit], record: ReleaseAuditRecord | None) -> str:
    """Return that the record of an audit is not there that the history names; empty where nothing is missing.

    Raises:
        DataError: the record names other targets than the history.
    """
    every = tuple(lines)
    if record is None:
        own = [line for line in every if not line.elsewhere]
        if not own:
            return ""
        return f"the release was audited, and the record is missing ({_listed(own)})"
    same = [line for line in every if line.is_about(record)]
    if tuple(line.asked for line in same[: len(record.asked)]) != record.asked:
        what = "the audit names other targets than the history of the release"
        raise DataError(problem(what, where=artifacts.place(ReleaseAuditRecord)))
    later = [line for line in same[len(record.asked) :] if not line.elsewhere]
    return f"the record of a later audit is missing ({_listed(later)})" if later else ""


def missed_elsewhere(lines: Iterable[AskedAudit], record: ReleaseAuditRecord) -> str:
    """Return that another audit of the release missed the target that decides; empty where none did."""
    missed = [
        line
        for line in lines
        if line.is_about(record) and line.verdict == FAILED and record.target and line.target >= record.target
    ]
    return f"another audit of this release missed the target ({_listed(missed)})" if missed else ""


def _listed(lines: Iterable[AskedAudit]) -> str:
    return "; ".join(line.words() for line in lines)


def _lines(root: Path) -> tuple[AskedAudit, ...]:
    key = sealed_release.key_of(root)
    if not key:
        return ()
    path, where = root / workspace.PRIVATE / HISTORY, f"{workspace.PRIVATE}/{HISTORY}"
    fix = "restore the private room, or make the release again with --overwrite"
    if not path.is_file():
        what = "the history of targets is missing: an earlier version made the release, or it was removed"
        raise DataError(problem(what, where=where, fix=fix))
    *texts, end = files.read_text(path, limit=_LIMIT).split("\n")[: _MOST + 2][:-1] or [""]
    found = tuple(plain.from_json(text, AskedAudit, where=where) for text in texts)
    before = ""
    for number, line in enumerate(found):
        one_release = line.release == found[0].release and bool(line.attribute) == bool(number)
        if not one_release or line != _sealed(line, before, key):
            raise DataError(problem("the history of targets was changed", where=where, fix=fix))
        before = line.seal
    if end != artifacts.keyed(key, _END, before):
        raise DataError(problem("the history of targets was changed", where=where, fix=fix))
    record = artifacts.read(root, artifacts.ObfuscationRecord)
    if not found or (record is not None and record.checksums != found[0].release):
        what = "the history of targets is that of another release"
        raise DataError(problem(what, where=where, fix=fix))
    return found


def _sealed(line: AskedAudit, before: str, key: bytes) -> AskedAudit:
    bare = replace(line, seal="")
    return replace(line, seal=artifacts.keyed(key, _LINE, before, plain.to_json(bare)))


def _write(path: Path, lines: Sequence[AskedAudit], key: bytes) -> None:
    texts = [plain.to_json(line).replace("\n", " ").strip() for line in lines]
    text = "\n".join([*texts, artifacts.keyed(key, _END, lines[-1].seal), ""])
    files.write_text(path, text, mode=files.PRIVATE_MODE)
