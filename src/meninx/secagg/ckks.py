"""CKKS: sums of encrypted updates instead of masked ones, by TenSEAL (optional).

The sites share one secret key; the coordinator has the public part and adds ciphertexts that it cannot read.
Compared with masks, an upload is eight times as long and takes a hundred times the computing time, the result
is approximate (error below 1e-6) and cannot be recomputed from a transcript, and any number of sites may drop
out at any time.

The coordinator alone learns nothing. The coordinator with a *single* colluding site learns every update,
because each site can decrypt each ciphertext (:data:`COLLUSION`). Threshold decryption would prevent this,
but TenSEAL does not have it. Masks cover ``covered(n).colluders`` colluding sites instead.

CKKS is approximate, and exact decryptions weaken the key if they are given to a party that holds the
ciphertexts (Li and Micciancio 2021). So the coordinator receives only the rounded result, and each run has a
fresh key.

References:
    Cheon, Kim, Kim, Song (2017), Homomorphic encryption for arithmetic of approximate numbers, ASIACRYPT.
    Li, Micciancio (2021), On the security of homomorphic encryption on approximate numbers, EUROCRYPT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem

COLLUSION = (
    "Homomorphic encryption protects against the coordinator only while no site colludes with it: all sites "
    "share one secret key, so the coordinator and any one site together read every update."
)
SLOTS = 4096  # values per ciphertext
LARGEST_VALUE = 2**13  # the sum of 32 such values is at most 2^18, which still decrypts correctly
LARGEST_UPDATE = 2_000_000  # elements; 64 MB of ciphertext
_DEGREE, _MODULI, _SCALE = 8192, [60, 60], 2.0**40  # enough for additions; 128-bit security
_CIPHERTEXT_LIMIT = 1 << 18  # bytes; fresh ones have 131,212
_CONTEXT_LIMIT = 1 << 22
ROUNDING = 2.0**20  # results are rounded to multiples of 2^-20

Values = np.ndarray[Any, Any]


def ckks_keys() -> tuple[bytes, bytes]:
    """Return a fresh context with the secret key, for the sites, and one without it, for the coordinator."""
    tenseal = _tenseal()
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, _DEGREE, coeff_mod_bit_sizes=_MODULI)
    context.global_scale = _SCALE
    keys = {"save_galois_keys": False, "save_relin_keys": False}
    return (
        context.serialize(save_secret_key=True, **keys),
        context.serialize(save_secret_key=False, **keys),
    )


class CkksSite:
    """A site's part: encrypts its update and decrypts the sum.

    Args:
        context: with the secret key, from :func:`ckks_keys`.

    Raises:
        DataError: the bytes are not a context of these parameters, or the secret key is missing.
    """

    def __init__(self, context: bytes) -> None:
        self._context = _context(context)
        if not self._context.has_secret_key():
            raise DataError(problem("the context has no secret key", where="CKKS context of a site"))

    def encrypt(self, vector: Values) -> bytes:
        """Return the ciphertexts of a vector.

        Args:
            vector: finite values within ±2^13, one axis, at most 2,000,000.

        Raises:
            DataError: a value is not finite or too large, or there are too many.
        """
        tenseal = _tenseal()
        values = np.asarray(vector, dtype=np.float64)
        if values.ndim != 1 or not 0 < len(values) <= LARGEST_UPDATE:
            rule = f"one axis with 1 to {LARGEST_UPDATE:,} values"
            fix = "use masks for larger models"
            raise DataError(expected(rule, got=values.shape, where="update", fix=fix))
        if not np.isfinite(values).all() or np.abs(values).max() > LARGEST_VALUE:
            what = f"a value is not finite, or beyond {LARGEST_VALUE:,}"
            raise DataError(problem(what, where="update"))
        parts = [
            tenseal.ckks_vector(self._context, values[start : start + SLOTS]).serialize()
            for start in range(0, len(values), SLOTS)
        ]
        return msgspec.msgpack.encode((len(values), parts))

    def decrypt(self, total: bytes) -> Values:
        """Return the sum, float64, rounded to multiples of 2^-20."""
        length, parts = _ciphertexts(total, self._context)
        values = np.concatenate([np.asarray(part.decrypt())[:SLOTS] for part in parts])[:length]
        return np.asarray(np.rint(values * ROUNDING) / ROUNDING)


class CkksAggregation:
    """The coordinator's part: adds ciphertexts that it cannot read.

    Args:
        context: without the secret key, from :func:`ckks_keys`.

    Raises:
        PrivacyRefusal: the context contains the secret key, so the coordinator could read every update.
        DataError: the bytes are not a context of these parameters.
    """

    def __init__(self, context: bytes) -> None:
        self._context = _context(context)
        if self._context.has_secret_key():
            what = "the context holds the sites' secret key, so the coordinator could read every update"
            raise PrivacyRefusal(
                problem(what, where="CKKS context of the coordinator", fix="give the public one")
            )
        self._length = 0
        self._parts: list[Any] = []
        self.uploads = 0

    def receive(self, upload: bytes) -> None:
        """Add one site's ciphertexts.

        Raises:
            DataError: they are malformed or of another length.
        """
        length, parts = _ciphertexts(upload, self._context)
        if self.uploads and length != self._length:
            raise DataError(expected(f"{self._length:,} values", got=f"{length:,}", where="upload"))
        self._length = length
        self._parts = (
            [one + two for one, two in zip(self._parts, parts, strict=True)] if self.uploads else parts
        )
        self.uploads += 1

    def total(self) -> bytes:
        """Return the ciphertexts of the sum, which the sites decrypt.

        Raises:
            UsageError: nothing was received.
        """
        if not self.uploads:
            raise UsageError(problem("no site uploaded anything", where="round"))
        return msgspec.msgpack.encode((self._length, [part.serialize() for part in self._parts]))


def _ciphertexts(data: bytes, context: Any) -> tuple[int, list[Any]]:
    """Return the number of values and the ciphertexts, checked before they are parsed."""
    try:
        length, parts = msgspec.msgpack.decode(data, type=tuple[int, list[bytes]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(problem("these are not ciphertexts of meninx", where="upload")) from error
    wanted = -(-length // SLOTS)
    if not 0 < length <= LARGEST_UPDATE or len(parts) != wanted or _longest(parts) > _CIPHERTEXT_LIMIT:
        raise DataError(problem("the number or size of the ciphertexts is wrong", where="upload"))
    tenseal = _tenseal()
    found = []
    for number, part in enumerate(parts):
        try:
            vector = tenseal.ckks_vector_from(context, part)
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            raise DataError(problem(f"ciphertext {number + 1} is damaged", where="upload")) from error
        if vector.size() != min(SLOTS, length - number * SLOTS):
            raise DataError(problem(f"ciphertext {number + 1} has another length", where="upload"))
        found.append(vector)
    return length, found


def _longest(parts: Sequence[bytes]) -> int:
    return max(map(len, parts), default=0)


def _context(data: bytes) -> Any:
    tenseal = _tenseal()
    if len(data) > _CONTEXT_LIMIT:
        raise DataError(
            expected(f"at most {_CONTEXT_LIMIT:,} bytes", got=f"{len(data):,}", where="CKKS context")
        )
    try:
        context = tenseal.context_from(data)
    except (ValueError, RuntimeError, TypeError) as error:
        raise DataError(problem("this is not a context of CKKS", where="CKKS context")) from error
    try:
        scale = context.global_scale
    except ValueError:
        scale = None
    if scale != _SCALE:
        raise DataError(problem("the context has other parameters", where="CKKS context"))
    return context


def _tenseal() -> Any:
    try:
        import tenseal
    except ImportError as error:
        fix = "pip install 'meninx[he]'"
        raise UsageError(problem("TenSEAL is not installed", where="CKKS", fix=fix)) from error
    return tenseal
