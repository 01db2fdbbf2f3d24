"""Criteria of the reconstruction attacks that are numbers: bounds, closed forms, false successes, time.

Each function yields :class:`Row` for ``bench_reconstruction.py``, which prints them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from meninx.audit.reconstruction.candidates import CandidateSet
from meninx.audit.reconstruction.encoders import EncoderName, fit_encoder
from meninx.audit.reconstruction.honest_server import LinearReadout
from meninx.audit.reconstruction.identification import identify
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.pools import Pools
from meninx.audit.reconstruction.rank_one import ON_CANDIDATES
from meninx.audit.reconstruction.victim import VictimStep
from meninx.metrics.image_matching import match, similarity
from meninx.metrics.intervals import clopper_pearson
from meninx.metrics.null_threshold import null_threshold, public_threshold, rate_above
from meninx.privacy.accounting import Phase
from meninx.privacy.risk import risk_curve

HAYES = (
    (10, 1.0, 30.0, 100), (10, 1.0, 10.0, 100), (10, 0.1, 1.5, 200), (64, 0.1, 1.0, 200),
    (64, 0.02, 0.6, 500), (256, 0.2525, 3.18, 300), (256, 0.2525, 1.6, 300),
)  # fmt: skip
"""Candidates, q, sigma, T of the prior-aware attack of Hayes et al. 2023."""
RANK_ONE_SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
FITTED: tuple[EncoderName, ...] = ("raw", "centred", "whitened")
LEAST_OF_BOUND = 0.8
FALSE_SUCCESS = 0.015
MATCHED, MATCH_SECONDS = 1000, 5.0
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured number beside its goal.

    Attributes:
        number: of the criterion.
        what: was measured.
        value: with its interval, in words.
        of: what it rests on.
        goal: in words.
        met: None where no goal is set.
    """

    number: int
    what: str
    value: str
    of: str
    goal: str = ""
    met: bool | None = None


def bound_of(phases: Sequence[Phase], candidates: int) -> float:
    """Return the largest success of any attack that picks one of some candidates."""
    return risk_curve(phases, rates=[1 / candidates]).gamma(1 / candidates).upper


def prior_aware(seed: int) -> Iterator[Row]:
    """Yield criterion 8: how near the attack comes to its bound for orthogonal candidates."""
    for candidates, rate, sigma, steps in HAYES:
        phases = [Phase(sample_rate=rate, noise_multiplier=sigma, steps=steps)]
        trials = 6000 if candidates <= 10 else 2000
        right = identify(np.eye(candidates), phases, trials=trials, seed=seed).right
        bound = bound_of(phases, candidates)
        low, high = (end / bound for end in clopper_pearson(right, trials))
        share, error = right / trials, np.sqrt(bound * (1 - bound) / trials)
        yield Row(
            number=8,
            what=f"1 of {candidates}, q {rate:g}, σ {sigma:g}, T {steps}: success over its limit {bound:.4f}",
            value=f"{share / bound:.3f} [{low:.3f}, {high:.3f}]",
            of=f"{trials:,} trials",
            goal=f"{LEAST_OF_BOUND:g} to 1 + 3 s.e.",
            met=LEAST_OF_BOUND * bound <= share <= bound + 3 * error,
        )


def rank_one(pools: Pools, components: int, seed: int) -> Iterator[Row]:
    """Yield criterion 9: which patient of all members a single step without subsampling gives away."""
    images = pools.members.images[:1000]
    public = torch.cat([pools.public.images, pools.heldout.images])
    goals = {("whitened", 0.2): (0.85, 1.0), ("whitened", 0.3): (0.35, 1.0), ("raw", 0.2): (0.0, 0.1)}
    codes: dict[str, Array] = {
        name: fit_encoder(name, public, components=components).encode(images).numpy() for name in FITTED
    }
    own = fit_encoder("whitened", images, components=len(images) - 1)
    codes[ON_CANDIDATES] = own.encode(images).numpy()
    trials = 2000
    for sigma in RANK_ONE_SIGMAS:
        phases = [Phase(sample_rate=1.0, noise_multiplier=sigma, steps=1)]
        bound = bound_of(phases, len(images))
        error = np.sqrt(bound * (1 - bound) / trials + 1e-7)
        for name in codes:
            right = identify(codes[name], phases, trials=trials, seed=seed).right
            low, high = clopper_pearson(right, trials)
            least, most = goals.get((name, sigma), (0.0, 1.0))
            words = f"at least {least:g}, " if least else ""
            words += f"at most {most:g}, " if most < 1 else ""
            yield Row(
                number=9,
                what=f"1 of {len(images):,}, σ {sigma:g}, encoder {name}; proven limit {bound:.4f}",
                value=f"{right / trials:.4f} [{low:.4f}, {high:.4f}]",
                of=f"{trials:,} trials",
                goal=f"{words}limit + 3 s.e.",
                met=least <= right / trials <= min(most, bound + 3 * error),
            )


