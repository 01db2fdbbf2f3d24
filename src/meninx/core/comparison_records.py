"""Records of paired differences between runs on the same cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meninx.core import names
from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT


@dataclass(frozen=True, kw_only=True)
class SettingDifference:
    """A setting beside privacy in which two compared runs differ.

    Attributes:
        what: ``dataset``, ``network``, ``image size``, ``initialisation`` or ``features``.
        run: that of the run, in words.
        baseline: that of the baseline.
    """

    what: str
    run: str
    baseline: str


@dataclass(frozen=True, kw_only=True)
class RepeatedPair:
    """A further pair of runs with another seed, whose differences are averaged with those of the first.

    Attributes:
        run: the run.
        baseline: its baseline.
        run_name: name of the run's folder.
        baseline_name: name of the baseline's folder.
    """

    run: Origin
    baseline: Origin
    run_name: str = ""
    baseline_name: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """Paired differences of two runs on the same cases: ``release/comparison.json`` for the test split.

    Attributes:
        origin: the run that was measured; None in files of an older version.
        baseline: the run it is compared with.
        baseline_name: name of the baseline's folder.
        differences: tables of ``metrics.estimates.Estimate``, run minus baseline; with repeats the means over
            all pairs.
        differing: settings beside privacy in which the runs differ; None in files of an older version, which
            did not compare them.
        repeats: further pairs with other seeds.
        margin: the largest difference that counts as no difference; 0 in files of an older version.
        version: format of the record.
    """

    origin: Origin | None
    baseline: Origin | None
    baseline_name: str
    differences: tuple[dict[str, Any], ...]
    differing: tuple[SettingDifference, ...] | None = None
    repeats: tuple[RepeatedPair, ...] = ()
    margin: float = 0.0
    version: int = FORMAT

    def note(self) -> str:
        """Return in words in what the runs differ beside privacy; empty when in nothing that is known."""
        parts = [f"{item.what} ({item.run} against {item.baseline})" for item in self.differing or ()]
        return f"The runs differ in more than privacy: {names.printable('; '.join(parts))}" if parts else ""

    def differing_in(self) -> str:
        """Return the names of the settings beside privacy in which the runs differ."""
        return names.printable(", ".join(item.what for item in self.differing or ()))
