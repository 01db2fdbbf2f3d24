"""What a site checks of a study's rounds itself: the turns of the signed terms, and the common model.

A coordinator that lies could ask for other rounds than the sites approved, or give them a model that is not
the result of the sum they opened. A site therefore refuses each request that is no turn of its terms. Once
it knows the sum of a round without having to believe the coordinator, because it computed the sum again
(masks, shares) or decrypted it (ckks), it applies the study's strategy itself. It then accepts in the next
round, and at the end, only the resulting model or, after an aborted round, the model of the round before.
Once it refused a model, or computed another sum, it accepts no others for the rest of the run: else a
coordinator would only have to leave it out of one round.

Where the check ends:

- A site cannot compute what other sites added while it took no part, nor the sum of a round that it was not
  asked to compute again or to decrypt. It accepts the model then, and says so.
- Where the strategy remembers vectors between rounds (a server optimiser), a site that does not know one sum
  can compute no later model of the run.
- One site cannot tell whether a round was really aborted.
- In a plain study and in cyclic transfer no model is checked: the coordinator may send any.
- The first model is accepted as it comes.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np

from meninx.core import files
from meninx.core.errors import DataError, problem
from meninx.federated.contribution import RoundSum
from meninx.federated.messages import LIMIT, Position, Train
from meninx.federated.strategies import ServerState, Strategy, Turn
from meninx.federated.vector import Vector, model_digest, to_bytes

FILE = "common_models"  # in the private folder of the site's run
_LARGEST = 8 * LIMIT  # bytes of the file: two models, and what a strategy remembers of both
_ROUNDING = 2.0**-21  # relative difference of two computations of one sum in float32


class _Signed(msgspec.Struct, frozen=True, kw_only=True):
    """Survivors that the site signed, whose sum may have been opened."""

    number: int
    model: str
    survivors: tuple[str, ...]


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """The last round in which the site was asked to train.

    Attributes:
        number: of the round.
        first: number of the first round of the run.
        model: weights that the round began with.
        result: weights that its sum leads to; empty where the site does not know the sum.
        denied: the site computed another sum than the coordinator's.
        refused: the site was given a model that does not follow from the sum.
        signed: survivors that the site signed: in the last such round, and in all rounds from this model.
        memory: what the strategy remembers when the round begins, by name; None where the site missed a sum.
        after: what it remembers with ``result``.
    """

    number: int
    first: int
    model: bytes
    result: bytes = b""
    denied: bool = False
    refused: bool = False
    signed: tuple[_Signed, ...] = ()
    memory: dict[str, bytes] | None = {}
    after: dict[str, bytes] | None = {}


class SiteRounds:
    """The rounds of a study as a site approved them.

    Args:
        strategy: of the signed terms.
        sites: names of all sites of the roster.
        seconds: time limit of a round in the terms; 0 for none.
    """

    def __init__(self, strategy: Strategy, sites: Sequence[str], *, seconds: float = 0.0) -> None:
        self._strategy, self._sites, self._seconds = strategy, tuple(sorted(sites)), seconds
        self._turns = strategy.turns(self._sites)

    def turn(self, request: Train, site: str) -> tuple[int, Turn]:
        """Return the position of the turn that a request asks for, from 0, and the turn.

        Raises:
            DataError: the terms have no such turn.
        """
        for position in self._candidates(request.until):
            turn = self._strategy.turn(position, self._sites)
            if (
                (turn.until, turn.horizon, self._seconds) == (request.until, request.horizon, request.seconds)
                and site in turn.sites
                and set(request.members) <= set(turn.sites)
                and position <= request.at.round
            ):
                return position, turn
        what = (
            f"training to {request.until} of {request.horizon} within {request.seconds:g} s "
            f"is no turn of the signed terms in round {request.at.round + 1}"
        )
        raise DataError(
            problem(what, where="request", fix="the rounds of a study are those all sites signed")
        )

    def _candidates(self, until: int) -> range:
        """Return the positions whose turns could end there; turns never end earlier than those before."""
        ends = range(self._turns)
        begin = bisect.bisect_left(ends, until, key=lambda at: self._strategy.turn(at, self._sites).until)
        return range(begin, min(begin + len(self._sites), self._turns))

    def begin(self, folder: Path, at: Position, position: int, model: Vector) -> str:
        """Check the model of a round, write it down, and return why it could not be checked; empty if it was.

        Args:
            folder: the private folder of the site's run.
            at: of the request.
            position: of its turn.
            model: common weights.

        Raises:
            DataError: the round is not the one of the terms, or the model is not the one that follows.
        """
        known = _read(folder)
        first = at.round - position
        if known is None:
            memory = _packed(self._strategy.init(model).memory) if position == 0 else self._unknown(model)
            _write(folder, _Known(number=at.round, first=first, model=to_bytes(model), memory=memory))
            return ""
        if first != known.first or at.round < known.number:
            what = f"round {at.round + 1} is not the turn of the terms that comes next"
            raise DataError(problem(what, where="request"))
        if at.round == known.number:
            if to_bytes(model) != known.model:
                raise DataError(problem(f"round {at.round + 1} began with another model", where="request"))
            return ""
        unchecked = self._checked(folder, known, at, model)
        memory = self._unknown(model) if unchecked else self._remembered(known, model)
        name = model_digest(model)
        signed = tuple(one for one in known.signed if one.model == name or one is known.signed[-1])
        now = _Known(number=at.round, first=first, model=to_bytes(model), signed=signed, memory=memory)
        _write(folder, now)
        return unchecked

    def _unknown(self, model: Vector) -> dict[str, bytes] | None:
        """Return the memory of a strategy that has none; None where a strategy has one."""
        return None if self._strategy.init(model).memory else {}

    def _remembered(self, known: _Known, model: Vector) -> dict[str, bytes] | None:
        """Return what the strategy remembers with a model that was checked; None where that is not known."""
        if known.memory == known.after or not known.result or not _same(model, known.result):
            return known.memory
        return None if _same(model, known.model) else known.after  # a sum of zeros: accepted or not?

    def signed(self, folder: Path, at: Position, survivors: Sequence[str]) -> tuple[tuple[str, int], ...]:
        """Write down survivors that the site signs, and return where one site alone makes the difference.

        Returns:
            (site, number of the earlier round) for each round whose survivors differ by this site: of the
            last round that this site signed, and of those from the same model.
        """
        known = _read(folder)
        if known is None or known.number != at.round:
            return ()
        earlier = [one for one in known.signed if one.number != at.round]
        now = _Signed(
            number=at.round, model=model_digest(np.frombuffer(known.model, "<f4")), survivors=tuple(survivors)
        )
        if known.signed[-1:] != (now,):
            _write(folder, msgspec.structs.replace(known, signed=(*earlier, now)))
        differing = [(set(one.survivors) ^ set(survivors), one.number) for one in earlier]
        return tuple((min(sites), number) for sites, number in differing if len(sites) == 1)

    def computed(self, folder: Path, at: Position, total: RoundSum | None) -> None:
        """Write down the model that a sum leads to, which the site computed itself; None for a wrong sum."""
        known = _read(folder)
        if known is None or known.number != at.round:
            return
        if total is None:
            _write(folder, msgspec.structs.replace(known, result=b"", denied=True))
        elif total.mean.size != len(known.model) // 4:
            self.voided(folder, at)
        elif known.memory is not None:
            memory = {name: np.frombuffer(value, "<f4") for name, value in known.memory.items()}
            before = ServerState(np.frombuffer(known.model, "<f4"), memory)
            after = self._strategy.apply(before, total)
            result, packed = to_bytes(after.weights), _packed(after.memory)
            _write(folder, msgspec.structs.replace(known, result=result, after=packed))

    def voided(self, folder: Path, at: Position) -> None:
        """Write down that a sum is none of updates, so that the same model has to follow.

        One site can spoil a sum, so this says nothing about the coordinator.
        """
        known = _read(folder)
        if known is not None and known.number == at.round:
            _write(folder, msgspec.structs.replace(known, result=known.model, after=known.memory))

    def finish(self, folder: Path, at: Position, model: Vector) -> str:
        """Check the last model of the study, and return why it could not be checked; empty if it was.

        Raises:
            DataError: the rounds of the terms are not over, or the model is not the one that follows.
        """
        known = _read(folder)
        if known is None:
            return ""
        end = known.first + self._turns
        if at.round != end:  # a later number would pass for rounds in which this site was not asked to train
            what = "are not over" if at.round < end else f"end before round {at.round + 1}"
            raise DataError(problem(f"the rounds of the signed terms {what}", where="request"))
        return self._checked(folder, known, at, model)

    @staticmethod
    def _checked(folder: Path, known: _Known, at: Position, model: Vector) -> str:
        """Compare a model with those that may follow the last round of this site."""
        if _same(model, known.model) or (known.result and _same(model, known.result)):
            return ""
        if known.denied:
            what = f"this site computed another sum of round {known.number + 1}"
            raise DataError(problem(what, where="request", fix="ask the coordinator for the transcript"))
        if not known.refused:
            if at.round > known.number + 1:
                return f"this site was not asked to train in round {known.number + 2}"
            if not known.result and known.memory is None:
                return "the strategy remembers sums that this site does not know"
            if not known.result:
                return f"this site was not asked for the sum of round {known.number + 1}"
            _write(folder, msgspec.structs.replace(known, refused=True))
        what = f"the model is not what the sum of round {known.number + 1} leads to"
        fix = "ask the coordinator; the sites of a round can compare the SHA-256 of their models"
        raise DataError(problem(what, where="request", fix=fix))


def stretch(turn: Turn) -> tuple[Fraction, Fraction]:
    """Return the parts of the whole training that are due before and after a turn, in [0, 1]."""
    return Fraction(turn.since, turn.horizon), Fraction(turn.until, turn.horizon)


def _same(model: Vector, known: bytes) -> bool:
    """Return whether two models are equal within the rounding of float32."""
    other = np.frombuffer(known, "<f4").astype(np.float64)
    if other.shape != model.shape:
        return False
    limit = _ROUNDING * np.maximum(np.abs(other), 2.0**-10)
    return bool((np.abs(model.astype(np.float64) - other) <= limit).all())


def _packed(memory: Mapping[str, Vector]) -> dict[str, bytes]:
    return {name: to_bytes(value) for name, value in memory.items()}


def _read(folder: Path) -> _Known | None:
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return msgspec.msgpack.decode(files.read_bytes(path, limit=_LARGEST), type=_Known)
    except msgspec.DecodeError as error:
        fix = "restore it from a backup, or leave the run"
        raise DataError(problem("the common models are damaged", where=FILE, fix=fix)) from error


def _write(folder: Path, known: _Known) -> None:
    files.write_bytes(folder / FILE, msgspec.msgpack.encode(known), mode=files.PRIVATE_MODE)
