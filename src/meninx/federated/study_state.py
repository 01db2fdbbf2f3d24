"""The coordinator's state of a study: SQLite, written before every step, so that a killed study goes on.

A study stands in one :class:`Stage`, a round in one :class:`RoundPhase`. Each change is one transaction that
is on the disk before what it announces is done. Uploads, signatures and opened secrets of the round at hand
are kept until the round is over, so a coordinator that was killed asks only for what is missing, and a site
answers a repeated request with the same bytes. At most the round at hand is repeated.

    training ──▶ agreeing ──▶ revealing ──▶ checking ──▶ accepted
      ▲  │           └─────────────┴────────────┴──────▶ aborted: same model, next round, training anew
      └──┘ another attempt, same updates

A round without secure aggregation goes from training to accepted. After the sites were asked to agree there
is no further attempt: an update is part of one round number alone, and a site signs one set of survivors for
it.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from meninx.core import files
from meninx.core.errors import DataError, StorageError, UsageError, expected, problem
from meninx.federated.messages import Position
from meninx.federated.strategies import ServerState
from meninx.federated.vector import model_digest, to_bytes

VERSION = 1
_TABLES = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE models (number INTEGER PRIMARY KEY, name TEXT NOT NULL, weights BLOB NOT NULL,
                     memory BLOB NOT NULL) STRICT;
CREATE TABLE rounds (round INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT;
CREATE TABLE papers (round INTEGER NOT NULL, kind TEXT NOT NULL, site TEXT NOT NULL, content BLOB NOT NULL,
                     PRIMARY KEY (round, kind, site)) STRICT;
CREATE TABLE sites (site TEXT PRIMARY KEY, announcement BLOB, met INTEGER, left_because TEXT, epsilon REAL,
                    finished INTEGER) STRICT;
"""


class Stage(StrEnum):
    """Where a study stands."""

    MEETING = "meeting"
    """Sites announce their keys of this run."""
    ROUNDS = "rounds"
    FINISHING = "finishing"
    """All rounds are done; sites release the model."""
    FINISHED = "finished"


class RoundPhase(StrEnum):
    """Where a round stands."""

    TRAINING = "training"
    AGREEING = "agreeing"
    REVEALING = "revealing"
    CHECKING = "checking"
    ACCEPTED = "accepted"
    ABORTED = "aborted"

    @property
    def over(self) -> bool:
        """Whether the round ended."""
        return self in (RoundPhase.ACCEPTED, RoundPhase.ABORTED)


