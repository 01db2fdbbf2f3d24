"""What the torch-free part needs of an operating system: stories on Linux with the POSIX modules taken away.

Windows has no ``fcntl``. Continuous integration runs the torch-free tests there; here the same is tried
beforehand, and mypy reads the source as Windows and macOS would (slow).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meninx.synthetic import PhantomConfig, write_archives

ROOT = Path(__file__).resolve().parents[2]
# filelock itself chooses between the locks of POSIX and Windows by sys.platform, so its os.fchmod stays.
WITHOUT_POSIX = """
import importlib.abc, os, signal, sys

ABSENT = {"fcntl", "resource", "grp", "pwd", "termios", "tty", "pty", "syslog", "readline",
          "torch", "monai", "scipy"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ABSENT:
    assert name not in sys.modules or name == "pwd", name
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for name in ("geteuid", "getuid", "getgid", "fchown", "chown", "lchown", "mkfifo", "sched_getaffinity",
             "sysconf", "statvfs", "getpgid", "setsid", "killpg", "pread", "pwrite", "nice", "fork", "sync",
             "fdatasync", "getloadavg", "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGPIPE"):
    delattr(signal, name)

from meninx.cli.app import run
for line in sys.argv[1:]:
    assert run(line.split()) == 0, line
"""


def meninx(folder: Path, *lines: str) -> str:
    """Return what commands print that must succeed without the POSIX modules, one process for all of them."""
    command = [sys.executable, "-W", "ignore:only soft file lock:UserWarning", "-c", WITHOUT_POSIX, *lines]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_archive_becomes_a_dataset_without_the_modules_of_posix(tmp_path: Path) -> None:
    cohort = PhantomConfig(patients=3, hospitals=("north",), size=64, ct_patients=0)
    write_archives(cohort, tmp_path / "hospitals")
    out = meninx(
        tmp_path,
        "--help",
        "deid hospitals/north/archive clean --key north.key --site north --new-key --workers 1",
        "prepare clean data --reader dicom --modalities DX --size 64 64 --table "
        "../hospitals/north/labels.csv "
        "--crosswalks private/crosswalk_uids.csv --label-columns effusion nodule --split exact --workers 1",
    )
    assert "deid" in out
    assert (tmp_path / "data" / "manifest.csv").is_file()


def test_a_module_of_posix_would_be_seen(tmp_path: Path) -> None:
    faulty = WITHOUT_POSIX.replace("from meninx.cli.app import run", "import fcntl")
    done = subprocess.run([sys.executable, "-c", faulty], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'fcntl'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_the_source_uses_only_what_a_platform_has(platform: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--platform",
        platform,
        "--cache-dir",
        str(tmp_path / "cache"),
        "src",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, MYPYPATH="src")
    )
    assert done.returncode == 0, done.stdout


def test_the_torch_free_tests_leave_out_what_imports_more() -> None:
    spec = importlib.util.spec_from_file_location("torch_free_tests", ROOT / "tools" / "torch_free_tests.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.needs_more("import numpy as np\nfrom sklearn.metrics import roc_auc_score\n")
    assert tool.needs_more("from meninx import train\n")
    assert not tool.needs_more(
        "from meninx.deid.identity.keys import SiteKey\n\ndef test_a():\n    import torch\n"
    )
    folders = [ROOT / "tests" / name for name in tool.FOLDERS]
    files = [path for folder in folders for path in folder.rglob("test_*.py")]
    chosen = [path for path in files if not tool.needs_more(path.read_text(encoding="utf-8"))]
    assert len(chosen) >= 0.7 * len(files)
