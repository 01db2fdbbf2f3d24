"""Canaries of an audit: artificial patients with known gradients, and the score of each after a private run.

Each canary takes part in the run with probability 1/2. Its gradient is zero except at its own coordinate and
much longer than the clipping threshold, so its contribution depends on the program's own clipping. After
every step the scores are updated from the released gradient::

    canaries = Canaries(key=run.key("canaries"), count=1_000, cases=2)
    source = canaries.source(plan)
    scores = CanaryScores(run, canaries, source)
    fit(config, data, run, plan=plan, sources=[source], hooks=[scores])
    scores.included(), scores.excluded()
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from meninx.core import check, files
from meninx.core.audit_records import MechanismCheck
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.core.run import Run
from meninx.learn import sampler
from meninx.learn.hooks import Evaluated, Hook, RoundDone, RoundStarted
from meninx.learn.sampler import PrivateSampler, UnitBatch
from meninx.learn.state import TrainState
from meninx.learn.unit_sources import PointSource
from meninx.privacy.clipping.point_gradients import PointGradients, parameter_groups
from meninx.privacy.keystream import keystream, stream_id
from meninx.privacy.plan import Plan
from meninx.privacy.residual_audit import audit_residuals

Array = npt.NDArray[np.float64]

NAME = "canaries"
LENGTH = 100.0
"""Norm of a canary's gradient over the clipping threshold; if clipping failed, it would exceed the noise."""
LEAST = 100
"""Smallest number of canaries, so that enough take part and enough do not."""
_SNAPSHOTS = 2  # of the scores: one may be newer than the checkpoint from which a killed run resumes
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Canaries:
    """The canaries of one audited run.

    Guarantee: each takes part with probability 1/2, by its own coin from the key. Canaries that take part are
        grouped into units, drawn, clipped and accounted by the functions that do so for patients.

    Attributes:
        key: 32 secret bytes.
        count: number of canaries, >= 100.
        cases: cases of each canary; with two or more, the audit detects a program that treats images as
            patients.
        most_cases: largest number of cases of a unit in one step, as for patients; 0 for all.
    """

    key: bytes = field(repr=False)
    count: int
    cases: int = 2
    most_cases: int = 0

    def __post_init__(self) -> None:
        check.positive(cases=self.cases)
        if self.count < LEAST:
            raise UsageError(expected(f"at least {LEAST} canaries", got=self.count, where="canaries"))

    @functools.cached_property
    def included(self) -> npt.NDArray[np.bool_]:
        """(count,) whether each canary takes part."""
        coins = np.frombuffer(keystream(self.key, "canary coins", 0).read(self.count), dtype=np.uint8)
        return (coins & 1).astype(bool)

    def source(self, plan: Plan, *, functional: Collection[str] = ()) -> PointSource:
        """Return the canaries as a source of a private step.

        Args:
            plan: of the run.
            functional: paths of modules that the run clips row by row.

        Raises:
            UsageError: the plan adds no noise, or noise that is correlated over steps.
        """
        if plan.noise_multiplier == 0:
            raise UsageError(
                problem("the plan adds no noise, so there is nothing to audit", where="canaries")
            )
        if plan.noise_bands > 1:
            rule = "independent noise (noise_bands = 1)"
            fix = "scores for noise that is correlated over steps are not built"
            raise UsageError(expected(rule, got=plan.noise_bands, where="canaries", fix=fix))
        loader = CanaryLoader(self, plan, tuple(functional))
        manifest = self._manifest(plan.unit)
        members = sampler.unit_members(manifest, plan.unit)
        draw = plan.sampler(keystream(self.key, "canary draws", 0).read(32), len(members))
        names = sampler.unit_names(manifest, plan.unit)
        digest = hashlib.sha256(f"{stream_id(self.key)} {self.count} {self.cases}".encode()).hexdigest()
        drawn = PrivateSampler(draw, members, names, plan.sample_rate, self.most_cases)
        return PointSource(NAME, drawn, loader, digest)

    def cases_each(self, unit: PrivacyUnit) -> int:
        """Return the number of cases of each canary: one if every case is a unit."""
        return self.cases if unit is PrivacyUnit.PATIENT else 1

    def _manifest(self, unit: PrivacyUnit) -> Manifest:
        """Return the canaries that take part as a dataset of patients, without images."""
        info = DatasetInfo(name=NAME, task=TaskKind.MULTILABEL, labels=("none",))
        width = len(str(self.count))
        cases = tuple(
            Case(
                case_id=f"canary-{number:0{width}d}-{case}",
                patient_id=f"canary-{number:0{width}d}",
                image=f"canary-{number:0{width}d}-{case}.png",
            )
            for number in np.flatnonzero(self.included)
            for case in range(self.cases_each(unit))
        )
        return Manifest(Path(), info, cases)


