"""Write constraints.txt from the packages of this environment."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

HEADER = (
    "# Versions that were tested together on Python 3.11; `make` installs with them. Regenerate with "
    "`make constraints`."
)


def main() -> None:
    """Write one ``name==version`` line a package, without local version suffixes and without meninx itself."""
    skip = {"meninx", "pip", "setuptools", "wheel"}
    lines = {
        f"{item.metadata['Name']}=={re.sub(r'[+].*$', '', item.version)}"
        for item in metadata.distributions()
        if item.metadata["Name"].lower() not in skip
    }
    text = "\n".join([HEADER, *sorted(lines, key=str.lower)]) + "\n"
    (Path(__file__).resolve().parents[1] / "constraints.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
