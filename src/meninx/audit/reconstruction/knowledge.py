"""What an attacker knows before it sees a gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from meninx.core.errors import UsageError, expected

EVERYBODY = (
    "the attacker knows the clipping threshold, the noise multiplier and the expected batch size",
    "it has images of other patients of the same kind",
    "each patient of the attacked step has one image, which is not augmented",
)
"""What holds for every attack. A real attacker may know less, or more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Knowledge:
    """What the attacker has: public images, the network, and how a step is made.

    Attributes:
        public: images of other patients, float32 in [0, 1], (images, channels, height, width) or (images,
            channels, depth, height, width).
        network: of the run, in evaluation mode; takes normalised images.
        lowest: network input at image value 0.
        span: network input at image value 1, minus ``lowest``.
        batch: images in a step.
        bins: rows of a front block; 0 for eight times the images that are seen.
        components: of the encoders that have few.
        seed: of the attacker's own random numbers.
        iterations: of gradient matching.
    """

    public: Tensor
    network: nn.Module
    lowest: float = 0.0
    span: float = 1.0
    batch: int = 16
    bins: int = 0
    components: int = 64
    seed: int = 0
    iterations: int = 300

    def __post_init__(self) -> None:
        if self.public.ndim not in (4, 5) or len(self.public) < 2:
            rule = "at least 2 public images of shape (images, channels, [depth,] height, width)"
            got = " x ".join(map(str, self.public.shape))
            raise UsageError(expected(rule, got=got, where="public images"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.public.shape[1:])
