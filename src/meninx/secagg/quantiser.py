"""Quantiser: a clipped update, its weight and its metrics as integers of a ring whose sum cannot wrap.

The update of a site (the change by training, never the weights of the network themselves) is clipped to ±clip
element by element, scaled by the site's share of the largest weight, and rounded to integers. Sums of
integers are exact in any order, so the coordinator, a site that recomputes and a test obtain the same bits.

Number of units, metrics and update are elements of one vector, so none of them is sent outside the sum. By
construction no element can leave the signed range of the ring for n sites; settings that would allow it are
refused when the object is created, before a round starts.

The coordinator learns the weighted mean, the total weight and the weighted mean metrics of the survivors. A
round with other participants differs in these numbers, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.secagg.masks import Ring, ring_type
from meninx.secagg.roster import LARGEST

_CHUNK = 1 << 15  # elements per pass, so that the data stay in the cache
_SIGNED: dict[int, np.dtype[Any]] = {32: np.dtype("<i4"), 64: np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded sum.

    Attributes:
        mean: weighted mean of the clipped updates, float32, one axis.
        weight: sum of the weights.
        metrics: weighted means of the metrics.
        error: largest rounding error of an element of the mean, relative to exact arithmetic.
    """

    mean: np.ndarray[Any, np.dtype[np.float32]]
    weight: int
    metrics: tuple[float, ...]
    error: float


