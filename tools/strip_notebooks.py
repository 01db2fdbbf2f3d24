"""Remove outputs, counters and the kernel's traces from notebooks; exit with 1 when one held some."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Return 1 when a notebook of the command line was changed, else 0."""
    changed = [name for name in sys.argv[1:] if strip(Path(name))]
    if changed:
        print(f"outputs removed from {', '.join(changed)}; add the files again")
    return 1 if changed else 0


def strip(path: Path) -> bool:
    """Return whether ``path`` was rewritten because it held more than text and code."""
    before = path.read_text(encoding="utf-8")
    after = json.dumps(stripped(json.loads(before)), indent=1, ensure_ascii=False) + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8", newline="\n")
    return after != before


def stripped(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook without outputs, execution counts, cell metadata and the version of its kernel."""
    cells = [
        {**cell, "metadata": {}, **({"outputs": [], "execution_count": None} if "outputs" in cell else {})}
        for cell in notebook["cells"]
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        **notebook,
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
    }


if __name__ == "__main__":
    sys.exit(main())
