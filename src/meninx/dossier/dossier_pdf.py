"""The dossier as PDF, with the rows of the page; equal records give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from meninx.core.dossier_records import PDF, DossierRecord
from meninx.core.errors import DataError, UsageError, problem
from meninx.dossier import dossier_page
from meninx.dossier.headings import NO_CLAIM

LIBRARIES = ("reportlab", "matplotlib")
"""What draws the PDF, and whose fonts it holds: another version may draw other bytes."""
_MARGIN, _WIDTH = 54, 595 - 108  # points on A4
_LEAST = 110  # points below a heading, else it goes to the next page
_SANS, _BOLD = "DejaVuSans", "DejaVuSans-Bold"
_MOST = 600  # characters of a cell in one row, which then is lower than half a page
_Cell = Sequence[tuple[str, str]]
"""Texts of a table's cell, each with the name of its style."""
_INK, _SOFT, _LINE, _BAND = "#1b2430", "#5a6675", "#d8dee6", "#fff3e6"


def render(record: DossierRecord) -> bytes:
    """Return the PDF.

    Raises:
        UsageError: reportlab is not installed.
        DataError: a text does not fit on a page.
    """
    try:
        from reportlab.lib.pagesizes import A4
        from reportlab.platypus import SimpleDocTemplate
        from reportlab.platypus.doctemplate import LayoutError
    except ImportError as error:
        fix = "pip install 'meninx[dossier]'"
        raise UsageError(problem("reportlab is not installed", where="dossier", fix=fix)) from error
    styles = _styles()
    stream = io.BytesIO()
    document = SimpleDocTemplate(
        stream,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN,
        title=record.title,
        author="meninx",
        invariant=1,  # no time and no random identifier in the file
        pageCompression=0,  # builds of zlib compress to other bytes
    )
    footer = f"run {record.run}, {record.date}"

    def numbered(canvas: Any, _: Any) -> None:
        canvas.setFont(_SANS, 7)
        canvas.setFillColor(_SOFT)
        canvas.drawString(_MARGIN, 30, footer)
        canvas.drawRightString(_MARGIN + _WIDTH, 30, str(canvas.getPageNumber()))

    try:
        document.build(_story(record, styles), onFirstPage=numbered, onLaterPages=numbered)
    except LayoutError as error:
        raise DataError(problem("a text does not fit on a page", where=PDF)) from error
    return stream.getvalue()


def _styles() -> dict[str, Any]:
    """Return the paragraph styles, with fonts that hold Latin, Greek and Cyrillic letters."""
    import matplotlib as mpl
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    for name in (_SANS, _BOLD):
        pdfmetrics.registerFont(TTFont(name, str(fonts / f"{name}.ttf")))
    base: dict[str, Any] = {"fontName": _SANS, "textColor": _INK, "splitLongWords": 1}
    return {
        "h1": ParagraphStyle("h1", **base | {"fontName": _BOLD}, fontSize=17, leading=21, spaceAfter=4),
        "h2": ParagraphStyle(
            "h2",
            **base | {"fontName": _BOLD},
            fontSize=11.5,
            leading=15,
            spaceBefore=14,
            spaceAfter=4,
        ),
        "h3": ParagraphStyle(
            "h3",
            **base | {"fontName": _BOLD},
            fontSize=9,
            leading=12,
            spaceBefore=8,
            spaceAfter=3,
        ),
        "text": ParagraphStyle("text", **base, fontSize=8.5, leading=12, spaceAfter=3),
        "cell": ParagraphStyle("cell", **base, fontSize=7.6, leading=10),
        "strong": ParagraphStyle("strong", **base | {"fontName": _BOLD}, fontSize=7.6, leading=10),
        "soft": ParagraphStyle("soft", **base | {"textColor": _SOFT}, fontSize=6.8, leading=9),
    }


