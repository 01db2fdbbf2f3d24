"""Shifting dates by whole days; times of day, time zones, intervals and precision stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta

_DA = re.compile(r"(\d{4})[.:]?(\d{2})[.:]?(\d{2})")
_ZONE = r"[+-](?:0\d|1[0-4])[0-5]\d"
_CLOCK = r"(?:[01]\d|2[0-3])(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?"
_DT = re.compile(rf"(\d{{4}})(?:(\d{{2}})(?:(\d{{2}})({_CLOCK})?)?)?({_ZONE})?")
_TM = re.compile(r"(?:[01]\d|2[0-3])(?::?[0-5]\d(?::?(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?", re.ASCII)
_AGE = re.compile(r"(\d{1,3})([DWMY]?)")
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}


def shift_da(value: str, days: int) -> str:
    """Return a DA value (or a range of two) moved by ``days``; an empty string when it is not a date.

    The old form ``YYYY.MM.DD`` is understood and returned as ``YYYYMMDD``.
    """
    text = value.strip()
    if text.count("-") == 1:
        return _range([(text.partition("-")[0], text.partition("-")[2])], lambda side: shift_da(side, days))
    moved = _moved(text, days)
    return moved.strftime("%Y%m%d").rjust(8, "0") if moved else ""


def shift_dt(value: str, days: int) -> str:
    """Return a DT value (or a range of two) moved by ``days`` with its time, zone and precision.

    Empty when it is none.

    A partial date (``YYYY`` or ``YYYYMM``) is moved from the middle of its year or month and cut to the same
    precision.
    """
    text = value.strip()
    found = _DT.fullmatch(text)
    if not found:
        cuts = [i for i, sign in enumerate(text) if sign == "-"]
        return _range([(text[:i], text[i + 1 :]) for i in cuts], lambda side: shift_dt(side, days))
    year, month, day, time, zone = found.groups(default="")
    # A partial date moves as the middle of its year or month would, and stays partial.
    filled = year + month + (day or "15") if month else year + "0701"
    moved = _moved(filled, days)
    if moved is None:
        return ""
    digits = moved.strftime("%Y%m%d").rjust(8, "0")
    return digits[: len(year + month + day)] + time + zone


def is_tm(value: str) -> bool:
    """Return whether ``value`` is a time of day, or a range of two."""
    sides = value.strip().split("-")
    return len(sides) <= 2 and any(sides) and all(not side or _TM.fullmatch(side) for side in sides)


def parse(value: str) -> date | None:
    """Return the calendar day at the start of a DA or DT value, or None."""
    text = value.strip()
    return _moved(text if _DA.fullmatch(text) else text[:8], 0)


def age_between(birth: date, then: date) -> str:
    """Return the age as an AS value; empty if negative.

    The unit is days below a month, months below two years, then years.
    """
    if then < birth:
        return ""
    years = then.year - birth.year - ((then.month, then.day) < (birth.month, birth.day))
    if years >= 2:
        return f"{min(years, 999):03d}Y"
    months = (then.year - birth.year) * 12 + then.month - birth.month - (then.day < birth.day)
    return f"{months:03d}M" if months >= 1 else f"{(then - birth).days:03d}D"


def years(age: str) -> float | None:
    """Return an AS value in years, or None when it is not an age.

    A bare number, as some archives write it, is years.
    """
    found = _AGE.fullmatch(age.strip())
    return int(found[1]) * _DAYS[found[2] or "Y"] / _DAYS["Y"] if found else None


def capped_age(age: str, max_age: int) -> str:
    """Return an AS value with every age above ``max_age`` years replaced by ``max_age + 1`` years.

    Empty when it is none.
    """
    value, found = years(age), _AGE.fullmatch(age.strip())
    if value is None or found is None:
        return ""
    return f"{max_age + 1:03d}Y" if value >= max_age + 1 else f"{int(found[1]):03d}{found[2] or 'Y'}"


def _moved(text: str, days: int) -> date | None:
    found = _DA.fullmatch(text)
    if not found:
        return None
    try:
        return date(int(found[1]), int(found[2]), int(found[3])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None


def _range(cuts: list[tuple[str, str]], moved: Callable[[str], str]) -> str:
    """Return the first reading of a range, both sides moved (one may be open); empty when there is none."""
    for low, high in cuts:
        if low.count("-") > 1 or high.count("-") > 1:
            continue
        first, last = (moved(side) if side else "" for side in (low, high))
        if (first or last) and bool(first) == bool(low) and bool(last) == bool(high):
            return f"{first}-{last}"
    return ""
