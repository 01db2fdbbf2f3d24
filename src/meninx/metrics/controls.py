"""How rarely a control may fail by chance: the level of the negative controls of an attack.

A negative control holds nothing that an attack could find. If it is found, the attack finds something else,
and its audit says nothing and hides what it found. An honest audit should therefore rarely fail this way::

    >>> control_level(0.05), control_level(0.05, 2)
    (0.005, 0.0025)
"""

from __future__ import annotations

_SHARE = 10


def control_level(significance: float, controls: int = 1) -> float:
    """Return the p-value from which on a negative control has failed.

    Args:
        significance: of the audit.
        controls: how many share a tenth of it, >= 1.
    """
    return significance / (_SHARE * max(1, controls))
