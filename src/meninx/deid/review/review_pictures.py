"""Pictures of layouts for the page of the review: before from the source, after from the clean folder.

They are made when they are asked for, and the latest ones are kept in memory. A picture is addressed by the
index of a layout and of one of its images, never by a path of a request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from meninx.core import files, workspace
from meninx.deid.review import layout_sheet
from meninx.deid.review.layouts import TextLayout
from meninx.imaging.decode import quiet

_KEPT_BYTES = 128 << 20
_SMALL = 320  # pixels of the longer side of a picture on the list
_PNG = b"\x89PNG\r\n\x1a\n"


class ReviewPictures:
    """Pictures of the layouts of one folder.

    Args:
        root: the clean folder.
        source: folder of the originals; None to show what the run wrote beside its sheet.
    """

    def __init__(self, root: Path, source: Path | None) -> None:
        self._root, self._source = root, source
        self._kept: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()  # a decoder may be used by one thread at a time

    def before(self, layout: TextLayout, *, small: bool = False) -> bytes:
        """Return the first image of a layout as it came in, as PNG; empty if it cannot be shown."""
        kind = "small" if small else layout_sheet.BEFORE
        return self._made((layout.layout, kind, 0), lambda: self._before(layout, small=small))

    def after(self, layout: TextLayout, number: int) -> bytes:
        """Return an image of a layout as it was written, as PNG; empty if there is none."""
        if not 0 <= number < len(layout.outputs):
            return b""
        name = layout.outputs[number]
        return self._made(
            (layout.layout, layout_sheet.AFTER, number),
            lambda: layout_sheet.png(layout_sheet.after_picture(self._root, name)),
        )

    def _before(self, layout: TextLayout, *, small: bool) -> bytes:
        longest = _SMALL if small else 0
        if self._source is not None:
            return layout_sheet.png(layout_sheet.before_picture(self._source, layout), longest)
        private = self._root / workspace.PRIVATE
        content = files.read_bytes(layout_sheet.picture_path(private, layout.layout, layout_sheet.BEFORE))
        return content if content.startswith(_PNG) else b""

    def _made(self, key: tuple[str, str, int], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            try:
                with quiet():
                    content = make()
            except Exception:  # an image that no decoder reads is shown as such
                content = b""
            self._kept[key] = content
            while sum(map(len, self._kept.values())) > _KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
            return content
