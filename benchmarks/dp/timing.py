"""Rounds: every variant once a round, in turn, in one process.

Ratios are within a round, against its non-private step.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dp import steps
from dp.cases import Case
from dp.setup import FORMATS, prepare

Say = Callable[[str], None]
_DROP = 1.25  # a peer this much slower than the fastest of its kind after two rounds is not run again
_HOPELESS = 1.6  # the memory format does not make up for this
_LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Sample:
    """Seconds of one step: of the process or device, and wall.

    The first are CPU seconds; on a GPU they are device seconds between two events.
    """

    cpu: float
    wall: float


@dataclass(eq=False)
class Lane:
    """One variant in one memory format, and what it took."""

    variant: str
    memory_format: str
    precision: str
    step: steps.Step
    first: Sample
    samples: list[Sample] = field(default_factory=list)

    def median(self) -> float:
        """Return the median CPU seconds of its rounds."""
        return statistics.median(sample.cpu for sample in self.samples)


@dataclass(eq=False)
class Timed:
    """The outcome of a case.

    Attributes:
        case: the case.
        lanes: the lanes that ran, in order.
        failures: variant -> class of the error that stopped it.
        planning: step times that the first step cost above a steady one: with a new planner, and with its
            plan known.
        noise: seconds of drawing and adding our noise, which no step can do without.
    """

    case: Case
    lanes: list[Lane]
    failures: dict[str, str]
    planning: dict[str, float]
    noise: float = 0.0

    def lane(
        self, variant: str, precision: str | None = None, memory_format: str | None = None
    ) -> Lane | None:
        """Return the fastest lane of a variant in a precision and format, or None if it did not run.

        Without a precision, the case's precision is taken.
        """
        wanted = precision or self.case.precision
        found = [
            lane
            for lane in self.lanes
            if lane.variant == variant and lane.precision == wanted and lane.samples
        ]
        found = [lane for lane in found if memory_format in (None, lane.memory_format)]
        return min(found, key=Lane.median, default=None)


def timed_step(step: steps.Step, device: str) -> Sample:
    """Return what one step takes."""
    if device == "cuda":
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        wall = time.perf_counter()
        before.record()
        step()
        after.record()
        torch.cuda.synchronize()
        return Sample(before.elapsed_time(after) / 1e3, time.perf_counter() - wall)
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return Sample(time.process_time() - cpu, time.perf_counter() - wall)


def run_case(case: Case, *, rounds: int, seconds: float, device: str, say: Say) -> Timed:
    """Return the times of all variants of a case.

    SGD and ours run in every memory format, a peer in its better one.

    Args:
        case: the case.
        rounds: most rounds; fewer, but at least five, where they would take longer than ``seconds``.
        seconds: wall time that the rounds may take.
        device: ``cpu`` or ``cuda``.
        say: takes a line of progress.
    """
    lanes = [_lane("sgd", memory_format, case, device) for memory_format in FORMATS]
    if case.precision != "fp32" and device == "cpu":
        lanes += [_lane("sgd", memory_format, case, device, "fp32") for memory_format in FORMATS]
    failures: dict[str, str] = {}
    fastest = math.inf
    lanes += _ours(case, device, failures)
    for variant in (*case.modes, *(["torch.func"] if case.whole else [])):
        lane, seconds_a_step = _better_format(variant, case, device, failures, limit=_HOPELESS * fastest)
        fastest = min(fastest, seconds_a_step if variant in case.modes else math.inf)
        if lane is None:
            say(f"  {variant}: fails: {failures[variant]}")
        else:
            lanes.append(lane)
    result = Timed(case, lanes, failures, {})
    _run_rounds(result, rounds, seconds, device)
    _planning(result, device)
    draw = steps.noise_alone(prepare(case, "contiguous", device))
    result.noise = statistics.median(timed_step(draw, device).cpu for _ in range(_LEAST_ROUNDS))
    for lane in lanes:
        if lane.samples:
            of = f"{lane.variant} {lane.precision} {lane.memory_format}"
            say(f"  {of}: {1e3 * lane.median():.0f} ms CPU, n = {len(lane.samples)}")
    return result


def _lane(
    variant: str,
    memory_format: str,
    case: Case,
    device: str,
    precision: str | None = None,
    planner: object = None,
) -> Lane:
    """Return a lane that has done its first step."""
    setup = prepare(case, memory_format, device, precision)
    if variant == "ours" and planner is None:
        planner = steps.new_planner()
    step = steps.STEPS[variant](setup, planner)
    return Lane(variant, memory_format, setup.precision, step, timed_step(step, device))


def _ours(case: Case, device: str, failures: dict[str, str]) -> list[Lane]:
    """Return our lanes in all memory formats; note a failure."""
    try:
        return [_lane("ours", memory_format, case, device) for memory_format in FORMATS]
    except Exception as error:
        failures["ours"] = type(error).__name__
        return []


def _better_format(
    variant: str, case: Case, device: str, failures: dict[str, str], limit: float
) -> tuple[Lane | None, float]:
    """Return a peer's lane in the memory format that suits it better and its seconds; note a failure.

    The second format is not tried for a peer that takes more than ``limit`` seconds in the first.
    """
    best: Lane | None = None
    least = math.inf
    for memory_format in steps.formats(variant, len(case.size)):
        try:
            lane = _lane(variant, memory_format, case, device)
            seconds = timed_step(lane.step, device).cpu
        except Exception as error:  # a peer's error is a result: its class goes into the table
            failures[variant] = type(error).__name__
            _free(device)
            continue
        if seconds < least:
            best, least = lane, seconds
        _free(device)
        if least > limit and variant != "hooks":
            break
    if best is not None:
        failures.pop(variant, None)
    return best, least


def _run_rounds(result: Timed, rounds: int, seconds: float, device: str) -> None:
    """Fill the samples; every round starts with another lane."""
    start = time.perf_counter()
    alive = list(result.lanes)
    for turn in range(rounds):
        shift = turn % len(alive)
        for lane in alive[shift:] + alive[:shift]:
            lane.samples.append(timed_step(lane.step, device))
        _free(device)
        if turn == 1:
            alive = _without_the_slow(alive)
        spent = time.perf_counter() - start
        if turn + 1 >= _LEAST_ROUNDS and spent * (turn + 2) / (turn + 1) > seconds:
            break


def _without_the_slow(lanes: list[Lane]) -> list[Lane]:
    """Return the lanes that are still measured: non-private, ours, hooks, and peers close to the fastest."""
    peers = [lane for lane in lanes if lane.variant not in ("sgd", "ours", "torch.func")]
    limit = _DROP * min((lane.median() for lane in peers), default=0.0)
    return [lane for lane in lanes if lane.variant in ("sgd", "ours", "hooks") or lane.median() <= limit]


def _planning(result: Timed, device: str) -> None:
    """Record what the first step of a new model costs above a steady one, without and with a known plan."""
    lane = result.lane("ours")
    if lane is None:
        return
    planner, steady = steps.new_planner(), lane.median()
    for word in ("new", "cached"):
        fresh = _lane("ours", lane.memory_format, result.case, device, planner=planner)
        result.planning[word] = fresh.first.cpu / steady - 1.0


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def ratios(lane: Lane, reference: Lane) -> list[float]:
    """Return the ratio of every round that both lanes ran."""
    return [mine.cpu / base.cpu for mine, base in zip(lane.samples, reference.samples, strict=False)]


def wall_ratios(lane: Lane, reference: Lane) -> list[float]:
    """Return the same of wall time."""
    return [mine.wall / base.wall for mine, base in zip(lane.samples, reference.samples, strict=False)]
