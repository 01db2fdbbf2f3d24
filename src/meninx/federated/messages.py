"""Messages between the coordinator and a site: one type per request, one per reply, in MessagePack.

The transport (:mod:`.exchange`) carries bytes. Whoever receives bytes decodes them here, with a limit on
their length; unknown kinds, unknown fields, wrong types and numbers or names out of range are refused:

>>> position = Position(study="chest", run="a1", round=3, attempt=0)
>>> decode_request(encode(Agree(at=position, survivors=("east", "north")))).survivors
('east', 'north')
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec

from meninx.core.errors import DataError, expected, problem

MessageT = TypeVar("MessageT")
Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
Run = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
Names = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=200)], ...], msgspec.Meta(max_length=1024)]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of every message."""


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where in a study a message belongs.

    Attributes:
        study: name of the study.
        run: identifier of the run of the study, fresh for each start.
        round: number of the round, from 0.
        attempt: number of the attempt at this round, from 0.
    """

    study: Annotated[str, msgspec.Meta(max_length=200)]
    run: Run
    round: Number
    attempt: Number


# what the coordinator asks


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """Asks for the site's fresh, signed keys of this run."""

    at: Position


class Meet(Message, frozen=True, kw_only=True, tag="meet"):
    """Gives every site's signed keys to a site, once per run.

    Attributes:
        announcements: signed keys of all sites, encoded by ``meninx.secagg``.
    """

    at: Position
    announcements: tuple[bytes, ...]


class Train(Message, frozen=True, kw_only=True, tag="train"):
    """Asks a site to train from the model of the last accepted round and to upload its update.

    Attributes:
        members: the sites of this attempt (U0).
        model: weights of the network, float32, little-endian, in the order of the study's layout.
        until: local steps done at the end of the round, counted over all rounds. Where the terms state
            epochs, rounds instead of steps.
        horizon: the same number at the end of the whole study.
        seconds: time after which the site stops training and uploads what it has; 0 for no limit.
    """

    at: Position
    members: Names
    model: bytes
    until: int
    horizon: int
    seconds: float = 0.0


class Agree(Message, frozen=True, kw_only=True, tag="agree"):
    """Asks for a signature over the one set of survivors of this round (U1)."""

    at: Position
    survivors: Names


class Reveal(Message, frozen=True, kw_only=True, tag="reveal"):
    """Asks for the secrets that open the sum, and shows the signatures of a quorum over the same survivors.

    Attributes:
        agreements: signed agreements, encoded by ``meninx.secagg``.
        lost: signed statements of the uploads of survivors that did not answer since, encoded by
            ``meninx.secagg``; they carry the encrypted shares.
    """

    at: Position
    agreements: tuple[bytes, ...]
    lost: tuple[bytes, ...] = ()


class Recompute(Message, frozen=True, kw_only=True, tag="recompute"):
    """Publishes what a site needs to compute the aggregation again.

    Attributes:
        transcript: signed digests of the uploads and the opened seeds, encoded by ``meninx.secagg``.
        total: the sum that the coordinator computed.
    """

    at: Position
    transcript: bytes
    total: bytes


class Finish(Message, frozen=True, kw_only=True, tag="finish"):
    """Gives the last accepted model to a site, which measures and releases it."""

    at: Position
    model: bytes


class Conclude(Message, frozen=True, kw_only=True, tag="conclude"):
    """Gives the record of the finished study to a site that released its model.

    Attributes:
        record: content of ``federated.json``, as this site may see it.
    """

    at: Position
    record: bytes


# what a site replies


class Greeting(Message, frozen=True, kw_only=True, tag="greeting"):
    """The site's signed keys of this run, and what its network is like.

    Attributes:
        announcement: encoded by ``meninx.secagg``.
        layout: digest of the layout of the site's common weights.
    """

    site: str
    announcement: bytes
    layout: str = ""


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """The request was carried out; nothing else is said."""

    site: str


class Uploaded(Message, frozen=True, kw_only=True, tag="uploaded"):
    """What a site contributes to a round: masked, shared or plain, as the study says.

    Attributes:
        upload: encoded by ``meninx.secagg``, or plain float32 of a study without secure aggregation.
    """

    site: str
    at: Position
    upload: bytes


class Agreed(Message, frozen=True, kw_only=True, tag="agreed"):
    """The site's signature over (round, attempt, survivors), encoded by ``meninx.secagg``."""

    site: str
    agreement: bytes


class Revealed(Message, frozen=True, kw_only=True, tag="revealed"):
    """The secrets that a site opens once per round, encoded by ``meninx.secagg``."""

    site: str
    reveal: bytes


class Recomputed(Message, frozen=True, kw_only=True, tag="recomputed"):
    """Outcome of a site's own computation of the sum.

    Attributes:
        share: share of the elements that was computed again, in (0, 1].
        matches: they are those of the coordinator.
    """

    site: str
    share: float
    matches: bool


class Finished(Message, frozen=True, kw_only=True, tag="finished"):
    """The site measured and released the model in its own run folder.

    Attributes:
        epsilon: spent by this site's run; None without differential privacy.
        spent: epsilon per patient over all runs of the study at this site; likewise.
        delta: of both; likewise.
    """

    site: str
    epsilon: float | None = None
    spent: float | None = None
    delta: float | None = None


class Declined(Message, frozen=True, kw_only=True, tag="declined"):
    """The site does not do what was asked.

    Attributes:
        reason: in words, without a value of a patient.
        code: exit code of the error (``meninx.core.errors``).
        final: the site takes no further part in this run.
    """

    site: str
    reason: str
    code: int = 2
    final: bool = False


Request: TypeAlias = Hello | Meet | Train | Agree | Reveal | Recompute | Finish | Conclude
Reply: TypeAlias = Greeting | Done | Uploaded | Agreed | Revealed | Recomputed | Finished | Declined

_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
LIMIT = 1 << 30  # bytes of one message


def encode(message: Message) -> bytes:
    """Return the bytes of a message."""
    return _ENCODER.encode(message)


def decode_request(data: bytes, *, limit: int = LIMIT) -> Request:
    """Return a request from its bytes.

    Raises:
        DataError: it is longer than ``limit``, or not one of the requests.
    """
    return _decoded(_REQUESTS, data, limit, "request")


def decode_reply(data: bytes, *, limit: int = LIMIT) -> Reply:
    """Return a reply from its bytes.

    Raises:
        DataError: it is longer than ``limit``, or not one of the replies.
    """
    return _decoded(_REPLIES, data, limit, "reply")


def _decoded(decoder: msgspec.msgpack.Decoder[MessageT], data: bytes, limit: int, what: str) -> MessageT:
    if len(data) > limit:
        raise DataError(
            expected(f"a {what} of at most {limit:,} bytes", got=f"{len(data):,}", where="message")
        )
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(problem(f"the {what} is not one of meninx", where="message")) from error