@dataclass(frozen=True)
class Quantiser:
    """Turns updates into ring vectors and a sum of ring vectors into the weighted mean update.

    >>> quantiser = Quantiser(clip=0.5, sites=4, max_weight=100)
    >>> one = quantiser.encode(np.array([0.25, -0.5], np.float32), weight=100)
    >>> two = quantiser.encode(np.array([0.0, 0.5], np.float32), weight=50)
    >>> quantiser.decode(one + two).mean.round(6)
    array([ 0.166667, -0.166667], dtype=float32)

    Attributes:
        clip: largest absolute value of an element of an update, > 0; larger ones are clipped.
        sites: sites that may take part, 1 to 32.
        bits: of the ring, 32 or 64.
        max_weight: largest weight of a site, >= 1, e.g. its largest number of patients.
        metrics: numbers that are averaged with the update, e.g. the training loss.
        metric_clip: largest absolute value of a metric.
        levels: integers per clip; None for as many as fit.
    """

    clip: float
    sites: int
    bits: int = 32
    max_weight: int = 1
    metrics: int = 0
    metric_clip: float = 16.0
    levels: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings under which a sum could wrap."""
        ring_type(self.bits)
        for name in ("clip", "metric_clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(expected("a finite value above 0", got=value, where=name))
        if not 1 <= self.sites <= LARGEST:
            raise ConfigError(expected(f"1 to {LARGEST} sites", got=self.sites, where="sites"))
        if self.max_weight < 1 or self.metrics < 0:
            got = min(self.max_weight, self.metrics)
            raise ConfigError(expected("max_weight >= 1 and metrics >= 0", got=got, where="quantiser"))
        room = (1 << (self.bits - 1)) - 1
        if self.sites * self.max_weight > room:
            rule = f"a sum of weights of at most {room:,}"
            fix = "use 64 bits or a smaller max_weight"
            raise ConfigError(expected(rule, got=self.sites * self.max_weight, where="max_weight", fix=fix))
        if self.levels is not None and not 1 <= self.levels <= self._most_levels:
            rule = f"1 to {self._most_levels:,} levels, so that {self.sites} sites cannot overflow"
            raise ConfigError(
                expected(rule, got=self.levels, where="levels", fix="use fewer levels or 64 bits")
            )

    @property
    def _most_levels(self) -> int:
        # The products are computed in float64, so more than 2^52 levels would not add precision.
        return min(((1 << (self.bits - 1)) - 1) // self.sites, 1 << 52)

    @property
    def scale(self) -> int:
        """Integer to which a full-weight update of ``clip`` is mapped."""
        return self._most_levels if self.levels is None else self.levels

    def length(self, elements: int) -> int:
        """Return the length of the ring vector of an update: its elements, the metrics, the weight."""
        return elements + self.metrics + 1

    def error_bound(self, survivors: int, total_weight: int) -> float:
        """Return the largest error of an element of the mean, compared to exact arithmetic on clipped values.

        Each survivor's rounding error is at most half a level of its scaled update; the rounding of the mean
        to float32 is added.

        Args:
            survivors: sites in the sum.
            total_weight: sum of their weights.
        """
        rounding = 0.5 * survivors * self.max_weight / (self.scale * max(total_weight, 1))
        return self.clip * (rounding * (1 + 2.0**-20) + survivors * 2.0**-50 + 2.0**-24)

    def clipped(self, vector: np.ndarray[Any, Any]) -> int:
        """Return the number of elements of an update beyond the clip, for the site's own log."""
        return int(np.count_nonzero(np.abs(vector) > self.clip))

    def encode(
        self,
        vector: np.ndarray[Any, Any],
        weight: int = 1,
        metrics: Sequence[float] = (),
        *,
        parts: Mapping[str, int] | None = None,
    ) -> Ring:
        """Return the ring vector of a site: weighted update, weighted metrics, weight.

        Args:
            vector: update, float32, any shape (also no axes or no elements); read in C order.
            weight: of the site, 0 to ``max_weight``.
            metrics: values, clipped to ``metric_clip``.
            parts: name -> number of elements, for the parts in order, to name one that is not finite.

        Returns:
            ``length(vector.size)`` elements of the ring.

        Raises:
            DataError: a value is not finite, the weight is out of range, or the number of metrics is wrong.
        """
        if not 0 <= weight <= self.max_weight:
            rule = f"a weight of 0 to {self.max_weight}"
            raise DataError(expected(rule, got=weight, where="weight", fix="raise max_weight for all sites"))
        if len(metrics) != self.metrics:
            raise DataError(expected(f"{self.metrics} metrics", got=len(metrics), where="metrics"))
        flat = np.ascontiguousarray(vector).reshape(-1)
        if flat.dtype.kind != "f":
            fix = "leave integer buffers out of the sum"
            raise DataError(expected("floating-point values", got=flat.dtype, where="update", fix=fix))
        out = np.empty(self.length(flat.size), dtype=ring_type(self.bits))
        factor = weight / self.max_weight * self.scale
        signed = out.view(_SIGNED[self.bits])  # negative integers are their complements in the ring
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            signed[start : start + part.size] = self._integers(part, self.clip, factor, start, parts)
        values = np.asarray(metrics, dtype=np.float64)
        signed[flat.size : -1] = self._integers(
            values, self.metric_clip, factor, 0, {"metrics": len(metrics)}
        )
        out[-1] = weight
        return out

    def _integers(
        self,
        values: np.ndarray[Any, Any],
        clip: float,
        factor: float,
        start: int,
        parts: Mapping[str, int] | None,
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return clipped, scaled and rounded values, whose cast to integers is exact."""
        high, low = (float(values.max()), float(values.min())) if values.size else (0.0, 0.0)
        if not (math.isfinite(high) and math.isfinite(low)):  # max and min are NaN if any value is
            raise DataError(_not_finite(values, start, parts))
        scaled: np.ndarray[Any, np.dtype[np.float64]] = values.astype(np.float64)
        scaled *= factor / clip
        if high > clip or low < -clip:
            np.clip(scaled, -factor, factor, out=scaled)
        np.rint(scaled, out=scaled)
        return scaled

    def decode(self, total: Ring) -> Decoded:
        """Return the weighted mean for a sum of :meth:`encode` vectors.

        Raises:
            DataError: the vector is not of this quantiser, the weights sum to 0, or a mean is beyond the
                clip, which is impossible for a sum of :meth:`encode` vectors.
        """
        if total.ndim != 1 or total.dtype != ring_type(self.bits) or len(total) < self.length(0):
            rule = f"a vector of {self.bits}-bit elements with {self.metrics} metrics and a weight"
            raise DataError(expected(rule, got=f"{total.shape} of {total.dtype}", where="sum"))
        weight = int(total[-1])
        if not 0 < weight <= self.sites * self.max_weight:
            rule = f"a total weight of 1 to {self.sites * self.max_weight}"
            raise DataError(expected(rule, got=weight, where="sum", fix="a site sent another weight or mask"))
        signed = total.view(_SIGNED[self.bits])
        unit = self.max_weight / (float(self.scale) * weight)
        elements = len(total) - self.length(0)
        mean = np.empty(elements, dtype=np.float32)
        for start in range(0, elements, _CHUNK):
            part = signed[start : min(start + _CHUNK, elements)]
            mean[start : start + len(part)] = part * (unit * self.clip)
        limit = self.clip + 2 * self.error_bound(self.sites, weight)
        if elements and max(float(mean.max()), -float(mean.min())) > limit:
            rule, fix = f"means of at most {self.clip:g}", "a site sent another weight, update or mask"
            raise DataError(expected(rule, got="a larger one", where="sum", fix=fix))
        metrics = tuple(float(value) * unit * self.metric_clip for value in signed[elements:-1])
        return Decoded(mean, weight, metrics, self.error_bound(self.sites, weight))


def _not_finite(values: np.ndarray[Any, Any], start: int, parts: Mapping[str, int] | None) -> str:
    """Return the message that names the first part with a value that is not finite."""
    position = start + int(np.flatnonzero(~np.isfinite(values))[0])
    kind = "NaN" if np.isnan(values[position - start]) else "infinite"
    end = 0
    for name, elements in (parts or {}).items():
        end += elements
        if position < end:
            return problem(
                f"the update holds a value that is {kind}", where=name, fix="lower the learning rate"
            )
    return problem(f"the update holds a value that is {kind}", where=f"element {position}")
