"""Write constraints.txt from the packages of this environment."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

HEADER = """\
# Versions that were tested together on Python 3.11; `make` installs with them. \
Regenerate with `make constraints`.
# Flower 1.42, which federated training uses, requires protobuf < 7 and packaging < 26.
"""
CEILINGS = {"protobuf": 7, "packaging": 26}  # major versions that Flower refuses
SKIPPED = {"meninx", "pip", "setuptools", "wheel"}


def main() -> int:
    """Write one ``name==version`` line per package; return 1, writing nothing, when a ceiling is passed."""
    found = {item.metadata["Name"]: re.sub(r"[+].*$", "", item.version) for item in metadata.distributions()}
    high = [
        f"{name} {found[name]}: install {name}<{ceiling}"
        for name, ceiling in CEILINGS.items()
        if name in found and int(found[name].partition(".")[0]) >= ceiling
    ]
    if high:
        print("\n".join(high))
        return 1
    names = sorted((name for name in found if name.lower() not in SKIPPED), key=str.lower)
    text = HEADER + "".join(f"{name}=={found[name]}\n" for name in names)
    (Path(__file__).resolve().parents[1] / "constraints.txt").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
