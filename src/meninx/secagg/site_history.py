"""Site history: what a site writes down before it lets a signature or a secret out.

The caller of :class:`.site_protocol.SiteProtocol` makes each entry durable before ``record`` returns, in a
file that only the site can read: entries hold seeds and the exchange key. A site that was killed starts again
from the entries. Whatever it had signed it can send again, byte for byte, and it can sign nothing else.

Somebody who takes the history of a running site learns what the site knows: this is the site as a colluder.
After :meth:`.site_protocol.SiteProtocol.close` only entries without seeds are needed, and the file is written
again without them. Python may keep copies of keys in memory and a disk may keep old blocks, so this limits
what stays and does not prove erasure.
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
    """The seed of the site's own mask, and what it signed about the masked vector."""

    round: int
    attempt: int
    seed: bytes
    statement: bytes


class AttemptUsed(_Recorded, frozen=True, kw_only=True, tag="used"):
    """The last attempt in which this site masked a vector.

    Its seed was erased, so the site masks nothing more in that attempt.
    """

    round: int
    attempt: int


class SurvivorsSigned(_Recorded, frozen=True, kw_only=True, tag="signed"):
    """The one set of survivors of a round; it closes the round for every later attempt and run."""

    round: int
    attempt: int
    survivors: tuple[str, ...]
    agreement: bytes


class SecretsOpened(_Recorded, frozen=True, kw_only=True, tag="opened"):
    """The secrets that were opened, and for which lost members."""

    round: int
    lost: tuple[str, ...]
    opening: bytes


class SharesDrawn(_Recorded, frozen=True, kw_only=True, tag="shares"):
    """The seeds of the shares of a vector, in the order of the roster, and what was signed about them."""

    round: int
    attempt: int
    seeds: tuple[bytes, ...]
    statement: bytes


class CkksKeyHeld(_Recorded, frozen=True, kw_only=True, tag="ckks key"):
    """The context with the secret key that all sites of a run hold, and the statement that it came from."""

    context: bytes
    statement: bytes


class UpdateEncrypted(_Recorded, frozen=True, kw_only=True, tag="encrypted"):
    """The upload of an attempt: ciphertexts are random, so they cannot be made again."""

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
