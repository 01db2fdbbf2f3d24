"""Checks of a dossier's files against its list, cheap enough for a folder that somebody else filled."""

from __future__ import annotations

import contextlib
from pathlib import Path

from meninx.core import artifacts, integrity
from meninx.core.dossier_records import DossierRecord
from meninx.core.errors import DataError
from meninx.core.folder_signature import SIGNATURE
from meninx.core.progress import Progress
from meninx.verify import folder_checks
from meninx.verify.check_list import CheckList, some

WHAT = "files against checksums.sha256"
_MOST = 64 << 30  # bytes of a whole dossier
_LARGE = 64 << 20  # bytes of a file that no record states the size of, such as the page


def check(book: CheckList, root: Path, progress: Progress) -> bool:
    """Check the list, the sizes and then the digests; return whether the files may be read any further.

    Large files of another size than the record states, or that it does not name, are named without being
    read: a sparse file of a terabyte costs whoever adds it nothing.

    Raises:
        DataError: the list is damaged.
    """
    fix = "ask for the whole dossier"
    if not (root / integrity.CHECKSUMS).is_file():
        return book.judge(WHAT, [f"{integrity.CHECKSUMS} is missing"], privacy=True, fix=fix)
    sizes = {
        path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()
    }
    if sum(sizes.values()) > _MOST:
        wrong = [f"the folder holds more than {_MOST >> 30} GiB, and nothing of it was read"]
        return book.judge(WHAT, wrong, fix=fix)
    stated = _stated(root)
    other = sorted(name for name, size in sizes.items() if size > _LARGE and size != stated.get(name))
    if not other:
        folder_checks.digests(book, root, "", leave_out=(SIGNATURE,), progress=progress)
        return True
    wrong = [f"larger than the record states, and nothing was read: {some(other)}"]
    return book.judge(WHAT, wrong, fix=fix)


def _stated(root: Path) -> dict[str, int]:
    """Return the sizes that the record states; none where it is damaged, which is another check's line."""
    with contextlib.suppress(DataError):
        record = artifacts.read(root, DossierRecord)
        return {item.path: item.size for item in record.evidence} if record is not None else {}
    return {}
