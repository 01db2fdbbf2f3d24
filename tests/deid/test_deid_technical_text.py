"""Which lines of text in pixels are on the list of technical ones."""

from __future__ import annotations

import pytest

from meninx.deid.burned_in.technical_text import is_technical

TECHNICAL = (
    "MI 1.2", "MI1.2", "TIS 0.4", "12.5 cm", "3.5 MHz", "Gain 54", "60 dB", "R", "L", "28 Hz", "Depth 16 cm",
    "Frq 5.0", "DLP 312 mGy*cm", "2D", "FR 31Hz 2D", "120 kV", "mGy 4.1", "12/30", "MI 1.2 TIS 0.4", "10",
    "AP ERECT", "kV 120 mAs 3.2", "W: 400 L: 40", "Im: 12/30", "60%", "Dyn R 58",
)  # fmt: skip
IDENTIFYING = (
    "Mar", "1957", "12.03.1957", "617 555 0199", "123 456 789", "SMITH A", "A SMITH", "M L SMITH", "MRN 123",
    "12 Mar 1957", "31/12", "5512347", "ID 12", "S12345", "19570312", "12-03-57", "12 34 56", "12.3.57",
    "555-0199", "Кузнецова", "MI SMITH", "R. Linden", "", "L" * 61, "Gain 54 QUENTINSSON", "王芳",
)  # fmt: skip


@pytest.mark.parametrize("text", TECHNICAL)
def test_settings_scales_and_side_markers_stay(text):
    assert is_technical(text)


@pytest.mark.parametrize("text", IDENTIFYING)
def test_names_dates_and_numbers_go(text):
    assert not is_technical(text)
    assert not is_technical(text, measurements=True)


def test_measurements_stay_on_request():
    for text in ("Dist 3.45 cm", "BPD 45.1 mm", "1 L 4.2 cm", "EF 55 %"):
        assert is_technical(text, measurements=True)
    assert not is_technical("Dist 3.45 cm")
