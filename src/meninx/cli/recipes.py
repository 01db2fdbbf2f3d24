"""``meninx recipes``: list, show, copy and convert recipes, and print their JSON schema."""

from __future__ import annotations

import json
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import tomli_w
from cyclopts import Parameter

from meninx.core import check, files, settings
from meninx.core.errors import UsageError, expected, problem


def recipes(
    name: str | None = None,
    /,
    *,
    copy: Path | None = None,
    convert: Path | None = None,
    schema: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """List the packaged recipes, show one, or copy one to a file for editing.

    Args:
        name: Recipe to show; without a name all recipes are listed. With --schema, the command of the
            recipes: train, prepare, deid, obfuscate, report or sweep.
        copy: New file to write to instead of the terminal.
        convert: Recipe or config.toml of an earlier version to print in the present tables.
        schema: Print the JSON schema of recipes, which editors use for completion and checks.
    """
    if schema and convert is not None:
        raise UsageError("--schema and --convert exclude each other")
    if copy is not None and name is None and convert is None and not schema:
        raise UsageError("--copy needs the name of a recipe; `meninx recipes` lists them")
    if convert is not None and name is not None:
        raise UsageError("--convert takes a file; leave the name of a packaged recipe out")
    if schema:
        check.one_of(kinds := _kinds(), verb=name or "train")
        _put(json.dumps(settings.schema(kinds[name or "train"]), indent=2) + "\n", copy)
    elif convert is not None:
        _put(_converted(convert), copy)
    elif name is None:
        for known in settings.every_recipe():
            print(f"{known:22} {_text(known).splitlines()[0].removeprefix('#').strip()}")
    elif name not in settings.every_recipe():
        fix = check.did_you_mean(name, settings.every_recipe()) or "`meninx recipes` lists them"
        raise UsageError(
            expected("the name of a packaged recipe", got=repr(name), where="meninx recipes", fix=fix)
        )
    else:
        _put(_text(name), copy)


def _kinds() -> dict[str, type[settings.Settings]]:
    """Return the config of every verb that takes recipes."""
    from meninx.deid.config import DeidConfig
    from meninx.obfuscate.config import ObfuscateConfig
    from meninx.prepare.config import PrepareConfig
    from meninx.report.config import ReportConfig
    from meninx.train.config import SweepConfig, TrainConfig

    return {
        "train": TrainConfig,
        "prepare": PrepareConfig,
        "deid": DeidConfig,
        "obfuscate": ObfuscateConfig,
        "report": ReportConfig,
        "sweep": SweepConfig,
    }


def _converted(path: Path) -> str:
    """Return a recipe in tables, with the comment at its head; refuses keys that no setting has."""
    table, source = settings.read_recipe(str(path))
    kinds = _kinds()
    kind = next((kind for kind in kinds.values() if settings.knows(kind, table)), kinds["train"])
    values = settings.to_plain(settings.arranged(kind, table, source))
    lines = files.read_text(path, limit=settings.LIMIT).splitlines()
    head = [f"{line}\n" for line in takewhile(lambda line: line.startswith("#"), lines)]
    tables = settings.tables(kind)
    order = [*(name for name in values if name not in tables), *tables]
    found = {name: values[name] for name in order if values.get(name) is not None}
    return "".join(head) + tomli_w.dumps(found)


def _put(text: str, path: Path | None) -> None:
    """Print a text, or write it to a new file and print the file's name."""
    if path is None:
        print(text, end="")
    elif path.exists():
        raise UsageError(problem("the file exists", where=str(path), fix="choose another name"))
    else:
        files.write_text(path, text)
        print(path)


def _text(name: str) -> str:
    return (resources.files("meninx.recipes") / f"{name}.toml").read_text(encoding="utf-8")
