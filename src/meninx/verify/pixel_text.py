"""Text in the pixels of one file: an identifier in it is a leak, technical text is nothing."""

from __future__ import annotations

from collections.abc import Iterator

from meninx.deid.burned_in import burned_text
from meninx.deid.burned_in.burned_text import Reader, TextLine, TextRule
from meninx.deid.identifiers import Identifiers
from meninx.dicomfile import frames
from meninx.dicomfile.frames import Layers
from meninx.dicomfile.instance import Instance
from meninx.dicomfile.refusals import Refused
from meninx.verify.dicom_findings import FileFinding
from meninx.verify.known_values import CERTAIN, KnownValues

PLACE, UNREAD = "PixelData", "pixel-text-unread"
_READ, _LETTERS = 0.8, 3  # confidence and letters from which a large find is text


def findings(one: Instance, own: Identifiers, known: KnownValues, reader: Reader) -> Iterator[FileFinding]:
    """Yield whether text is read in the frames of an instance, and whether it identifies.

    Args:
        one: an instance with pixel data.
        own: identifiers of its own patient; empty where the original is not known.
        known: identifiers of everybody.
        reader: how text is found and read.

    Raises:
        UsageError: the extra ``ocr`` is not installed.
    """
    try:
        layers = frames.layers_of(one)
        if not burned_text.can_hold_text(layers):
            return
        found = burned_text.lines(one, layers, TextRule(own), reader)
    except Refused:
        yield FileFinding(UNREAD, PLACE)
        return
    texts = [line.text for line in found if not line.technical and _is_text(line, layers)]
    # All lines as one text, too: a name and its parts may be found as several lines.
    if any(own.found_in(text) or known.hit(text) == CERTAIN for text in (*texts, " ".join(texts))):
        yield FileFinding("identifier-in-pixels", PLACE)
    elif texts:
        yield FileFinding("text-in-pixels", PLACE)


def _is_text(line: TextLine, layers: Layers) -> bool:
    """Return whether a find is text: one as large as half of a small picture, only if it can be read.

    In pictures of 64 pixels, the outline of a chest resembles a letter.
    """
    large = 2 * line.box.height > layers.rows and 2 * line.box.width > layers.columns
    return not large or (line.confidence >= _READ and sum(map(str.isalnum, line.text)) >= _LETTERS)
