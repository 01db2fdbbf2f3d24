"""Shares as per cent, the same on every page, figure and console: three digits and never an exponent.

>>> [percent(share) for share in (0.0, 1e-9, 0.004, 0.5, 1.0)]
['0 %', '< 0.0001 %', '0.4 %', '50 %', '100 %']
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal

_LEAST = 1e-6
"""Smallest share whose digits are shown."""
_LEAST_PLACE = -4
"""Exponent of the last decimal of a limit as per cent."""
_DECIMALS = 12
"""Most decimals of a mark at an axis."""


def percent(share: float) -> str:
    """Return a share as per cent with three significant digits, never rounded to 0 % or up to 100 %.

    >>> percent(0.0445), percent(2.8e-4), percent(0.99999), percent(2e-6), percent(-0.05), percent(12.5)
    ('4.45 %', '0.028 %', '> 99.9 %', '0.0002 %', '-5 %', '1,250 %')
    >>> percent(math.nan), percent(math.inf)
    ('not known', 'infinite')
    """
    if not math.isfinite(share):
        return "not known" if math.isnan(share) or share < 0 else "infinite"
    if share < 0:
        return "about 0 %" if share > -_LEAST else f"-{percent(-share)}"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    if 0 < share < _LEAST:
        return "< 0.0001 %"
    if 0 < share < 1e-5:
        return f"{100 * share:.4f} %"
    return f"{100 * share:,.0f} %" if share >= 9.995 else f"{100 * share:.3g} %"


def at_most(share: float) -> str:
    """Return an upper limit as per cent with three significant digits, never below the limit.

    >>> at_most(0.09994), at_most(0.1), at_most(0.9991), at_most(3e-9), at_most(0.0), at_most(10.001)
    ('10 %', '10 %', '100 %', '0.0001 %', '0 %', '1,001 %')
    """
    if not math.isfinite(share):
        return percent(share)
    exact = 100 * Decimal(f"{share:.12g}")  # digits below those of a float do not count
    places = exact.adjusted() - 2 if exact else 0
    found = exact.quantize(Decimal(1).scaleb(min(0, max(places, _LEAST_PLACE))), rounding=ROUND_CEILING)
    text = f"{found:,f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def axis_mark(share: float, _: object = None) -> str:
    """Return a share as the mark of an axis: exact, without rounding to three digits.

    The second argument is the position that matplotlib passes.

    >>> axis_mark(1e-8), axis_mark(0.01), axis_mark(1.0), axis_mark(0.0)
    ('0.000001 %', '1 %', '100 %', '0 %')
    """
    text = f"{100 * share:.{_DECIMALS}f}"
    return f"{text.rstrip('0').rstrip('.')} %"
