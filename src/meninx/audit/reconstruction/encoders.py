"""Linear encoders of images, fitted on public images: how an attacker concentrates what a gradient carries.

A gradient of a first linear layer is a multiple of its input, clipped to one norm, plus noise in every
coordinate. An attacker that chooses the layer chooses the coordinates. The mean of public images tells
nothing about a patient but takes most of the norm, so it is subtracted (``centred``). A few principal
components of public images hold most of what differs between images, and noise in all other directions does
no harm (``pca``). Scaled to equal variance, small differences count as much as large ones (``whitened``)::

    >>> public = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> encoder = fit_encoder("whitened", public, components=5)
    >>> codes = encoder.encode(public[:3])
    >>> tuple(codes.shape), tuple(encoder.decode(codes).shape)
    ((3, 5), (3, 1, 8, 8))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from meninx.core.errors import DataError, expected

EncoderName = Literal["raw", "centred", "pca", "whitened"]
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)
COMPONENTS = 64
"""Of ``pca`` and ``whitened`` where no other number is given."""
_MOST_VALUES = 2**30
"""Of the public images together, and of the matrix of an encoder: 4 GiB."""
_MOST_SIDE = 2**13
"""Of the smaller side of the public images as a matrix, whose Gram matrix is decomposed."""
_LEAST_VARIANCE = 1e-7
"""Of a component over that of the first one; below are rounding errors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """A linear map from images to codes, and the linear map back.

    Attributes:
        name: which of :data:`ENCODERS`.
        shape: of one image, (channels, height, width) or (channels, depth, height, width).
        mean: what is subtracted, float32 of shape (values of an image,).
        directions: orthonormal rows, float32 of shape (components, values); None for the identity.
        scales: standard deviation of public images along each direction, which ``whitened`` divides by,
            float32 of shape (components,); None where nothing is scaled.
    """

    name: EncoderName
    shape: tuple[int, ...]
    mean: Tensor
    directions: Tensor | None = None
    scales: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of values of a code."""
        return int(self.mean.numel() if self.directions is None else self.directions.shape[0])

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes of images, float32 of shape (images, size).

        Args:
            images: of shape (images, *shape).

        Raises:
            DataError: images of another shape, or values that are not finite.
        """
        codes = _flat(images, self.shape, "images") - self.mean
        if self.directions is not None:
            codes = codes @ self.directions.T
        return codes if self.scales is None else codes / self.scales

    def decode(self, codes: Tensor) -> Tensor:
        """Return the images of codes, float32 of shape (codes, *shape).

        Noise in codes becomes noise in images; values are not limited to the range of images.

        Args:
            codes: of shape (codes, size).

        Raises:
            DataError: codes of another size.
        """
        if codes.ndim != 2 or codes.shape[1] != self.size:
            raise DataError(expected(f"codes of {self.size} values", got=_sizes(codes), where="codes"))
        found = codes.float() if self.scales is None else codes.float() * self.scales
        if self.directions is not None:
            found = found @ self.directions
        return (found + self.mean).reshape(-1, *self.shape)

    def matrix(self) -> Tensor:
        """Return the weight of a linear layer that encodes, float32 of shape (size, values of an image).

        With the bias :meth:`offset` the layer computes ``weight @ image + offset = encode(image)``.

        Raises:
            DataError: the identity of large images has too many values to be written out.
        """
        if self.directions is None:
            _refuse_values(self.size * self.size, "the matrix of an encoder")
            return torch.eye(self.size)
        return self.directions if self.scales is None else self.directions / self.scales[:, None]

    def offset(self) -> Tensor:
        """Return the bias of a linear layer that encodes, float32 of shape (size,)."""
        return self.encode(torch.zeros(1, *self.shape))[0]


def fit_encoder(name: EncoderName, public: Tensor, *, components: int = COMPONENTS) -> Encoder:
    """Return an encoder that was fitted on public images.

    Args:
        name: ``raw`` (the image itself), ``centred`` (minus the public mean), ``pca`` (principal components
            of the public images) or ``whitened`` (the same, scaled to equal variance).
        public: images that the attacker has, of shape (images, channels, height, width) or (images,
            channels, depth, height, width). None of them may be one of the attacked images.
        components: of ``pca`` and ``whitened``, > 0. Fewer are fitted where the public images span fewer.

    Raises:
        DataError: images of another number of dimensions, too large, not finite, or too few to be fitted on.
    """
    if public.ndim not in (4, 5):
        rule = "images of shape (images, channels, [depth,] height, width)"
        raise DataError(expected(rule, got=_sizes(public), where="public images"))
    if name not in ENCODERS:
        raise DataError(expected("one of " + ", ".join(ENCODERS), got=name, where="encoder"))
    shape = tuple(public.shape[1:])
    if name == "raw":
        _refuse_values(math.prod(shape), "an image")
        return Encoder(name=name, shape=shape, mean=torch.zeros(math.prod(shape)))
    least = 1 if name == "centred" else 2
    if len(public) < least:
        raise DataError(expected(f"at least {least} public images", got=len(public), where="public images"))
    values = _flat(public, shape, "public images")
    mean = values.mean(dim=0)
    if name == "centred":
        return Encoder(name=name, shape=shape, mean=mean)
    if components < 1:
        raise DataError(expected("at least 1 component", got=components, where="components"))
    directions, deviations = _principal(values - mean, components)
    scales = deviations if name == "whitened" else None
    return Encoder(name=name, shape=shape, mean=mean, directions=directions, scales=scales)


def _principal(centred: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Return the first principal directions of centred rows, and the standard deviation along each.

    The smaller of the two Gram matrices is decomposed, so images may have more values than there are images
    or the other way round.
    """
    count, size = centred.shape
    if min(count, size) > _MOST_SIDE:
        raise DataError(
            expected(
                f"at most {_MOST_SIDE:,} public images", got=count, where="public images", fix="use fewer"
            )
        )
    by_image = count <= size
    gram = (centred @ centred.T if by_image else centred.T @ centred).double()
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    known = int((values > _LEAST_VARIANCE * values[0]).sum()) if float(values[0]) > 0 else 0
    used = min(components, known, max(1, count - 1))
    if used == 0:
        fix = "give public images that differ from each other"
        raise DataError(
            expected(
                "public images with some variance", got="images all alike", where="public images", fix=fix
            )
        )
    values, vectors = values[:used], vectors[:, :used].float()
    directions = vectors.T @ centred if by_image else vectors.T.contiguous()
    directions = directions / directions.norm(dim=1, keepdim=True)
    return directions, (values / max(1, count - 1)).sqrt().float()


def _flat(images: Tensor, shape: tuple[int, ...], where: str) -> Tensor:
    """Return images as float32 rows; refuse another shape, too many values, or values that are not finite."""
    if images.ndim != len(shape) + 1 or tuple(images.shape[1:]) != shape or 0 in shape:
        sizes = " x ".join(map(str, shape))
        raise DataError(expected(f"images of {sizes} values", got=_sizes(images), where=where))
    _refuse_values(images.numel(), where)
    rows = images.detach().reshape(len(images), -1).float()
    if not bool(torch.isfinite(rows).all()):
        raise DataError(expected("finite values", got="NaN or infinity", where=where))
    return rows


def _refuse_values(count: int, where: str) -> None:
    if not 0 < count <= _MOST_VALUES:
        fix = "use fewer or smaller images"
        raise DataError(expected(f"1 to {_MOST_VALUES:,} values", got=count, where=where, fix=fix))


def _sizes(values: Tensor) -> str:
    return " x ".join(map(str, values.shape)) or "a number"