def closed_form(pools: Pools, victim: VictimStep, outputs: int, seed: int) -> Iterator[Row]:
    """Yield criterion 11: the error of images read from a linear row, over what its closed form says."""
    chosen, targets = pools.members.images[:64], pools.members.targets[:64]
    attack = LinearReadout(Knowledge(public=pools.public.images, network=torch.nn.Flatten()), outputs)
    name, flat = attack.watched[0], chosen.flatten(1)
    variance = flat.var(dim=1, unbiased=False)
    for sigma in (1e-3, 1e-2, 3e-2):
        errors, apart, expected = [], [], (sigma * flat.norm(dim=1)).square()
        for number, image in enumerate(chosen):
            clean = victim.clipped_sum(
                attack.network, attack.watched, image[None], targets[number : number + 1]
            )
            seen = victim.seen(clean, sigma, seed=seed, purpose=str(number))
            weights = clean[name] @ image.flatten()
            weights = (
                weights / weights.norm()
            )  # how the rows share the image, which a logistic regression knows
            read = weights @ seen[name] * image.norm()
            errors.append(float((read - image.flatten()).square().mean() / expected[number]))
            found = float(similarity("ncc", image[None].numpy(), read.reshape(1, *image.shape).numpy())[0, 0])
            closed = float((variance[number] / (variance[number] + expected[number])).sqrt())
            apart.append(abs(found - closed))
        ratio, error = float(np.mean(errors)), 1.96 * float(np.std(errors, ddof=1)) / len(errors) ** 0.5
        of = f"{len(chosen)} images"
        yield Row(
            number=11, what=f"readout, σ {sigma:g}: MSE over σ²‖x‖²",
            value=f"{ratio:.4f} [{ratio - error:.4f}, {ratio + error:.4f}]", of=of, goal="within 2 %",
            met=abs(ratio - 1) <= 0.02,
        )  # fmt: skip
        yield Row(
            number=11, what=f"readout, σ {sigma:g}: NCC minus its closed form, mean of the distances",
            value=f"{np.mean(apart):.4f}, largest {np.max(apart):.4f}", of=of, goal="within .01",
            met=float(np.mean(apart)) <= 0.01,
        )  # fmt: skip


def false_success(name: str, sets: Sequence[CandidateSet], pools: Pools) -> Row:
    """Return criterion 12: how often noise alone passes a threshold that was set on other noise.

    Steps with an even number set the threshold for those with an odd one, and the other way round.
    """
    public, _ = public_threshold("ncc", pools.public.images.numpy(), pools.heldout.images.numpy())
    above: list[Array] = []
    steps: list[Array] = []
    for found in sets:
        noise, other = (_halves(found, images) for images in (found.noise_null, found.heldout_null))
        for mine, its in ((0, 1), (1, 0)):
            threshold = max(public, null_threshold(noise[mine][0])[0], null_threshold(other[mine][0])[0])
            above.append((noise[its][0] > threshold).astype(np.float64))
            steps.append(noise[its][1] + 1000.0 * len(steps))
    _, numbers = np.unique(np.concatenate(steps), return_inverse=True)
    rate = rate_above(np.concatenate(above), 0.5, steps=numbers)
    return Row(
        number=12,
        what=f"{name}: noise alone counted as a reconstruction, all levels",
        value=f"{100 * rate.share:.2f} % [{100 * rate.low:.2f} %, {100 * rate.high:.2f} %]",
        of=f"{rate.of:,} matched pairs, worth {rate.patients:.0f}",
        goal=f"at most {100 * FALSE_SUCCESS:g} %",
        met=rate.share <= FALSE_SUCCESS,
    )


def _halves(found: CandidateSet, images: torch.Tensor) -> list[tuple[Array, Array]]:
    """Return similarities of originals matched to the candidates of even and of odd steps, and the steps."""
    originals, made, trials = found.originals.numpy(), images.numpy(), len(images)
    halves: list[tuple[list[Array], list[Array]]] = [([], []), ([], [])]
    for step in range(trials):
        for one in originals:
            values = match(similarity("ncc", one, made[step])).values
            halves[step % 2][0].append(values)
            halves[step % 2][1].append(np.full(len(values), float(step)))
    return [(np.concatenate(values), np.concatenate(steps)) for values, steps in halves]


def matching_time(seed: int) -> Iterator[Row]:
    """Yield criterion 13: matching of 1,000 noisy images of 64 x 64 to their originals."""
    rng = np.random.default_rng(seed)
    originals = rng.random((MATCHED, 1, 64, 64), dtype=np.float32)
    order = rng.permutation(MATCHED)
    noisy = originals[order] + 0.3 * rng.standard_normal(originals.shape, dtype=np.float32)
    begun = time.process_time()
    found = match(similarity("ncc", originals, noisy))
    spent = time.process_time() - begun
    size = f"{MATCHED:,} x {MATCHED:,} images of 64 x 64"
    yield Row(
        number=13, what="matching, CPU s", value=f"{spent:.2f}", of=f"{size}, once",
        goal=f"below {MATCH_SECONDS:g}", met=spent < MATCH_SECONDS,
    )  # fmt: skip
    yield Row(
        number=13, what="originals matched to their own image, no image twice",
        value=f"{int((order[found.chosen] == np.arange(MATCHED)).sum()):,}, {len(np.unique(found.chosen)):,}",
        of=f"{MATCHED:,}", goal="all", met=sorted(found.chosen.tolist()) == list(range(MATCHED)),
    )  # fmt: skip
