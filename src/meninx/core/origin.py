"""The origin of a number: run, data, weights, step and program."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run, data, weights and program that a number belongs to.

    Attributes:
        run: identity of the run, 32 hexadecimal digits drawn at its creation; empty for numbers of a dataset.
        data: keyed digest of the dataset (see :func:`keyed`).
        dataset: short name of the dataset.
        weights: SHA-256 of the measured or released weights; empty before there are any.
        step: optimiser step of those weights.
        split: the measured split; empty if none was measured.
        made: time, ISO 8601 in UTC.
        command: the user's command, without folders.
        versions: package -> version.
    """

    run: str
    data: str
    dataset: str = ""
    weights: str = ""
    step: int = 0
    split: str = ""
    made: str = ""
    command: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    def same_model(self, other: Origin) -> bool:
        """Return whether both belong to the same weights of the same run."""
        return (self.run, self.weights, self.step) == (other.run, other.weights, other.step) and bool(
            self.weights
        )
