"""What tests of dossiers share."""

from __future__ import annotations

import pytest

from meninx.dossier import dossier_pdf


@pytest.fixture
def no_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no PDF, for tests that look at other files: it takes most of the time of a dossier."""
    monkeypatch.setattr(dossier_pdf, "render", lambda record: b"%PDF of another test")
