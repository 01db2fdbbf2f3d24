"""Hooks of the documentation site: pages from the top of the repository, and no remote files.

``ARCHITECTURE.md`` and its siblings stay where readers of the source look for them. On the site they are
pages below ``project/``, and links from and to them are rewritten. Links to other files of the repository
become their path, since the site does not know where the repository is hosted.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROJECT_PAGES = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "THREAT_MODEL.md": "project/threat-model.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"'](?:https?:)?//[^\"']+"
    r"|<link\b[^>]*\brel=[\"'](?:stylesheet|preconnect|preload)[\"'][^>]*\bhref=[\"'](?:https?:)?//[^\"']+"
    r"|<link\b[^>]*\bhref=[\"'](?:https?:)?//[^\"']+[\"'][^>]*\brel=[\"'](?:stylesheet|preconnect|preload)"
    r"|@import\s+(?:url\()?[\"']?(?:https?:)?//[^\"')]+|url\([\"']?(?:https?:)?//[^\"')]+"
)
log = logging.getLogger("mkdocs.hooks.meninx")


def on_files(files: Any, config: Any) -> Any:
    """Return the site's files with the pages from the top of the repository added."""
    from mkdocs.structure.files import File

    for source, page in PROJECT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, source=source, page=page)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Return the text of a page with links to files outside ``docs/`` rewritten."""
    name = page.file.src_uri
    return (
        markdown if name in PROJECT_PAGES.values() else relinked(markdown, source=f"docs/{name}", page=name)
    )


def on_post_build(*, config: Any) -> None:
    """Warn, which fails a strict build, when a page would load something over the network."""
    site = Path(config["site_dir"])
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for found in foreign(path.read_text(encoding="utf-8")):
            log.warning("%s loads from elsewhere: %s", path.relative_to(site), found)


def relinked(markdown: str, *, source: str, page: str) -> str:
    """Return Markdown whose relative links lead to pages of the site.

    Args:
        markdown: the text as it stands in the repository.
        source: its path in the repository, e.g. ``docs/index.md``.
        page: its path in the site's sources, e.g. ``index.md``.
    """

    def rewritten(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        inside = PROJECT_PAGES.get(place) or (
            place.removeprefix("docs/") if place.startswith("docs/") else ""
        )
        if not inside:
            return text if text == f"`{place}`" else f"{text} (`{place}`)"
        link = posixpath.relpath(inside, posixpath.dirname(page) or ".")
        return f"{picture}[{text}]({link}{anchor or ''})"

    return LINK.sub(rewritten, markdown)


def foreign(text: str) -> list[str]:
    """Return the scripts, styles, fonts and pictures that a page or style sheet loads from another host."""
    return LOADED.findall(text)
