"""Prints how many de-identified files have dciodvfy errors that their originals do not have, and which.

    python benchmarks/deid_conformance.py [FOLDER ...]

Without folders a small synthetic cohort is made; folders hold DICOM files (each counts as one site). Needs
``dciodvfy`` of dicom3tools (``apt-get install dicom3tools``); without it nothing is done. Messages are shown
without any value.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meninx.core.errors import MeninxError
from meninx.deid.config import DeidConfig
from meninx.deid.stage import run
from meninx.synthetic import PhantomConfig, write_archives

_VALUES = re.compile(r"<[^>]*>|\[[^\]]*\]|= \S+|\d+(\.\d+)+|\d{3,}|(?<=UID )\d")
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def errors(path: Path) -> Counter[str]:
    """Return the error lines of one file, without values, with their number."""
    content = path.read_bytes()
    with tempfile.NamedTemporaryFile(suffix=".dcm") as plain:
        if _DEFLATED in content[:1024]:  # dciodvfy reads no deflated files
            start = 144 + int.from_bytes(content[140:144], "little")
            head = content[:start].replace(_DEFLATED, _DEFLATED[:-3] + bytes(3))
            plain.write(head + zlib.decompressobj(-15).decompress(content[start:]))
            plain.flush()
            path = Path(plain.name)
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    return Counter(_general(line) for line in lines if line.startswith("Error") or " - Error" in line)


def _general(line: str) -> str:
    """Return a message that two files with different values share; names of elements and modules stay."""
    element = re.search(r"(?:Element|Module)=<\w+>.*", line)
    return element[0] if element else _VALUES.sub("_", line)


def pairs(source: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every written file with its original."""
    with (out / "private" / "journal.jsonl").open() as stream:
        for entry in map(json.loads, stream):
            if entry.get("status") == "written":
                yield source / entry["path"], out / entry["output"]


def compare(source: Path, out: Path, profile: str) -> tuple[int, int, Counter[str]]:
    """De-identify one folder; return files, files with new errors, and the new errors."""
    key = out.parent / "benchmark.key"
    key.write_bytes(b"a key for a benchmark of invented patients only")
    run(DeidConfig(key=key, site=source.name, profile=profile), source, out)
    both = list(pairs(source, out))
    with ThreadPoolExecutor(2) as pool:
        before, after = (list(pool.map(errors, side)) for side in zip(*both, strict=True))
    new = [now - then for then, now in zip(before, after, strict=True)]
    return len(both), sum(bool(one) for one in new), sum((Counter(one.keys()) for one in new), Counter())


def main(folders: list[str]) -> None:
    """Print one line a folder and profile, and the new errors."""
    if shutil.which("dciodvfy") is None:
        print("dciodvfy is not installed; nothing was compared")
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if not folders:
            config = PhantomConfig(patients=12, size=64, ct_patients=3, ct_size=(24, 20, 8))
            write_archives(config, work / "cohort")
            folders = [str(work / "cohort" / hospital / "archive") for hospital in config.hospitals]
        table = csv.writer(sys.stdout, delimiter="\t")
        table.writerow(("profile", "folder", "files", "with new errors"))
        for profile in ("research", "basic"):
            for number, folder in enumerate(folders):
                files, worse, new = compare(Path(folder), work / f"{profile}{number}", profile)
                table.writerow((profile, number, files, worse))
                for message, count in new.most_common(20):
                    print(f"    {count} x {message}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MeninxError as error:
        sys.exit(f"{error}\n{__doc__}")
