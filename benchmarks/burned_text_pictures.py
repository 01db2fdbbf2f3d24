"""Pictures with known text in them, made for choosing and for measuring the search for burned-in text.

Each picture is one frame of 768 x 1024 pixels, like those of an ultrasound device: a sector of speckle on
black (or a radiograph-like gradient), lines of text that identify an invented patient, and technical labels.
The two halves, ``choose`` and ``measure``, share neither names nor random numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from meninx.imaging.ocr import Box

ROWS, COLUMNS = 768, 1024
_FONTS = Path(mpl.get_data_path()) / "fonts/ttf"
_FACES = {
    "choose": ("DejaVuSans.ttf", "DejaVuSansMono-Bold.ttf", "STIXGeneral.ttf", "cmss10.ttf"),
    "measure": (
        "DejaVuSans-Bold.ttf",
        "DejaVuSansMono.ttf",
        "DejaVuSerif.ttf",
        "STIXGeneralBol.ttf",
        "cmtt10.ttf",
    ),
}
_CYRILLIC_FACES = {"choose": ("DejaVuSans.ttf",), "measure": ("DejaVuSans-Bold.ttf", "DejaVuSerif.ttf")}
_NAMES = {
    "choose": [
        "HALVORSEN",
        "Bettina",
        "OKONKWO",
        "Ljubica",
        "PEMBERTON",
        "Xiomara",
        "VAN DER MEER",
        "Tadeusz",
    ],
    "measure": [
        "QUENTINSSON",
        "Araminta",
        "MBEKI-ROWE",
        "Fjodor",
        "DE OLIVEIRA",
        "Saoirse",
        "NAKASHIMA",
        "Ottoline",
    ],
}
_CYRILLIC = {"choose": ["Сидорова Анна", "Петров Игорь"], "measure": ["Кузнецова Ольга", "Морозов Пётр"]}
_PLACES = {
    "choose": ["St Brendan Hospital", "KLINIKUM WALDAU", "Harbour Clinic"],
    "measure": ["Ashgrove Infirmary", "HOPITAL SAINT-AVIT", "Linden Medical Centre"],
}
_TECHNICAL = {
    "choose": ["MI 1.2", "TIS 0.4", "12.5 cm", "3.5 MHz", "Gain 54", "60 dB", "R", "28 Hz", "Depth 16 cm",
               "Frq 5.0", "TIB 0.7", "DR 70", "DLP 312", "2D", "FR 31 Hz"],
    "measure": ["MI 0.9", "TIS 0.2", "8.0 cm", "5.0 MHz", "Gain 62", "72 dB", "L", "41 Hz", "Depth 12 cm",
                "Frq 3.3", "TIB 1.1", "DR 60", "120 kV", "PW", "FR 22 Hz", "mGy 4.1", "12/30"],
}  # fmt: skip


@dataclass
class Line:
    """One line of text in a picture.

    Attributes:
        text: what is written.
        kind: what makes it hard (``plain``, ``dim``, ``8 px`` ...), or ``technical``.
        box: smallest rectangle of its glyphs.
        glyphs: which pixels of the picture belong to its glyphs, shape (rows, columns) of the box.
    """

    text: str
    kind: str
    box: Box
    glyphs: npt.NDArray[np.bool_]


@dataclass
class Page:
    """A picture and the lines in it.

    Attributes:
        picture: uint8, shape (rows, columns, 3), RGB.
        lines: what was written.
    """

    picture: npt.NDArray[np.uint8]
    lines: list[Line] = field(default_factory=list)


KINDS = ("plain", "small", "8 px", "dim", "dim on tissue", "on tissue", "colour", "rotated 90", "rotated 180",
         "rotated 270", "cyrillic", "dark on light", "large")  # fmt: skip


class Writer:
    """Writes lines into a picture at places that are still free."""

    def __init__(self, half: str, seed: int) -> None:
        self.half = half
        self.draw = random.Random(f"{half}/{seed}")
        self.noise = np.random.default_rng([0 if half == "choose" else 1, seed])

    def page(self, kinds: tuple[str, ...] = KINDS, technical: int = 5, *, background: str = "") -> Page:
        """Return a picture with one identifying line of each kind and some technical labels."""
        background = background or self.draw.choice(["sector", "sector", "linear", "radiograph"])
        page = Page(self._background(background))
        for kind in kinds:
            self._place(page, self._identifying(kind), kind)
        for text in self.draw.sample(_TECHNICAL[self.half], technical):
            self._place(page, text, "technical")
        return page

    def _background(self, kind: str) -> npt.NDArray[np.uint8]:
        y, x = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
        if kind == "radiograph":
            grey = 90 + 70 * np.sin(x / 260) * np.cos(y / 210) + self.noise.normal(0, 4, (ROWS, COLUMNS))
        else:
            coarse = self.noise.rayleigh(1, (ROWS // 2, COLUMNS // 3)).repeat(2, 0)
            coarse = np.repeat(coarse, 3, 1)
            coarse = np.pad(coarse, ((0, 0), (0, COLUMNS - coarse.shape[1])), mode="edge")
            grey = coarse * (22 + 18 * np.sin(y / 70) ** 2) + self.noise.normal(0, 3, (ROWS, COLUMNS))
            distance = np.hypot(x - 512, y + 40)
            angle = np.abs(np.arctan2(x - 512, y + 40))
            inside = (distance > 130) & (distance < 720) & (angle < 0.65)
            if kind == "linear":
                inside = (abs(x - 512) < 260) & (y > 90) & (y < 640)
            grey = np.where(inside, grey, 0)
        return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)

    def _identifying(self, kind: str) -> str:
        draw = self.draw
        if kind == "cyrillic":
            return draw.choice(_CYRILLIC[self.half]) + draw.choice(["", f" {draw.randint(1930, 2009)}"])
        first, last = draw.sample(_NAMES[self.half], 2)
        day = f"{draw.randint(1, 28):02d}"
        month = draw.randint(1, 12)
        year = draw.randint(1930, 2012)
        return draw.choice([
            f"{last}^{first}", f"{last}, {first}", f"{first} {last}", f"DOB {day}.{month:02d}.{year}",
            f"{day}/{month:02d}/{year}", f"MRN {draw.randint(10**6, 10**7)}",
            f"ID: {draw.randint(10**5, 10**8)}", draw.choice(_PLACES[self.half]),
            f"{last} {day}-{month:02d}-{year}", f"Dr. {last}",
        ])  # fmt: skip

    def _place(self, page: Page, text: str, kind: str) -> None:
        size, colour = self._look(kind)
        faces = _CYRILLIC_FACES if kind == "cyrillic" else _FACES
        font = ImageFont.truetype(str(_FONTS / self.draw.choice(faces[self.half])), size)
        _, _, right, bottom = font.getbbox(text)
        mask = Image.new("L", (int(right) + 2, int(bottom) + 2))
        ImageDraw.Draw(mask).text((0, 0), text, font=font, fill=255)
        glyphs = np.asarray(mask)
        rows, columns = np.flatnonzero(glyphs.any(1)), np.flatnonzero(glyphs.any(0))
        glyphs = glyphs[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        turns = {"rotated 90": 1, "rotated 180": 2, "rotated 270": 3}.get(kind, 0)
        glyphs = np.ascontiguousarray(np.rot90(glyphs, turns))
        box = self._free(page, glyphs.shape, tissue="tissue" in kind)
        if box is None:
            return
        area = page.picture[box.top : box.bottom, box.left : box.right]
        share = (glyphs.astype(np.float32) / 255)[:, :, None]
        if kind == "dark on light":
            around = box.grown(5, page.picture.shape)
            page.picture[around.top : around.bottom, around.left : around.right] = 215
        area[:] = np.round(area * (1 - share) + np.array(colour, np.float32) * share).astype(np.uint8)
        page.lines.append(Line(text, kind, box, glyphs > 96))

    def _look(self, kind: str) -> tuple[int, tuple[int, int, int]]:
        """Return size in pixels and colour of a line of this kind."""
        draw = self.draw
        white = draw.randint(200, 255)
        if kind == "colour":
            return draw.randint(11, 20), draw.choice(
                [(255, 255, 0), (0, 255, 0), (0, 220, 255), (255, 160, 0), (255, 90, 90), (120, 120, 255)]
            )
        grey = {"dim": draw.randint(60, 90), "dim on tissue": draw.randint(120, 150), "dark on light": 20}
        sizes = {"8 px": (8, 8), "small": (9, 10), "large": (24, 40), "technical": (11, 18)}
        low, high = sizes.get(kind, (11, 20))
        value = grey.get(kind, white)
        return draw.randint(low, high), (value, value, value)

    def _free(self, page: Page, shape: tuple[int, ...], *, tissue: bool) -> Box | None:
        for _ in range(400):
            top, left = (
                self.draw.randint(6, ROWS - shape[0] - 6),
                self.draw.randint(6, COLUMNS - shape[1] - 6),
            )
            box = Box(left, top, left + shape[1], top + shape[0])
            lit = page.picture[box.top : box.bottom, box.left : box.right].mean() > 12
            around = box.grown(14, page.picture.shape)
            if lit == tissue and not any(around.shared(line.box) for line in page.lines):
                return box
        return None
