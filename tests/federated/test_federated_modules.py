"""The table of the package names every module, and no module that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from meninx import federated


def test_the_table_of_the_package_names_its_modules() -> None:
    folder = Path(federated.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    text = federated.__doc__ or ""
    assert modules <= set(re.findall(r"[a-z_]+", text))
    rows = {name for line in text.splitlines() if (name := line.partition("``")[2].partition("``")[0])}
    assert {name for name in rows if re.fullmatch(r"[a-z_]+", name)} <= modules
