"""Brain Tumour Segmentation challenges (BraTS): one folder per case with four MR channels and ``seg``.

Layout: ``<case>/<case>_flair.nii.gz``, ``_t1``, ``_t1ce``, ``_t2`` and ``_seg`` (until 2021), or ``-t2f``,
``-t1n``, ``-t1c``, ``-t2w`` and ``-seg`` (from 2023), ``.nii`` or ``.nii.gz``, at any depth below the source.
``channels`` chooses among the four; both generations use one set of names, those of 2021. The values of the
label maps are 1 (necrotic core), 2 (edema) and 4 (enhancing tumour) until 2021, and 1, 2, 3 from 2023. The
paediatric challenge and 2024 have other labels, so a value 4 from 2023 on stops the work: name the values
with ``mask_labels``. Cases without ``seg`` (the validation part) are left out.

The patient is the case, without the number of the examination that ends it from 2023 on
(``BraTS-GLI-00005-100`` and ``-101`` are one patient).

References:
    Menze et al., The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS), IEEE TMI 2015.
    Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 Benchmark, arXiv:2107.02314.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from meninx.core.errors import LayoutError, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import mask_labels
from meninx.prepare.readers.channels import positions_of
from meninx.prepare.readers.source_files import files_below, relative
from meninx.prepare.source_cases import ChannelSource, FileSource, ReaderOutput, SourceCase

CHANNELS = ("flair", "t1", "t1ce", "t2")
_NEW = {"t2f": "flair", "t1n": "t1", "t1c": "t1ce", "t2w": "t2"}
_FILE = re.compile(
    r"(?P<case>.+?)(?:_(?P<old>flair|t1|t1ce|t2|seg)|-(?P<new>t2f|t1n|t1c|t2w|seg))\.nii(?:\.gz)?",
    re.DOTALL,
)
_EXAMINATION = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d{3}")
_PAEDIATRIC = "BraTS-PED"
LABELS = ("necrotic core", "edema", "enhancing tumour")
_OLD_VALUES, _NEW_VALUES = (1, 2, 4), (1, 2, 3)


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per folder with a label map.

    Raises:
        LayoutError: no file is named as published, files of both generations, two files for one channel, or
            paediatric cases without ``mask_labels``.
        ConfigError: ``mask_labels`` or ``channels`` name something that the layout does not have.
    """
    found, new = _cases(root)
    labels = _labels(config, found, new=new)
    positions = positions_of(config.images.channels, CHANNELS, where="channels")
    wanted = [CHANNELS[position] for position in positions]
    skipped: list[tuple[str, str]] = []
    cases = []
    for number, ((folder, name), paths) in enumerate(found.items(), start=1):
        where = f"case {number} of {len(found)}"
        if "seg" not in paths or any(channel not in paths for channel in wanted):
            reason = "image without a label map" if "seg" not in paths else "case without all channels"
            skipped.append((reason, where))
            continue
        examination = _EXAMINATION.fullmatch(name)
        cases.append(
            SourceCase(
                key=relative(folder / name, root),
                patient=examination[1] if examination else name,
                study=name if examination else "",
                image=ChannelSource(tuple(FileSource(paths[channel]) for channel in wanted), where),
                mask=FileSource(paths["seg"]),
                mask_values=labels.values,
                where=where,
            )
        )
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels.names,
        task=TaskKind.SEGMENTATION,
        skipped=tuple(skipped),
        spatial_dims=3,
        channels=tuple(wanted),
    )


def _cases(root: Path) -> tuple[dict[tuple[Path, str], dict[str, Path]], bool]:
    """Return the files of each case by channel, and whether they use the names of 2023."""
    found: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    generations = set()
    for path in sorted(files_below(root, (".nii", ".nii.gz"))):
        match = _FILE.fullmatch(path.name)
        if match is None or path.name.startswith(".") or not path.is_file():
            continue
        generations.add(match["new"] is not None)
        channel = match["old"] or _NEW.get(match["new"], match["new"])
        paths = found[path.parent, match["case"]]
        if channel in paths:
            fix = "keep either .nii or .nii.gz"
            raise LayoutError(problem(f"a case has two files for {channel}", where="source", fix=fix))
        paths[channel] = path
    if not found:
        what = "files <case>_flair.nii.gz (until 2021) or <case>-t2f.nii.gz (from 2023)"
        raise LayoutError(problem(f"no {what}", where=f"folder {root.name}", fix="check the path"))
    if len(generations) > 1:
        fix = "prepare them apart: the values of their label maps differ"
        raise LayoutError(problem("files of two generations of BraTS lie here", where="source", fix=fix))
    return dict(found), generations.pop()


def _labels(
    config: PrepareConfig, found: dict[tuple[Path, str], dict[str, Path]], *, new: bool
) -> mask_labels.MaskLabels:
    published = dict(zip(LABELS, _NEW_VALUES if new else _OLD_VALUES, strict=True))
    values = [entry.rpartition("=")[2] for entry in config.masks.labels if "=" in entry]
    own = bool(values) and len(values) == len(config.masks.labels) and all(map(str.isdigit, values))
    paediatric = any(name.startswith(_PAEDIATRIC) for _, name in found)
    if own and (paediatric or not {*map(int, values)} <= {*published.values()}):
        return mask_labels.of_values(config.masks.labels)
    if paediatric:
        fix = "give mask_labels as name=value"
        raise LayoutError(problem("paediatric cases have labels of their own", where="BraTS-PED", fix=fix))
    return mask_labels.of_names(config.masks.labels, published, where="BraTS")
