"""Verification: the sum of a round, computed again from what the sites signed.

The coordinator publishes a transcript: the signed statements of the survivors' uploads, the quorum's
agreements and the opened seeds. Every seed is compared with the commitment in a signed statement, so the
coordinator cannot change the sum by publishing other seeds, and every vector with the digests or tags that
its site signed. The rest is arithmetic: add the vectors, subtract the masks, compare with the published sum.

Masks can be computed from any position, so a site may check only a share of the chunks. It draws them itself,
after it knows the sum, so the coordinator cannot predict them. If ``m`` of ``k`` chunks are false, a sample
of ``s`` chunks misses all of them with a probability of at most ``(1 - m/k)^s``.

The transcript contains nothing that the coordinator does not have: a reader learns the sum, the survivors and
masked vectors. It does not prove that a site's own vector was honest; a colluding site may send any update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected, problem
from meninx.core.randomness import private_bytes
from meninx.secagg import payload
from meninx.secagg.masks import Mask, Ring, apply_masks, check_ring, commitment, ring_type
from meninx.secagg.roster import Roster, covered
from meninx.secagg.shares import Draw, draw_numbers
from meninx.secagg.statements import Agreement, Masked, read, read_announcements, session_digest

TRANSCRIPT_LIMIT = 1 << 32  # bytes, with the vectors of all survivors


class SeedPair(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An opened seed of a survivor and a member outside the survivors."""

    survivor: str
    outside: str
    seed: bytes


class Transcript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator's publication about one round.

    Attributes:
        announcements: signed exchange keys of the run.
        statements: signed statements of the survivors' uploads, in the order of their names.
        agreements: signed by a quorum.
        seeds: seeds of the survivors' own masks, in the same order.
        pairs: seeds of masks that survivors share with members outside.
        vectors: masked vectors in the same order; empty if they are fetched in parts.
    """

    announcements: tuple[bytes, ...]
    statements: tuple[bytes, ...]
    agreements: tuple[bytes, ...]
    seeds: tuple[bytes, ...]
    pairs: tuple[SeedPair, ...]
    vectors: tuple[bytes, ...] = ()

    def with_uploads(self, uploads: Mapping[str, bytes]) -> Transcript:
        """Return the transcript with the vectors of the uploads, by the name of the site.

        Raises:
            DataError: the upload of a survivor is missing or differs.
        """
        vectors = []
        by_statement = {payload.split(upload)[0]: upload for upload in uploads.values()}
        for statement in self.statements:
            if statement not in by_statement:
                raise DataError(problem("the upload of a survivor is missing", where="transcript"))
            vectors.append(bytes(payload.split(by_statement[statement])[1]))
        return msgspec.structs.replace(self, vectors=tuple(vectors))

    def to_bytes(self) -> bytes:
        """Return the transcript as MessagePack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Transcript:
        """Return a transcript from :meth:`to_bytes`; nothing is verified yet.

        Raises:
            DataError: it is not a transcript.
        """
        if len(data) > TRANSCRIPT_LIMIT:
            raise DataError(
                expected(f"at most {TRANSCRIPT_LIMIT:,} bytes", got=f"{len(data):,}", where="transcript")
            )
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(problem("this is not a transcript of meninx", where="transcript")) from error


class TagReader(Protocol):
    """A site that can check tags: :class:`.site_protocol.SiteProtocol`."""

    name: str

    @property
    def session(self) -> bytes:
        """The session that the site is in, whose roster and exchange keys it has checked."""

    def tag_key(self, statement: Masked) -> bytes:
        """Return the key of a tag."""


