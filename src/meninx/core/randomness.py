"""Sources of random numbers: named children of a public seed, or the operating system.

A public seed may determine initialisation, data order, splits and augmentation. It must never determine
randomness that protects privacy (noise, Poisson draws, masks, keys), because anyone who knows the seed could
subtract the noise. That randomness comes from :func:`private_bytes`, and only ``deterministic`` runs, stamped
NOT FOR RELEASE, may derive it from the seed.
"""

from __future__ import annotations

import hashlib
import json
import secrets

import numpy as np

KEY_BYTES = 32  # of every secret key


def child_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends only on ``seed`` and the path of names.

    Different paths have different seeds (up to collisions of a hash), whatever the names contain, so a name
    may come from a file: a path without a slash in any name is joined by slashes, and any other is written as
    JSON, which begins with a bracket. A number and its text are the same name.

    Example::

        >>> child_seed(0, "a/b") == child_seed(0, "a", "b"), child_seed(0, 1) == child_seed(0, "1")
        (False, True)
    """
    path = [str(seed), *(str(name) for name in names)]
    text = json.dumps(path) if any("/" in name for name in path) else "/".join(path)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def child(seed: int, *names: str | int) -> np.random.Generator:
    """Return a generator for one purpose, e.g. ``child(seed, "split")``.

    Different purposes have independent streams, so an additional draw for one does not change another.
    """
    return np.random.default_rng(child_seed(seed, *names))


def private_bytes(count: int, *, deterministic_seed: int | None = None, purpose: str = "") -> bytes:
    """Return ``count`` random bytes for a purpose that protects privacy.

    Args:
        count: number of bytes.
        deterministic_seed: None for the operating system's entropy (the default). An integer is only for
            tests and the demo; a run that passes one must be stamped NOT FOR RELEASE.
        purpose: separates streams when a deterministic seed is used.
    """
    if deterministic_seed is None:
        return secrets.token_bytes(count)
    return hashlib.shake_256(f"NOT FOR RELEASE/{deterministic_seed}/{purpose}".encode()).digest(count)
