"""Which patient IDs mean several people: one look at the head of every file before the work begins."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from meninx.deid.discover import Found
from meninx.deid.elements import Malformed
from meninx.deid.instance import patient_id_and_issuer
from meninx.deid.keys import normal
from meninx.imaging.decode import quiet

HEAD, LONGEST = (
    1 << 14,
    16 << 20,
)  # bytes; nearly every header has the patient in the first; no longer one is read


def shared_ids(source: Path, found: Iterable[Found]) -> frozenset[str]:
    """Return the normalised patient IDs that at least two different issuers gave out.

    Such an ID names a patient only together with its issuer. Any other ID names one patient of the site, also
    in files that leave the issuer out (reports and presentation states often do): were the issuer always part
    of the identity, one person would become two, and would stand in two splits of a dataset.

    Args:
        source: folder that holds the files.
        found: the files.
    """
    issuers: dict[str, str] = {}
    shared: set[str] = set()
    with quiet():
        for item in found:
            patient, issuer = ("", "") if item.refused else map(normal, _looked_up(source / item.path))
            if patient and issuer and issuers.setdefault(patient, issuer) != issuer:
                shared.add(patient)
    return frozenset(shared)


def _looked_up(path: Path) -> tuple[str, str]:
    """Return PatientID and issuer of one file; empty for what will be refused later."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
            try:
                return patient_id_and_issuer(head)
            except Malformed:
                return patient_id_and_issuer(head + stream.read(LONGEST)) if len(head) == HEAD else ("", "")
    except Exception:  # whatever a broken file provokes: the worker judges it
        return "", ""