NEXT = {
    RoundPhase.TRAINING: {
        RoundPhase.TRAINING,
        RoundPhase.AGREEING,
        RoundPhase.ACCEPTED,
        RoundPhase.ABORTED,
    },
    RoundPhase.AGREEING: {RoundPhase.REVEALING, RoundPhase.ABORTED},
    RoundPhase.REVEALING: {RoundPhase.CHECKING, RoundPhase.ABORTED},
    RoundPhase.CHECKING: {RoundPhase.ACCEPTED, RoundPhase.ABORTED},
    RoundPhase.ACCEPTED: set[RoundPhase](),
    RoundPhase.ABORTED: set[RoundPhase](),
}
"""RoundPhase -> phases that may follow."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round as it is written down.

    Attributes:
        number: of the round, from 0, over all runs of the study.
        attempt: number of the attempt, from 0.
        position: how many stretches of training lie behind it; a round that is repeated has the same.
        phase: where it stands.
        model: number of the model it begins with.
        members: sites that were asked (U0).
        survivors: sites whose updates are in the sum (U1).
        units: units of the survivors together; 0 before the sum.
        loss: mean training loss; None where unknown.
        cut: share of the weights' changes that were cut.
        short: share of the units whose sites took fewer steps than the round has.
        opened: the sum was opened, whether or not it was accepted.
        unchecked: why no site was asked to compute the sum again.
        checked: site -> share of the sum that it computed again.
        mismatches: sites that computed another sum.
        received: bytes of the uploads.
        seconds: duration.
        words: why it was aborted, or the attempt before it.
    """

    number: int
    attempt: int = 0
    position: int
    phase: RoundPhase
    model: int
    members: tuple[str, ...]
    survivors: tuple[str, ...] = ()
    units: int = 0
    loss: float | None = None
    cut: float = 0.0
    short: float = 0.0
    opened: bool = False
    unchecked: str = ""
    checked: dict[str, float] = {}
    mismatches: tuple[str, ...] = ()
    received: int = 0
    seconds: float = 0.0
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a study is.

    Attributes:
        study: its name.
        run: identifier of this run of it, fresh for each start.
        terms: digest of its terms.
        layout: digest of the layout of its weights.
        first: number of the first round: no round number of an earlier run comes again, because a site signs
            one set of survivors for each.
    """

    study: str
    run: str
    terms: str
    layout: str
    first: int = 0

    def at(self, number: int, attempt: int = 0) -> Position:
        """Return where a message of a round belongs."""
        return Position(study=self.study, run=self.run, round=number, attempt=attempt)


class StudyState:
    """The state on disk. Made by :meth:`begin` or :meth:`resume`; for one thread.

    Attributes:
        header: what study it is.

    Raises:
        StorageError: of every method: the disk refused.
        DataError: of every method: the file is damaged.
    """

    def __init__(self, base: sqlite3.Connection, path: Path) -> None:
        self._base, self._path = base, path
        with self._guarded():
            self._header = dict(base.execute("SELECT key, value FROM study"))
        if self._header.get("version") != str(VERSION):
            got = self._header.get("version", "none")
            raise DataError(expected(f"a study of version {VERSION}", got=got, where=path.name))
        texts = {name: self._header[name] for name in ("study", "run", "terms", "layout")}
        self.header = Header(**texts, first=int(self._header["first"]))

    @classmethod
    def begin(
        cls, path: Path, *, study: str, terms: str, layout: str, weights: ServerState, first: int = 0
    ) -> StudyState:
        """Make the state of a new run of a study and return it.

        Args:
            path: the file.
            study: name of the study.
            terms: digest of its terms.
            layout: digest of the layout of its weights.
            weights: the first common model.
            first: number of the first round, above those of all earlier runs (:attr:`next_number`).

        Raises:
            UsageError: there is one already.
        """
        if path.exists():
            fix = "go on with it (resume), or give another folder"
            raise UsageError(problem("the study was begun before", where=path.name, fix=fix))
        base = _connected(path)
        table = {
            "version": str(VERSION), "study": study, "run": secrets.token_hex(8), "terms": terms,
            "layout": layout, "stage": str(Stage.MEETING), "position": "0", "first": str(first),
        }  # fmt: skip
        with _guard(path):
            base.executescript(f"BEGIN IMMEDIATE;{_TABLES}")
            base.executemany("INSERT INTO study VALUES (?, ?)", table.items())
            _insert_model(base, 0, weights)
            base.execute("COMMIT")
        return cls(base, path)

    @classmethod
    def resume(cls, path: Path, *, study: str, terms: str, layout: str) -> StudyState:
        """Return the state of a study that was begun before.

        Raises:
            UsageError: there is none.
            DataError: it is another study, or its terms are others.
        """
        if not path.is_file():
            raise UsageError(problem("the study was not begun", where=path.name, fix="begin it (run)"))
        found = cls.opened(path)
        if (found.header.study, found.header.terms, found.header.layout) != (study, terms, layout):
            fix = "resume it with the terms that it was begun with, or begin a new run"
            raise DataError(problem("the study was begun with other terms", where=path.name, fix=fix))
        return found

    @classmethod
    def opened(cls, path: Path) -> StudyState:
        """Return the state in a file, of whatever terms: to look at an earlier run."""
        return cls(_connected(path), path)

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    # the study

    @property
    def stage(self) -> Stage:
        """Where the study stands."""
        return Stage(self._value("stage"))

    @property
    def position(self) -> int:
        """Stretches of training that are done or used up."""
        return int(self._value("position"))

    def enter(self, stage: Stage) -> None:
        """Write down that the study enters a stage."""
        with self._transaction():
            self._put("stage", str(stage))

    def model(self) -> tuple[int, ServerState]:
        """Return number and content of the last accepted model."""
        with self._guarded():
            row = self._base.execute(
                "SELECT number, name, weights, memory FROM models ORDER BY number DESC LIMIT 1"
            ).fetchone()
        number, name, weights, memory = row
        vector = np.frombuffer(weights, "<f4").astype(np.float32)
        if model_digest(vector) != name:
            raise DataError(problem(f"model {number} was changed", where=self._path.name))
        tables: Mapping[str, bytes] = msgspec.msgpack.decode(memory)
        kept = {key: np.frombuffer(value, "<f4").astype(np.float32) for key, value in tables.items()}
        return int(number), ServerState(vector, kept)

    # sites

    def announced(self) -> dict[str, bytes]:
        """Return site -> its signed keys of this run."""
        with self._guarded():
            rows = self._base.execute("SELECT site, announcement FROM sites WHERE announcement IS NOT NULL")
            return dict(rows.fetchall())

    def announce(self, site: str, announcement: bytes) -> None:
        """Keep the signed keys of a site; the first ones of a run stay."""
        with self._transaction():
            self._base.execute("INSERT OR IGNORE INTO sites (site) VALUES (?)", (site,))
            self._base.execute(
                "UPDATE sites SET announcement = ? WHERE site = ? AND announcement IS NULL",
                (announcement, site),
            )

    def met(self) -> frozenset[str]:
        """Return the sites that have the keys of all."""
        with self._guarded():
            rows = self._base.execute("SELECT site FROM sites WHERE met = 1")
            return frozenset(site for (site,) in rows)

    def meet(self, site: str) -> None:
        """Write down that a site has the keys of all."""
        with self._transaction():
            self._base.execute("UPDATE sites SET met = 1 WHERE site = ?", (site,))

    def left(self) -> dict[str, str]:
        """Return site -> reason, of the sites that take no further part."""
        with self._guarded():
            rows = self._base.execute("SELECT site, left_because FROM sites WHERE left_because IS NOT NULL")
            return dict(rows.fetchall())

    def leave(self, site: str, reason: str) -> None:
        """Write down that a site takes no further part in this run."""
        with self._transaction():
            self._base.execute("INSERT OR IGNORE INTO sites (site) VALUES (?)", (site,))
            self._base.execute("UPDATE sites SET left_because = ? WHERE site = ?", (reason, site))

    def finished(self) -> dict[str, float | None]:
        """Return site -> epsilon of its run, of the sites that released the model."""
        with self._guarded():
            rows = self._base.execute("SELECT site, epsilon FROM sites WHERE finished = 1 ORDER BY site")
            return dict(rows.fetchall())

    def finish(self, site: str, epsilon: float | None) -> None:
        """Write down that a site released the model."""
        with self._transaction():
            self._base.execute("INSERT OR IGNORE INTO sites (site) VALUES (?)", (site,))
            self._base.execute("UPDATE sites SET finished = 1, epsilon = ? WHERE site = ?", (epsilon, site))

    # rounds

    def rounds(self) -> tuple[Round, ...]:
        """Return all rounds, in order."""
        with self._guarded():
            rows = self._base.execute("SELECT content FROM rounds ORDER BY round").fetchall()
        return tuple(msgspec.msgpack.decode(content, type=Round) for (content,) in rows)

    def at_hand(self) -> Round | None:
        """Return the round that is not over; None when the next one may begin."""
        last = self.rounds()[-1:]
        return last[0] if last and not last[0].phase.over else None

    def begin_round(self, members: tuple[str, ...]) -> Round:
        """Write down that a round begins and return it.

        Raises:
            DataError: another round is at hand.
        """
        if self.at_hand() is not None:
            raise DataError(problem("a round is not over", where=self._path.name))
        number, _ = self.model()
        begun = Round(
            number=self.next_number,
            position=self.position,
            phase=RoundPhase.TRAINING,
            model=number,
            members=members,
        )
        with self._transaction():
            self._write(begun)
        return begun

    @property
    def next_number(self) -> int:
        """Number of the next round."""
        return self.header.first + len(self.rounds())

    def retry(self, now: Round, members: tuple[str, ...], words: str) -> Round:
        """Write down that another attempt at a round begins, and return it.

        Args:
            now: the round, in training.
            members: sites that are asked now.
            words: why the attempt before failed.
        """
        changes = {"attempt": now.attempt + 1, "members": members, "words": words}
        changed = self._changed(now, RoundPhase.TRAINING, changes)
        with self._transaction():
            self._write(changed)
            self._base.execute("DELETE FROM papers WHERE round <= ?", (now.number,))
        return changed

    def advance(self, now: Round, phase: RoundPhase, **changes: Any) -> Round:
        """Write down that a round enters a phase, and return it.

        Raises:
            DataError: the phase cannot follow.
        """
        changed = self._changed(now, phase, changes)
        with self._transaction():
            self._write(changed)
        return changed

    def accept(self, now: Round, model: ServerState, **changes: Any) -> Round:
        """Write down the model of a round and that the round is over, in one transaction."""
        changed = self._changed(now, RoundPhase.ACCEPTED, changes)
        with self._transaction():
            _insert_model(self._base, now.model + 1, model)
            self._base.execute("DELETE FROM models WHERE number < ?", (now.model,))
            self._put("position", str(now.position + 1))
            self._write(changed)
            self._base.execute("DELETE FROM papers WHERE round <= ?", (now.number,))
        return changed

    def abort(self, now: Round, words: str, **changes: Any) -> Round:
        """Write down that a round failed: the model stays, the training of the round is used up.

        Args:
            now: the round.
            words: why.
            **changes: further fields.
        """
        changed = self._changed(now, RoundPhase.ABORTED, {"words": words, **changes})
        with self._transaction():
            self._put("position", str(now.position + 1))
            self._write(changed)
            self._base.execute("DELETE FROM papers WHERE round <= ?", (now.number,))
        return changed

    def keep(self, now: Round, kind: str, site: str, content: bytes) -> None:
        """Keep what a site sent in a round: an upload, a signature, opened secrets."""
        with self._transaction():
            self._base.execute(
                "INSERT OR REPLACE INTO papers VALUES (?, ?, ?, ?)", (now.number, kind, site, content)
            )

    def papers(self, now: Round, kind: str) -> dict[str, bytes]:
        """Return site -> what it sent in a round."""
        with self._guarded():
            rows = self._base.execute(
                "SELECT site, content FROM papers WHERE round = ? AND kind = ? ORDER BY site",
                (now.number, kind),
            )
            return dict(rows.fetchall())

    # within

    def _changed(self, now: Round, phase: RoundPhase, changes: Mapping[str, Any]) -> Round:
        if phase not in NEXT[now.phase]:
            raise DataError(
                problem(f"a round that is {now.phase} cannot become {phase}", where=self._path.name)
            )
        return msgspec.structs.replace(now, phase=phase, **changes)

    def _write(self, entry: Round) -> None:
        self._base.execute(
            "INSERT OR REPLACE INTO rounds VALUES (?, ?)", (entry.number, msgspec.msgpack.encode(entry))
        )

    def _value(self, key: str) -> str:
        with self._guarded():
            (value,) = self._base.execute("SELECT value FROM study WHERE key = ?", (key,)).fetchone()
        return str(value)

    def _put(self, key: str, value: str) -> None:
        self._base.execute("INSERT OR REPLACE INTO study VALUES (?, ?)", (key, value))

    def _guarded(self) -> Any:
        return _guard(self._path)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Do what is in the block as one transaction that is on the disk at the end."""
        with self._guarded():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._base.execute("ROLLBACK")
                raise


def _insert_model(base: sqlite3.Connection, number: int, model: ServerState) -> None:
    memory = msgspec.msgpack.encode({key: to_bytes(value) for key, value in model.memory.items()})
    base.execute(
        "INSERT INTO models VALUES (?, ?, ?, ?)",
        (number, model_digest(model.weights), to_bytes(model.weights), memory),
    )


def _connected(path: Path) -> sqlite3.Connection:
    with _guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():  # files that the database makes beside it get the same mode
            path.touch(mode=files.PRIVATE_MODE)
        base = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        return base


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Turn errors of the database into those of meninx."""
    try:
        yield
    except sqlite3.OperationalError as error:
        fix = "free space or permissions, then resume"
        raise StorageError(
            problem(f"the state of the study cannot be written: {error}", where=path.name, fix=fix)
        ) from error
    except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
        fix = "restore the file from a backup, or begin a new run"
        raise DataError(problem("the state of the study is damaged", where=path.name, fix=fix)) from error
    except OSError as error:
        raise StorageError(problem("the state of the study cannot be written", where=path.name)) from error
