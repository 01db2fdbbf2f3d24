"""Rank-1 identification of a run's patients over levels of noise, encoders and numbers of candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from meninx.audit.reconstruction.encoders import ENCODERS, fit_encoder
from meninx.audit.reconstruction.identification import Codes, Identified, identify_in_sets
from meninx.core.proportions import clopper_pearson
from meninx.core.randomness import child_seed
from meninx.core.reconstruction_records import IdentificationRecord
from meninx.privacy.accounting import Phase
from meninx.privacy.risk import of_candidates, risk_curve

ON_CANDIDATES = "candidates"
"""The encoder that is fitted on the candidates themselves: it makes all of them equally far apart."""
ALL_ENCODERS = (*ENCODERS, ON_CANDIDATES)
STRONG = ("whitened", ON_CANDIDATES)
"""Encoders that are tried at every level; the weaker ones are shown at the run's own noise."""
TRIALS, LEAST_TRIALS = 1000, 100
_MOST_SCORES = 5e7
"""Of a simulated experiment: trials x steps x candidates, about 2 s."""
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What was released at one level of noise.

    Attributes:
        level: its name.
        phases: sample rates, noise multipliers and steps.
        own: the audited run.
    """

    level: str
    phases: tuple[Phase, ...]
    own: bool = False


class Identification:
    """Experiments on one pool of images.

    Args:
        images: of the pool, (images, channels, *spatial).
        public: images that the attacker has.
        components: of the encoders that have few.
        trials: most simulated attacks of an experiment; fewer where steps and candidates are many.
        seed: public seed.
    """

    def __init__(
        self, images: Tensor, public: Tensor, *, components: int, trials: int = TRIALS, seed: int = 0
    ) -> None:
        self.images, self.trials, self.seed = images, trials, seed
        self._codes: dict[str, Codes] = {
            name: fit_encoder(name, public, components=components).encode(images).numpy() for name in ENCODERS
        }

    def counts(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Return the numbers of candidates that the pool has images for, ascending.

        All images of the pool stand for numbers that it has too few for.
        """
        most = len(self.images)
        return tuple(sorted({min(count, most) for count in wanted if count >= 2}))

    def found(
        self, steps: Steps, encoder: str, candidates: int, *, takes_part: bool = True
    ) -> IdentificationRecord:
        """Return the outcome of one experiment; whether it exceeds its bound is decided with all others."""
        total = sum(phase.steps for phase in steps.phases)
        affordable = int(_MOST_SCORES / max(1, total * candidates))
        trials = max(min(self.trials, affordable), min(LEAST_TRIALS, self.trials))
        outcome = identify_in_sets(
            self._coder(encoder), len(self.images), steps.phases, candidates=candidates, trials=trials,
            seed=child_seed(self.seed, steps.level, encoder, candidates), takes_part=takes_part,
        )  # fmt: skip
        return _record(steps, encoder, outcome)

    def experiments(
        self, levels: Sequence[Steps], counts: Sequence[int], at: int
    ) -> Iterator[tuple[Steps, str, int]]:
        """Yield what is tried: at the run's own noise everything, at the other levels ``at`` candidates.

        Args:
            levels: the run's own and others.
            counts: numbers of candidates at the run's own noise.
            at: number of candidates at the other levels.
        """
        for steps in levels:
            for encoder in ALL_ENCODERS if steps.own else STRONG:
                for count in counts if steps.own else (at,):
                    yield steps, encoder, count

    def _coder(self, encoder: str) -> Callable[[Numbers], Codes]:
        if encoder != ON_CANDIDATES:
            return lambda chosen: self._codes[encoder][chosen]
        return self._codes_on_candidates

    def _codes_on_candidates(self, chosen: Numbers) -> Codes:
        images = self.images[chosen]
        codes: Codes = fit_encoder("whitened", images, components=len(images) - 1).encode(images).numpy()
        return codes


def judged_identification(
    records: Sequence[IdentificationRecord], significance: float
) -> tuple[IdentificationRecord, ...]:
    """Return the records, each with whether its success exceeds the bound.

    Args:
        records: of all experiments.
        significance: largest probability that any of them is unjustly called so.
    """
    level = 1 - 2 * significance / max(1, len(records))
    return tuple(replace(record, excess=_lower(record, level) > record.bound + 1e-12) for record in records)


def _lower(record: IdentificationRecord, level: float) -> float:
    return clopper_pearson(round(record.success * record.trials), record.trials, level)[0]


def _record(steps: Steps, encoder: str, outcome: Identified) -> IdentificationRecord:
    kappa = of_candidates(outcome.candidates)
    low, high = clopper_pearson(outcome.right, outcome.trials)
    return IdentificationRecord(
        level=steps.level,
        encoder=encoder,
        candidates=outcome.candidates,
        trials=outcome.trials,
        success=outcome.right / outcome.trials,
        low=low,
        high=high,
        bound=risk_curve(steps.phases, rates=[kappa]).gamma(kappa).upper,
    )