def _story(record: DossierRecord, styles: dict[str, Any]) -> list[Any]:
    signed = "unsigned" if record.signer == "unsigned" else f"signed by key {record.signer}"
    story = [
        _text(record.title, styles["h1"]),
        _text(f"Run {record.run}, {record.date}, {signed}", styles["soft"]),
        *_warnings(record, styles),
        *_heading("At a glance", styles["h2"]),
        _facts(dossier_page.glance(record), styles),
        _text(dossier_page.DECISION, styles["text"]),
    ]
    for part in record.parts:
        story += [
            *_heading(part.title, styles["h2"]),
            _facts([dossier_page.row(fact) for fact in part.facts], styles),
        ]
    story += _heading("What nobody can check from this folder alone", styles["h2"])
    story += [_text(f"• {item}", styles["text"]) for item in record.limits]
    story += [*_heading("Headings of norms", styles["h2"]), _text(NO_CLAIM, styles["text"])]
    for norm, found in dossier_page.norms(record):
        rows = [
            (
                [(item.clause, "strong"), (item.title, "soft")],
                [(dossier_page.evidence_words(item, record), "cell")],
                [(item.question, "cell")],
            )
            for item in found
        ]
        story += [
            *_heading(norm, styles["h3"]),
            _grid(("heading", "evidence", dossier_page.OPEN), rows, (0.26, 0.42, 0.32), styles),
        ]
    story += _heading("Files that the facts come from", styles["h2"])
    files = [
        (
            [(item.path, "cell"), (f"{item.kind}, {item.size:,} bytes", "soft")],
            [(item.about, "cell")],
            [(item.sha256, "soft")],
        )
        for item in record.evidence
    ]
    story.append(_grid(("file", "what it is", "SHA-256"), files, (0.42, 0.22, 0.36), styles))
    return story


def _warnings(record: DossierRecord, styles: dict[str, Any]) -> list[Any]:
    from reportlab.platypus import Spacer, Table, TableStyle

    if not record.warnings:
        return [Spacer(1, 6), _text(dossier_page.NOTHING, styles["text"])]
    texts = [("Before you decide", "strong"), *((f"• {item}", "text") for item in record.warnings)]
    pieces = [piece for text in texts for piece in _pieces([text])]
    box = Table([[_drawn(piece, styles)] for piece in pieces], colWidths=[_WIDTH])
    box.setStyle(TableStyle([("BACKGROUND", (0, 0), (-1, -1), _BAND), ("LEFTPADDING", (0, 0), (-1, -1), 8)]))
    return [Spacer(1, 8), box]


def _facts(rows: Iterable[dossier_page.DossierRow], styles: dict[str, Any]) -> Any:
    cells = [
        (
            [(item.words, "cell")],
            [
                (item.value, "strong" if item.shown else "soft"),
                *([(item.remark, "soft")] if item.remark else []),
            ],
            [(item.source or "no file", "soft")],
        )
        for item in rows
    ]
    return _grid(("what", "value", "file in this folder"), cells, (0.34, 0.38, 0.28), styles)


def _grid(
    columns: Sequence[str], rows: Sequence[Sequence[_Cell]], shares: Sequence[float], styles: dict[str, Any]
) -> Any:
    from reportlab.platypus import LongTable, TableStyle

    head = [_text(name, styles["soft"]) for name in columns]
    lines = [[_drawn(cell, styles) for cell in line] for line in chain.from_iterable(map(_broken, rows))]
    table = LongTable(
        [head, *lines],
        colWidths=[share * _WIDTH for share in shares],
        repeatRows=1,
        splitInRow=1,
        hAlign="LEFT",
    )
    table.setStyle(
        TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LINEBELOW", (0, 0), (-1, -1), 0.4, _LINE),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("RIGHTPADDING", (0, 0), (-1, -1), 6),
                ("TOPPADDING", (0, 0), (-1, -1), 2),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
            ]
        )
    )
    return table


def _broken(row: Sequence[_Cell]) -> Iterator[list[_Cell]]:
    """Yield the rows that a row becomes: a row whose cells are higher than a page cannot be drawn."""
    yield from map(list, zip_longest(*map(_pieces, row), fillvalue=()))


def _pieces(cell: _Cell) -> Iterator[_Cell]:
    """Yield a cell in pieces of at most ``_MOST`` characters, broken between words where that is possible."""
    room = _MOST
    piece: list[tuple[str, str]] = []
    for text, style in cell:
        left = text
        if piece and room < _MOST // 10 and len(left) > room:
            yield tuple(piece)
            room, piece = _MOST, []
        while len(left) > room:
            end = max(left.rfind(mark, 0, room) + len(mark) for mark in ("; ", ", ", " "))
            end = end if end > room // 2 else room
            yield (*piece, (left[:end], style))
            left, room, piece = left[end:], _MOST, []
        piece.append((left, style))
        room -= len(left)
    yield tuple(piece)


def _drawn(cell: _Cell, styles: dict[str, Any]) -> list[Any]:
    return [_text(text, styles[style]) for text, style in cell]


def _heading(text: str, style: Any) -> list[Any]:
    """Return a heading that does not stand alone at the foot of a page."""
    from reportlab.platypus import CondPageBreak

    return [CondPageBreak(_LEAST), _text(text, style)]


def _text(text: str, style: Any) -> Any:
    """Return a paragraph that shows a text as it is: reportlab reads paragraphs as markup."""
    from reportlab.platypus import Paragraph

    return Paragraph(escape(text), style)
