"""Tables in pages of the documentation, between two markers, so that a command can write them again."""

from __future__ import annotations

from pathlib import Path


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` of a page.

    Raises:
        SystemExit: the page does not hold both markers, in this order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = page.read_text(encoding="utf-8")
    if begin not in old or old.find(end) < old.find(begin):
        raise SystemExit(f"expected {begin} before {end} in {page}")
    new = f"{old[: old.index(begin)]}{begin}\n{text}{old[old.index(end) :]}"
    page.write_text(new, encoding="utf-8")