Fetch = Callable[[str, int, int], bytes]


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of a recomputation of the sum by a site.

    Attributes:
        matches: whether the computed elements equal those of the published sum.
        share: share of the elements that were computed, in (0, 1].
        survivors: sites in the sum.
        signers: sites that agreed on the survivors.
    """

    matches: bool
    share: float
    survivors: tuple[str, ...]
    signers: tuple[str, ...]


def verify(
    transcript: Transcript | bytes,
    total: Ring,
    *,
    roster: Roster,
    round: int | None = None,
    share: float = 1.0,
    site: TagReader | None = None,
    fetch: Fetch | None = None,
    draw: Draw = private_bytes,
) -> Verification:
    """Return whether the published sum is the sum of what the survivors signed.

    Args:
        transcript: the coordinator's publication.
        total: the published sum.
        roster: signed by every site.
        round: the round whose sum was announced, so that an older transcript is not accepted; None for any.
        share: share of the chunks to compute, in (0, 1]; at least one chunk.
        site: the reader itself, if it took part in the run. It has already checked roster and exchange keys,
            and its tags make a complete check twice as fast.
        fetch: called as ``fetch(site, first, last)``, returns the bytes of these elements of a masked vector.
            None takes them from the transcript.
        draw: returns random bytes, for the choice of the chunks.

    Raises:
        PrivacyRefusal: a statement, vector or seed is not the one that a site signed, or the quorum is
            missing.
        DataError: the transcript or a vector is malformed.
    """
    if not 0 < share <= 1:
        raise ConfigError(expected("a share above 0 and at most 1", got=share, where="share"))
    if isinstance(transcript, bytes):
        transcript = Transcript.from_bytes(transcript)
    session = _session(transcript, roster) if site is None else site.session
    statements, signers = _statements(transcript, roster, session)
    masks = _masks(transcript, statements)
    first = statements[0]
    if round is not None and first.round != round:
        what = f"the transcript is of round {first.round}, not of round {round}"
        raise PrivacyRefusal(problem(what, where="transcript"))
    if (len(total), check_ring(total, "sum")) != (first.length, first.bits):
        raise DataError(
            expected(f"{first.length:,} elements of {first.bits} bits", got=len(total), where="sum")
        )
    outcome = _Recomputation(transcript, statements, masks, total, fetch)
    if share == 1 and fetch is None:
        done, matches = first.length, outcome.whole(site)
    else:
        done, matches = outcome.sampled(share, draw)
    covered_share = done / first.length if first.length else 1.0
    return Verification(matches, covered_share, tuple(statement.site for statement in statements), signers)


def _session(transcript: Transcript, roster: Roster) -> bytes:
    """Return the session of the exchange keys in a transcript, all signatures checked."""
    roster.require_signatures()
    run, keys = read_announcements(transcript.announcements, roster)
    return session_digest(roster, run, keys)


def _statements(
    transcript: Transcript, roster: Roster, session: bytes
) -> tuple[list[Masked], tuple[str, ...]]:
    """Return the survivors' statements and the signers, after checking every signature and the quorum."""
    rules = covered(len(roster.members))
    statements = [read(data, Masked, roster) for data in transcript.statements]
    agreements = [read(data, Agreement, roster) for data in transcript.agreements]
    survivors = tuple(statement.site for statement in statements)
    if not statements or survivors != tuple(sorted(set(survivors))):
        raise DataError(problem("the survivors are not listed once each, sorted", where="transcript"))
    contexts = {found.context for found in (*statements, *agreements)}
    shapes = {(statement.length, statement.bits) for statement in statements}
    if len(contexts) > 1 or len(shapes) > 1 or statements[0].session != session:
        raise PrivacyRefusal(
            problem("statements of several rounds, runs or shapes are mixed", where="transcript")
        )
    signers = {agreement.site for agreement in agreements if agreement.survivors == survivors}
    signers &= set(survivors)
    if len(signers) < rules.quorum:
        rule = f"agreements of {rules.quorum} sites over these survivors"
        raise PrivacyRefusal(expected(rule, got=len(signers), where="transcript"))
    if not set(survivors) <= set(statements[0].members):
        raise PrivacyRefusal(problem("a survivor was no member of the round", where="transcript"))
    return statements, tuple(sorted(signers))