class CanaryLoader:
    """Gradients of canaries, each at its own coordinates, and their scores.

    Each canary has one coordinate, drawn among all trained parameters; with per-layer clipping it has one in
    each layer with enough parameters.

    The score of a canary is its log-likelihood ratio, "took part" against "did not". With the residual ``z``
    in standard deviations of the planned noise, it is the sum over steps of ``log(1 - q + q exp(mu z - mu**2
    / 2))``, where ``mu`` is the clipped length over the planned noise.

    Attributes:
        views: 1.
        scores: (count,) float64; they depend on canaries and noise only, not on patients.
        seconds: time spent on canaries.

    References:
        Nasr et al. (2023), Tight Auditing of Differentially Private Machine Learning, section 4 (white-box).
        Steinke, Nasr, Jagielski (2023), Privacy Auditing with One (1) Training Run, section 6.
    """

    views = 1

    def __init__(self, canaries: Canaries, plan: Plan, functional: tuple[str, ...]) -> None:
        self.canaries, self.plan, self.functional = canaries, plan, functional
        self.scores, self.squares, self.seen = (np.zeros(canaries.count) for _ in range(3))
        self.seconds = 0.0
        self._numbers = torch.from_numpy(np.flatnonzero(canaries.included))
        self._cases = canaries.cases_each(plan.unit)
        self._names: tuple[str, ...] = ()
        self._parameter = self._place = torch.zeros(0, 0, dtype=torch.int64)
        self._share = 1.0

    @property
    def share(self) -> float:
        """Norm of a clipped canary over the clipping threshold: below 1 with per-layer clipping."""
        return self._share

    @functools.cached_property
    def watched(self) -> Mapping[str, Tensor]:
        """Parameter name -> (places,) coordinates of canaries in it."""
        return {name: self._place[self._parameter == number] for number, name in enumerate(self._names)}

    def begin(self, model: nn.Module) -> None:
        """Draw the coordinates of all canaries, once.

        Raises:
            UsageError: the network trains fewer numbers than there are canaries.
        """
        if self._names:
            return
        groups, total = parameter_groups(model, self.plan.clipping_function, self.functional)
        sizes = {name: value.numel() for name, value in model.named_parameters() if name in groups}
        self._names = tuple(sizes)
        word = keystream(self.canaries.key, "canary places", 0).read(32)
        generator = np.random.default_rng(int.from_bytes(word))
        rows = [
            self._drawn({name: size for name, size in sizes.items() if groups[name] == group}, generator)
            for group in range(total)
            if sum(size for name, size in sizes.items() if groups[name] == group) >= self.canaries.count
        ]
        if not rows:
            rule = f"at least {self.canaries.count} trained numbers for as many canaries"
            got = f"{sum(sizes.values())}"
            raise UsageError(expected(rule, got=got, where="canaries", fix="give fewer --canaries"))
        self._parameter = torch.stack([parameter for parameter, _ in rows])
        self._place = torch.stack([place for _, place in rows])
        self._share = math.sqrt(len(rows) / total)

    def _drawn(self, sizes: Mapping[str, int], generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return parameter and place of one coordinate per canary, all of them different."""
        ends = np.cumsum(list(sizes.values()))
        chosen = generator.choice(int(ends[-1]), self.canaries.count, replace=False)
        number = np.searchsorted(ends, chosen, side="right")
        place = chosen - np.concatenate([[0], ends])[number]
        known = np.array([self._names.index(name) for name in sizes])
        return torch.from_numpy(known[number]), torch.from_numpy(place.astype(np.int64))

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[PointGradients]:
        """Yield the gradients of all units at once, because they are small for any number of cases."""
        begun = time.perf_counter()
        if units.units:
            yield self._points(units)
        self.seconds += time.perf_counter() - begun  # what the caller did between the batches included

    def _points(self, part: UnitBatch) -> PointGradients:
        rows = torch.tensor([case for unit in part.units for case in unit], dtype=torch.int64)
        position = [place for place, unit in enumerate(part.units, part.first) for _ in unit]
        canary = self._numbers[torch.div(rows, self._cases, rounding_mode="floor")]
        layers = len(self._parameter)
        value = LENGTH * self.plan.max_grad_norm / math.sqrt(layers)
        return PointGradients(
            names=self._names,
            parameter=self._parameter[:, canary].reshape(-1),
            place=self._place[:, canary].reshape(-1),
            value=torch.full((layers * len(rows),), value, dtype=torch.float64),
            case=torch.arange(len(rows)).repeat(layers),
            unit=torch.tensor(position, dtype=torch.int64),
        )

    def observe(self, residuals: Mapping[str, Tensor], threshold: float) -> None:
        """Add the scores of a step; a canary whose coordinate the step does not train keeps its score."""
        begun = time.perf_counter()
        noise, rate = self.plan.gradient_noise_multiplier, self.plan.sample_rate
        seen, mu = self.along(residuals) / (noise * threshold), self.share / noise
        with np.errstate(divide="ignore"):  # at rate 1 the logarithm of 1 - q is meant to be -inf
            gained = np.logaddexp(np.log1p(-rate), np.log(rate) + mu * seen - mu * mu / 2)
        there = np.isfinite(seen)
        self.scores += np.where(there, gained, 0.0)
        self.squares += np.where(there, seen, 0.0) ** 2
        self.seen += there
        self.seconds += time.perf_counter() - begun

    def along(self, residuals: Mapping[str, Tensor]) -> Array:
        """Return the released sum along each canary's direction, (count,); NaN where none was released."""
        seen = torch.full(self._parameter.shape, math.nan, dtype=torch.float64)
        for number, name in enumerate(self._names):
            if name in residuals:
                seen[self._parameter == number] = residuals[name]
        total: Array = (seen.sum(0) / math.sqrt(len(seen))).numpy()
        return total


class CanaryScores(Hook):
    """Saves the scores of canaries with the checkpoints of their run, in ``private/``.

    Args:
        run: the run folder.
        canaries: the canaries of the run.
        source: their source of units.
    """

    def __init__(self, run: Run, canaries: Canaries, source: PointSource) -> None:
        if not isinstance(source.loader, CanaryLoader):
            raise UsageError(problem("the source is not one of canaries", where="CanaryScores"))
        self.path = run.private / "canary_scores.npy"
        self.canaries, self.loader = canaries, source.loader

    def included(self) -> Array:
        """Return the scores of the canaries that took part."""
        return self.loader.scores[self.canaries.included]

    def excluded(self) -> Array:
        """Return the scores of the canaries that did not."""
        return self.loader.scores[~self.canaries.included]

    def mechanism(self, plan: Plan) -> MechanismCheck:
        """Return what the residuals show about noise and clipping, against those of a plan."""
        loader, chosen = self.loader, self.canaries.included
        return audit_residuals(
            loader.squares[chosen], loader.squares[~chosen],
            steps=(loader.seen[chosen], loader.seen[~chosen]),
            rate=plan.sample_rate, mu=loader.share / plan.gradient_noise_multiplier,
        )  # fmt: skip

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Load the scores of the step from which the run continues."""
        self.loader.scores, self.loader.squares, self.loader.seen = self._restored(state.step)

    def on_evaluation(self, state: TrainState, event: Evaluated) -> None:
        """Save the scores with the checkpoint of this step."""
        self._keep(state.step)

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        """Save the scores with the checkpoint of this step."""
        self._keep(state.step)

    def _keep(self, step: int) -> None:
        rows = [row for row in self._read() if int(row[0]) != step][1 - _SNAPSHOTS :]
        buffer = io.BytesIO()
        sums = (self.loader.scores, self.loader.squares, self.loader.seen)
        np.save(buffer, np.array([*rows, np.concatenate([[step], *sums])]), allow_pickle=False)
        files.write_bytes(self.path, buffer.getvalue(), mode=files.PRIVATE_MODE)

    def _restored(self, step: int) -> Array:
        """Return scores, squares and seen of a step, shape (3, count)."""
        if step == 0:
            return np.zeros((3, self.canaries.count))
        for row in self._read():
            if int(row[0]) == step:
                return row[1:].reshape(3, -1).copy()
        fix = "remove the folder of the audited run and audit again"
        raise DataError(problem(f"there are no scores of step {step}", where=self.path.name, fix=fix))

    def _read(self) -> list[Array]:
        if not self.path.is_file():
            return []
        content = io.BytesIO(files.read_bytes(self.path, limit=_MOST_BYTES))
        try:
            rows = np.load(content, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            what = "the scores of the canaries are damaged"
            raise DataError(problem(what, where=self.path.name)) from error
        if rows.ndim != 2 or rows.shape[1] != 1 + 3 * self.canaries.count or rows.dtype != np.float64:
            raise PrivacyRefusal(problem("the scores are those of other canaries", where=self.path.name))
        return list(rows)
