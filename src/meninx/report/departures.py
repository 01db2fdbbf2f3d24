"""Settings by which a de-identified archive holds more than its profile says."""

from __future__ import annotations

from collections.abc import Mapping

from meninx.core.artifacts import DeidRecord, Departure

_OLDEST = 89  # years that the profile lets stand exactly
_KEEPING = ("k", "keep", "kept", "retain", "false", "pass")


def said_of(record: DeidRecord) -> tuple[Departure, ...]:
    """Return every departure of an archive, also the overrides of a summary that an older version wrote."""
    known = {(item.name, item.chosen) for item in record.departures}
    older = record.overrides if isinstance(record.overrides, Mapping) else {}
    named = [
        Departure(kind="override", name=str(name), chosen=str(action), usual="the profile's action")
        for name, action in sorted(older.items(), key=str)
        if (str(name), str(action)) not in known
        and str(name) not in {item.name for item in record.departures}
    ]
    if record.overrides and not isinstance(record.overrides, Mapping) and not record.departures:
        named.append(Departure(kind="override", name="overrides", chosen="of unknown form", usual="none"))
    if record.max_age > _OLDEST and not any(item.name == "max_age" for item in record.departures):
        named.append(Departure(kind="age", name="max_age", chosen=str(record.max_age), usual=str(_OLDEST)))
    return (*record.departures, *named)


def keeps(item: Departure) -> bool:
    """Return whether a departure leaves an attribute as it was that the profile would have removed or replaced."""
    return item.kind == "override" and item.chosen.strip().lower() in _KEEPING
