"""Private results that are computed once: files whose name is the digest of all that they depend on.

A work that was interrupted, or is done again, finds what it needs by the same inputs. Other inputs give
another name, so nothing that belongs to another run, seed or dataset is ever read. ::

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     cache = DigestCache(Path(folder) / "audit" / "signals", suffix=".npz")
    ...     key = cache.key("run 1", "seed 0")
    ...     print(cache.read(key))
    ...     cache.write(key, b"numbers")
    ...     print(cache.read(key), cache.read(cache.key("run 1", "seed 1")))
    None
    b'numbers' None
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from meninx.core import files

_LENGTH = 32


@dataclass(frozen=True)
class DigestCache:
    """A folder of private files, each named by the digest of what it depends on.

    Attributes:
        room: the folder, below a private one; made with the first file, as is the folder above it.
        suffix: of the files.
        limit: most bytes of a file that is read.
    """

    room: Path
    suffix: str
    limit: int = files.IMAGE_LIMIT

    def key(self, *inputs: str | bytes) -> str:
        """Return the name of what depends on the inputs, in their order, each with its length."""
        digest = hashlib.sha256()
        for item in inputs:
            content = item.encode() if isinstance(item, str) else item
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
        return digest.hexdigest()[:_LENGTH]

    def read(self, key: str) -> bytes | None:
        """Return the content of a file; None where it was not computed yet.

        Raises:
            DataError: it is too large or cannot be read.
        """
        path = self.room / f"{key}{self.suffix}"
        return files.read_bytes(path, limit=self.limit) if path.is_file() else None

    def write(self, key: str, content: bytes) -> None:
        """Write a file, readable by its owner alone.

        Raises:
            StorageError: the disk is full, or the folder refuses the file.
        """
        for folder in (self.room.parent, self.room):
            folder.mkdir(mode=0o700, exist_ok=True)
        files.write_bytes(self.room / f"{key}{self.suffix}", content, mode=files.PRIVATE_MODE)