def _masks(transcript: Transcript, statements: Sequence[Masked]) -> list[Mask]:
    """Return the masks between the sum of the vectors and that of the updates, after checking all seeds."""
    context = statements[0].context
    survivors = {statement.site: statement for statement in statements}
    outside = [name for name in statements[0].members if name not in survivors]
    needed = {(name, other) for name in survivors for other in outside}
    if (
        len(transcript.seeds) != len(statements)
        or {(p.survivor, p.outside) for p in transcript.pairs} != needed
    ):
        raise PrivacyRefusal(problem("a seed is missing, or one too many was opened", where="transcript"))
    masks = []
    for statement, seed in zip(statements, transcript.seeds, strict=True):
        check_seed(seed, statement.own, context, statement.site)
        masks.append(Mask(seed, add=False))
    if len(transcript.pairs) != len(needed):
        raise PrivacyRefusal(problem("a seed is listed twice", where="transcript"))
    for pair in transcript.pairs:
        committed = dict(survivors[pair.survivor].pairs).get(pair.outside, b"")
        check_seed(pair.seed, committed, context, pair.survivor)
        masks.append(Mask(pair.seed, add=pair.survivor > pair.outside))
    return masks


def check_seed(seed: bytes, committed: bytes, context: bytes, site: str) -> None:
    """Raise PrivacyRefusal unless a seed is the one to which a site committed."""
    if commitment(seed, context) != committed:
        raise PrivacyRefusal(
            problem(f"a seed of {site} is not the one it committed to", where="opened seeds")
        )


@dataclass(frozen=True)
class _Recomputation:
    transcript: Transcript
    statements: Sequence[Masked]
    masks: Sequence[Mask]
    total: Ring
    fetch: Fetch | None

    def whole(self, site: TagReader | None) -> bool:
        """Return whether every element matches."""
        vectors = self._vectors()
        summed = np.zeros_like(self.total)
        for statement, vector in zip(self.statements, vectors, strict=True):
            if site is None or site.name not in statement.members or site.name == statement.site:
                payload.check_leaves(vector, statement)
            else:
                payload.check_tag(vector, statement, site.name, site.tag_key(statement))
        add_vectors(summed, vectors)
        apply_masks(summed, self.masks)
        return bool(np.array_equal(summed, self.total))

    def sampled(self, share: float, draw: Draw) -> tuple[int, bool]:
        """Return the number of computed elements, and whether they match."""
        first = self.statements[0]
        size = ring_type(first.bits).itemsize
        step = payload.LEAF_BYTES // size
        chunks = payload.leaf_count(first.length, first.bits)
        chosen = draw_numbers(chunks, max(1, round(share * chunks)), draw) if chunks else []
        done, matches = 0, True
        for chunk in chosen:
            start, stop = chunk * step, min((chunk + 1) * step, first.length)
            summed = np.zeros(stop - start, dtype=self.total.dtype)
            for number, statement in enumerate(self.statements):
                part = self._part(number, statement, start, stop)
                payload.check_leaves(part, statement, first=chunk, last=chunk + 1)
                summed += part
            apply_masks(summed, self.masks, start=start)
            matches &= bool(np.array_equal(summed, self.total[start:stop]))
            done += stop - start
        return done, matches

    def _vectors(self) -> list[Ring]:
        if len(self.transcript.vectors) != len(self.statements):
            fix = "publish it with the uploads, or fetch parts"
            raise DataError(problem("the transcript holds no vectors", where="transcript", fix=fix))
        pairs = zip(self.transcript.vectors, self.statements, strict=True)
        return [payload.vector_of(data, statement) for data, statement in pairs]

    def _part(self, number: int, statement: Masked, start: int, stop: int) -> Ring:
        if self.fetch is None:
            return self._vectors()[number][start:stop]
        kind = ring_type(statement.bits)
        data = self.fetch(statement.site, start, stop)
        if len(data) != (stop - start) * kind.itemsize:
            got = f"{len(data)} bytes"
            raise DataError(
                expected(f"{stop - start} elements", got=got, where=f"vector of {statement.site}")
            )
        return np.frombuffer(data, dtype=kind)


def add_vectors(total: Ring, vectors: Sequence[Ring]) -> None:
    """Add vectors to a sum in place, in chunks so that the sum stays in the cache."""
    step = payload.LEAF_BYTES // total.dtype.itemsize
    for start in range(0, len(total), step):
        part = total[start : start + step]
        for vector in vectors:
            part += vector[start : start + step]
