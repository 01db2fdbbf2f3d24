"""Site history: entries that a site records before it sends a signature or a secret.

The caller of :class:`.site_protocol.SiteProtocol` makes each entry durable before ``record`` returns, in a
file that only the site can read, because entries contain seeds and the exchange key. A site that was killed
restarts from the entries: it can send again, byte for byte, what it had signed, and it can sign nothing that
contradicts it.

An attacker who copies the history of a running site knows everything that the site knows and counts as a
colluder. After :meth:`.site_protocol.SiteProtocol.close` only entries without seeds are needed, and the file
is rewritten without the others. Python may keep copies of keys in memory and a disk may keep old blocks, so
this limits what remains and does not prove erasure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from meninx.core.errors import DataError, problem


class _Recorded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    study: str
    run: str


class KeyDrawn(_Recorded, frozen=True, kw_only=True, tag="key"):
    """The exchange key of a run and its announcement."""

    secret: bytes
    announcement: bytes


class SitesMet(_Recorded, frozen=True, kw_only=True, tag="met"):
    """The announcements of all sites of a run."""

    announcements: tuple[bytes, ...]


class VectorMasked(_Recorded, frozen=True, kw_only=True, tag="masked"):
    """The seed of the site's own mask, and its signed statement about the masked vector."""

    round: int
    attempt: int
    seed: bytes
    statement: bytes


class AttemptUsed(_Recorded, frozen=True, kw_only=True, tag="used"):
    """The last attempt with a masked vector; its seed is erased, so no other vector can follow."""

    round: int
    attempt: int


class SurvivorsSigned(_Recorded, frozen=True, kw_only=True, tag="signed"):
    """The only set of survivors signed in a round; it closes the round for every later attempt and run."""

    round: int
    attempt: int
    survivors: tuple[str, ...]
    agreement: bytes


class SecretsOpened(_Recorded, frozen=True, kw_only=True, tag="opened"):
    """The secrets that were opened, and the lost members concerned."""

    round: int
    lost: tuple[str, ...]
    opening: bytes


class SharesDrawn(_Recorded, frozen=True, kw_only=True, tag="shares"):
    """The seeds of a vector's shares, in the order of the roster, and the signed statement about them."""

    round: int
    attempt: int
    seeds: tuple[bytes, ...]
    statement: bytes


class CkksKeyHeld(_Recorded, frozen=True, kw_only=True, tag="ckks key"):
    """The context with the secret key of a run, and the statement in which it was received."""

    context: bytes
    statement: bytes


class UpdateEncrypted(_Recorded, frozen=True, kw_only=True, tag="encrypted"):
    """The upload of an attempt, recorded whole because ciphertexts are random and cannot be reproduced."""

    round: int
    attempt: int
    upload: bytes


HistoryEntry: TypeAlias = (
    KeyDrawn
    | SitesMet
    | VectorMasked
    | AttemptUsed
    | SurvivorsSigned
    | SecretsOpened
    | SharesDrawn
    | CkksKeyHeld
    | UpdateEncrypted
)
_DECODER: msgspec.msgpack.Decoder[HistoryEntry] = msgspec.msgpack.Decoder(HistoryEntry)


def to_record(entry: HistoryEntry) -> bytes:
    """Return the bytes of an entry."""
    return msgspec.msgpack.encode(entry)


def read_history(records: Iterable[bytes], study: str) -> list[HistoryEntry]:
    """Return the entries of a study.

    Raises:
        DataError: a record is damaged or belongs to another study.
    """
    entries: list[HistoryEntry] = []
    for number, record in enumerate(records, start=1):
        try:
            entry = _DECODER.decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            fix = "restore it, or leave this run; without it the site could sign twice"
            raise DataError(problem(f"record {number} is damaged", where="history", fix=fix)) from error
        if entry.study != study:
            raise DataError(problem(f"record {number} belongs to another study", where="history"))
        entries.append(entry)
    return entries
