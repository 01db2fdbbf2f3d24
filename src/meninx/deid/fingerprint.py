"""What decides the clean bytes of a source, as one line of ``private/workspace.json``: settings and program.

Finished files are kept when a run goes on only if both are the same. Other settings are refused. Another
program (a new version of meninx or of a library, :mod:`meninx.deid.program`) makes every file again, so that
no result holds files of two programs.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from meninx.core import files
from meninx.deid import options, program
from meninx.deid.config import DeidConfig
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.lookup import Lookup
from meninx.deid.profile import Profile

_FORMAT = "format-6"  # how the line is written; what it says follows from settings and program
_LINE = re.compile(rf"{_FORMAT}-([0-9a-f]{{64}})-([0-9a-f]{{64}})")


@dataclass(frozen=True)
class Fingerprint:
    """What a result was made with.

    Attributes:
        settings: SHA-256 of the settings that decide the clean bytes, with the key and the tables.
        program: SHA-256 of the program and the libraries.
    """

    settings: str
    program: str

    def __str__(self) -> str:
        """Return the line that :meth:`read` reads."""
        return f"{_FORMAT}-{self.settings}-{self.program}"

    @classmethod
    def read(cls, text: str) -> Fingerprint | None:
        """Return the fingerprint in a line; None for that of an earlier format, or none."""
        found = _LINE.fullmatch(text)
        return cls(*found.groups()) if found else None

    def has_settings_of(self, text: str) -> bool:
        """Return whether a result was made with the same settings, whatever the program."""
        other = self.read(text)
        return other is not None and other.settings == self.settings

    def renews(self, text: str) -> bool:
        """Return whether a result was made with the same settings and another program."""
        return self.has_settings_of(text) and text != str(self)

    @classmethod
    def of(cls, config: DeidConfig, key: SiteKey, profile: Profile, table: Lookup | None) -> Fingerprint:
        """Return the fingerprint of a run.

        The policy on issuers is not part of it: the registry refuses one that changes earlier pseudonyms, and
        any other one only adds files.

        Args:
            config: settings.
            key: the site's key, which includes the site's name.
            profile: the compiled profile, with options and overrides.
            table: the hospital's own pseudonyms.

        Raises:
            DataError: the table of decisions cannot be read.
        """
        deciding = {
            "key": key.fingerprint(),
            "rules": profile.fingerprint(),
            "profile": config.profile,
            "options": sorted(set(config.options) - options.preset(config.profile)),  # others change nothing
            "lookup": table.digest if table else "",
            "missing_lookup": config.missing_lookup,
            "rename": config.rename,
            "max_age": config.max_age,
            "pixels": config.pixels,
            "search_all": config.search_all,
            "keep_measurements": config.keep_measurements,
            "decisions": files.digest(config.decisions) if config.decisions else "",
            "defacing": config.defacing,
        }
        settings = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
        return cls(settings, program.digest(searches_pixels=config.pixels == "redact"))
