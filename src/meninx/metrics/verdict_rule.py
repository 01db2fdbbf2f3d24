"""The one rule by which every part of an audit comes to its verdict, and what a failed control takes from it.

A control that fails takes the good news, never the bad: an attack above its bound refutes the guarantee
whatever the controls show, and the reason names the control that failed. No number of such a part is green.

    >>> verdict_of(refuted=True, failed="the splits differ")
    ('refuted', 'the splits differ')
    >>> verdict_of(found="exposed", failed="the splits differ")
    ('void', 'the splits differ')
    >>> verdict_of(found="exposed", weak="the planted leak was not found")
    ('exposed', 'the planted leak was not found')
    >>> verdict_of()
    ('nothing found', '')
"""

from __future__ import annotations

REFUTED, VOID, NOTHING = "refuted", "void", "nothing found"
_SILENCED = "a control failed: "
_UNDECIDED = "not beyond chance at the level"


def verdict_of(
    *, refuted: bool = False, failed: str = "", found: str = "", weak: str = ""
) -> tuple[str, str]:
    """Return the verdict of a part, and the reason of one that a failed control limits.

    Args:
        refuted: an attack exceeds what the guarantee allows.
        failed: why a negative control failed; empty where all hold. Then what attacks find says nothing.
        found: the verdict for what attacks found within the guarantee; empty where they found nothing.
        weak: why the positive control failed; empty where it holds. Then that nothing is found says nothing.
    """
    control = failed or weak
    if refuted:
        return REFUTED, control
    if failed:
        return VOID, failed
    if found:
        return found, weak
    return (VOID, weak) if weak else (NOTHING, "")


def but(reason: str) -> str:
    """Return the end of a sentence that names a failed control; empty where none failed.

    >>> but("the splits differ"), but("")
    ('; but a control failed: the splits differ', '')
    """
    return f"; but a control failed: {reason}" if reason else ""


def silenced(reason: str) -> str:
    """Return why a number says nothing, where a control failed.

    >>> silenced("the splits differ")
    'a control failed: the splits differ'
    """
    return f"{_SILENCED}{reason}"


def is_silenced(reason: str) -> bool:
    """Return whether a number says nothing because a control failed.

    >>> is_silenced(silenced("the splits differ")), is_silenced("above chance")
    (True, False)
    """
    return reason.startswith(_SILENCED)


def undecided(p_value: float, significance: float, tests: int, *, guess: str) -> str:
    """Return why a number that is beyond chance by itself is no find: attacks share the significance.

    Args:
        p_value: of the number.
        significance: of all tests of the part together.
        tests: how many attacks share it, at least 1.
        guess: what guessing gives, in words.

    >>> undecided(0.02, 0.05, 3, guess="guessing gives 0.5")
    'not beyond chance at the level that 3 attacks share (p 0.02, at most 0.0167 needed); guessing gives 0.5'
    """
    level = f"that {tests} attacks share" if tests > 1 else "of the test"
    return f"{_UNDECIDED} {level} (p {p_value:.3g}, at most {significance / tests:.3g} needed); {guess}"


def is_undecided(reason: str) -> bool:
    """Return whether a number is beyond chance by itself, and no find.

    >>> is_undecided(undecided(0.02, 0.05, 3, guess="guessing gives 0.5")), is_undecided("above chance")
    (True, False)
    """
    return reason.startswith(_UNDECIDED)
