"""Vectors: the common weights of a network, or their change, as float32 and as bytes; no torch.

>>> from_bytes(to_bytes(np.array([0.5, -1.0], np.float32)), 2)
array([ 0.5, -1. ], dtype=float32)

:mod:`.weight_layout` says which weights of a network are in a vector, and in which order.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected

Vector = npt.NDArray[np.float32]


def to_bytes(vector: Vector) -> bytes:
    """Return a vector as little-endian float32."""
    return vector.astype("<f4", copy=False).tobytes()


def from_bytes(data: bytes, size: int) -> Vector:
    """Return the vector in bytes.

    Raises:
        DataError: they are not ``size`` numbers.
    """
    if len(data) != 4 * size:
        raise DataError(expected(f"{4 * size:,} bytes of weights", got=f"{len(data):,}", where="model"))
    return np.frombuffer(data, "<f4").astype(np.float32)


def model_digest(vector: Vector) -> str:
    """Return the SHA-256 that names a model."""
    return hashlib.sha256(to_bytes(vector)).hexdigest()
