"""Checks before a verb imports anything slow: paths, the output, the device, and the installed extras.

The stages check again, for those who call them from Python.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

from meninx.cli.doctor import EXTRAS
from meninx.core import artifacts, files, workspace
from meninx.core.errors import ConfigError, DataError, UsageError, problem


def dataset(folder: Path | None) -> None:
    """Refuse a folder that is no prepared dataset; None passes.

    Raises:
        LayoutError: ``manifest.csv`` or ``dataset.toml`` is missing; names it.
    """
    from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Manifest

    if folder is not None and not all((folder / name).is_file() for name in (INFO_NAME, MANIFEST_NAME)):
        Manifest.read(folder)


def runs(*folders: Path | None) -> None:
    """Refuse a folder that is no run; None passes.

    Raises:
        UsageError: it is none.
    """
    from meninx.core.run import open_run

    for folder in folders:
        if folder is not None:
            open_run(folder)


def model(folder: Path) -> None:
    """Refuse a folder that holds no trained model.

    Raises:
        UsageError: it is no run, no release and no bundle.
    """
    record = artifacts.place(artifacts.BundleRecord)
    marks = (record, f"bundle/{record}", "config.toml", artifacts.place(artifacts.RunRecord))
    if not any((folder / name).is_file() for name in marks):
        what = "this folder holds no trained model" if folder.exists() else "there is no such folder"
        fix = "give a run folder, its release/ or release/bundle"
        raise UsageError(problem(what, where=str(folder), fix=fix))


def exists(*paths: Path | None) -> None:
    """Refuse a path that leads nowhere; None passes.

    Raises:
        DataError: there is no file or folder.
    """
    for path in paths:
        if path is not None and not path.exists():
            raise DataError(problem("there is no such file or folder", where=str(path), fix="check the path"))


def pretrained(setting: str) -> None:
    """Refuse a file of weights that does not exist; an empty setting and a package's name pass.

    Raises:
        DataError: there is no such file.
    """
    if setting and not setting.startswith("package:") and not Path(setting).is_file():
        fix = "check the path; `package:NAME` names an installed package"
        raise DataError(problem("there is no such file of weights", where=f"pretrained: {setting}", fix=fix))


def network(name: str, data: Path) -> None:
    """Refuse the name of a network that does not exist, and one of ours for another task than the dataset's.

    Args:
        name: of the network; ``auto`` passes.
        data: prepared dataset.

    Raises:
        ConfigError: it is unknown, or for another task.
        LayoutError: ``dataset.toml`` cannot be read.
    """
    from meninx.core.manifest import INFO_NAME, read_info
    from meninx.learn.config import AUTO_MODEL
    from meninx.models import network_names

    if name == AUTO_MODEL:
        return
    network_names.refuse_unknown(name)
    if name.startswith(network_names.MONAI_PREFIX) and (known := network_names.names_of_monai()):
        network_names.refuse_unknown_of_monai(name.removeprefix(network_names.MONAI_PREFIX), known)
    if (data / INFO_NAME).is_file():  # else :func:`dataset` refuses the folder
        network_names.refuse_other_task(name, read_info(data).task)


def same_task(data: Path | None, *folders: Path | None) -> None:
    """Refuse a dataset of another task than that of a run, where the run's bundle says what it is for.

    Args:
        data: prepared dataset; None for that of the first run.
        *folders: run folders; None passes.

    Raises:
        DataError: the tasks differ, or a record is damaged.
    """
    from meninx.core.manifest import read_info, refuse_other_task
    from meninx.core.run import Run

    bundles = [Run(folder).release / "bundle" for folder in folders if folder is not None]
    records = [
        record for bundle in bundles if (record := artifacts.read(bundle, artifacts.BundleRecord)) is not None
    ]
    if data is None and not records:
        return
    here = read_info(data) if data is not None else records[0].info
    for record in records:
        refuse_other_task(record.info, here)


def result(out: Path, *sources: Path, stage: str, replaced: bool) -> None:
    """Refuse an output folder that the stage itself would refuse whatever its settings are.

    Args:
        out: the folder.
        *sources: folders that the stage reads.
        stage: name of the stage.
        replaced: ``--resume`` or ``--overwrite`` is given.

    Raises:
        UsageError: it lies in a source, holds other files, or a complete result and not ``replaced``.
    """
    workspace.check(out, stage=stage, fingerprint="", sources=sources, overwrite=replaced)


def new_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that exists already, unless ``overwrite`` is set, and a link, device, pipe or folder.

    Raises:
        UsageError: it exists.
    """
    files.refuse_special(path)
    if path.exists() and not overwrite:
        fix = "give --overwrite or another name"
        raise UsageError(problem("the file exists already", where=str(path), fix=fix))


def extra(*names: str) -> None:
    """Refuse a verb whose packages are not installed; nothing is imported.

    Raises:
        UsageError: a package of an extra is missing; names it and the command that installs it.
    """
    for name in names:
        missing = next((item for item in EXTRAS[name] if importlib.util.find_spec(item) is None), None)
        if missing is not None:
            raise UsageError(missing_extra(name, missing))


def missing_extra(name: str, missing: str) -> str:
    """Return the message about a package of an extra that is not installed."""
    what = f"the extra {name} is not installed ({missing} is missing)"
    return problem(what, where="verb", fix=f"pip install 'meninx[{name}]'")


def device(word: str) -> None:
    """Refuse a device that the installed PyTorch cannot use; torch is not imported.

    Raises:
        ConfigError: PyTorch was built without it.
    """
    fix = "use --device auto"
    if word.startswith("cuda") and metadata.version("torch").endswith("+cpu"):
        fix = "use --device auto, or install a build of PyTorch for CUDA"
        raise ConfigError(problem("the installed PyTorch has no CUDA", where=f"device {word}", fix=fix))
    if word == "mps" and sys.platform != "darwin":
        raise ConfigError(problem("only Apple computers have mps", where="device mps", fix=fix))
