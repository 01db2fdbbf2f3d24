"""Settings of an egress dossier."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meninx.core.errors import ConfigError, expected
from meninx.core.settings import Settings

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, kw_only=True)
class DossierConfig(Settings):
    """One dossier.

    Attributes:
        title: Heading of the dossier.
        release: Identity of the run whose model is to be released, or the first digits of it, or name or
            path of its folder; needed where several finished runs are given.
        chosen_by: Number by which this run was chosen among several, e.g. auroc. It is stated, not verified.
        chosen_on: Split on which that number was measured, e.g. valid.
        date: Date of the dossier, e.g. 2026-11-20; today by default.
        overwrite: Replace an earlier dossier, once the new one is complete.
        dry_run: Say what the dossier would hold, and write nothing.
    """

    title: str = "Egress dossier"
    release: str = ""
    chosen_by: str = ""
    chosen_on: str = ""
    date: str = ""
    overwrite: bool = False
    dry_run: bool = False

    def check_rules(self) -> None:
        """Refuse a date of another form."""
        if self.date and not _DATE.fullmatch(self.date):
            raise ConfigError(expected("a date like 2026-11-20", got=self.date, where="date"))
