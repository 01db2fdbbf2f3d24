"""``meninx recipes``: list, show and copy the packaged recipes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from meninx.core import check, files, settings
from meninx.core.errors import UsageError, expected


def recipes(name: str | None = None, /, *, copy: Path | None = None) -> None:
    """List the packaged recipes, show one, or copy one to a file to change it.

    Args:
        name: Recipe to show; all are listed without it.
        copy: File to write the recipe to; must not exist.
    """
    if name is None:
        for known in settings.recipe_names():
            print(f"{known:22} {_first_comment(known)}")
        return
    if name not in settings.recipe_names():
        fix = check.did_you_mean(name, settings.recipe_names()) or "`meninx recipes` lists them"
        raise UsageError(
            expected("the name of a packaged recipe", got=repr(name), where="meninx recipes", fix=fix)
        )
    text = (resources.files("meninx.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    if copy is None:
        print(text, end="")
    elif copy.exists():
        raise UsageError(
            expected("a new file", got="an existing one", where=str(copy), fix="choose another name")
        )
    else:
        files.write_text(copy, text)
        print(copy)


def _first_comment(name: str) -> str:
    text = (resources.files("meninx.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    return text.splitlines()[0].removeprefix("#").strip()
