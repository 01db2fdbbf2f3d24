"""The secrets of a private run: made once from the operating system's entropy, kept in private/keys, never exported."""

from __future__ import annotations

from pathlib import Path

from meninx.core import files, randomness
from meninx.core.errors import PrivacyRefusal, expected
from meninx.core.randomness import KEY_BYTES
from meninx.core.run import Run


def secret_key(run: Run, purpose: str, *, resumed: bool, deterministic_seed: int | None = None) -> bytes:
    """Return the run's key for one purpose, made when the run begins.

    Args:
        run: the run folder; the key lies in ``private/keys`` with mode 0600.
        purpose: ``sampling`` or ``noise``.
        resumed: the run was started before, so the key must be there; otherwise none may be there.
        deterministic_seed: None for real entropy; an integer only in a run stamped NOT FOR RELEASE.

    Raises:
        PrivacyRefusal: a resumed run has lost its key, the key was changed, or a run that begins has one
            already.
    """
    folder = run.private / "keys"
    path = folder / f"{purpose}.key"
    if path.is_file() and not resumed:  # its noise was used, or may have been, in steps that no ledger lists
        fix = "restore private/ledger.jsonl from a backup, or start a new run"
        raise PrivacyRefusal(
            expected(f"no {purpose} key before the ledger begins", got="one", where="private/keys", fix=fix)
        )
    if path.is_file():
        return _read(path, purpose)
    if resumed:
        fix = "restore private/keys from a backup, or start a new run"
        raise PrivacyRefusal(
            expected(f"the {purpose} key of the run", got="no file", where="private/keys", fix=fix)
        )
    key = randomness.private_bytes(KEY_BYTES, deterministic_seed=deterministic_seed, purpose=purpose)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_bytes(path, key, mode=0o600)
    return key


def _read(path: Path, purpose: str) -> bytes:
    with path.open("rb") as stream:
        key = stream.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        fix = "restore private/keys from a backup, or start a new run"
        raise PrivacyRefusal(
            expected(f"a {purpose} key of {KEY_BYTES} bytes", got="another", where="private/keys", fix=fix)
        )
    return key
