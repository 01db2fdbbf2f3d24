"""De-identification of DICOM by DICOM PS3.15 Annex E, for a folder or for one instance in memory.

``meninx deid`` and :func:`meninx.deidentify` clean a folder; :class:`Deidentifier` cleans one instance with
the same engine. The public names are those of ``__all__``; the modules behind them may change. Nothing here
needs torch.

Example:
    >>> from meninx.deid import Deidentifier, Quarantined
    >>> tool = Deidentifier(key=bytes(range(32)), site="north")
    >>> try:
    ...     tool.deidentify(b"no DICOM at all")
    ... except Quarantined as refusal:
    ...     print(refusal.reason)
    not-dicom
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meninx.core.lazy import lazy_exports

if TYPE_CHECKING:
    from meninx.deid.config import DeidConfig
    from meninx.deid.deid_result import DeidResult
    from meninx.deid.deidentifier import DeidentifiedInstance, Deidentifier, Quarantined
    from meninx.deid.identity.keys import KeyFile
    from meninx.deid.options import Option
    from meninx.deid.profile import Action
    from meninx.dicomfile.refusals import Reason

__all__ = [
    "Action",
    "DeidConfig",
    "DeidResult",
    "DeidentifiedInstance",
    "Deidentifier",
    "KeyFile",
    "Option",
    "Quarantined",
    "Reason",
]
if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "Action": "meninx.deid.profile",
            "DeidConfig": "meninx.deid.config",
            "DeidResult": "meninx.deid.deid_result",
            "DeidentifiedInstance": "meninx.deid.deidentifier",
            "Deidentifier": "meninx.deid.deidentifier",
            "KeyFile": "meninx.deid.identity.keys",
            "Option": "meninx.deid.options",
            "Quarantined": "meninx.deid.deidentifier",
            "Reason": "meninx.dicomfile.refusals",
        },
    )
