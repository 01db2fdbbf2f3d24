"""How well attackers do: folded areas with intervals over patients, and the same with permuted attributes.

An area below 1/2 tells as much as one above, so areas are folded: ``max(a, 1 - a)``. The interval is that of
the area itself, folded at its ends, so that it holds for the folded area with at least the same probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from meninx.core.obfuscation_records import AttackerRecord, NullRecord
from meninx.core.randomness import child
from meninx.metrics.attribute_attacks import folded
from meninx.metrics.bootstrap import BinaryProblem, Draws, measure
from meninx.metrics.classification import auroc
from meninx.metrics.groups import MIN_CELL
from meninx.metrics.intervals import folded_ends
from meninx.metrics.vector_attacks import fit_ridge
from meninx.obfuscate.release_attacks import Attempt, Margins, flat_values
from meninx.obfuscate.release_question import AttackRows, Contest, Numbers
from meninx.obfuscate.release_verdict import DIGITS

_SAME, _MOST_APART = 1e-12, 1e6
_SHARE_BELOW = 0.95
_RIDGES = ("linear", "kernel")


class Judge:
    """Measures attackers on the test split, chosen on the validation split.

    No choice depends on an order of attackers, or on the test split: of equal areas on the validation split
    the one whose scores separate the classes further there is taken. With fewer than ``MIN_CELL`` validation
    patients of a class nothing is chosen (``may_choose``), and the highest one on the test split is shown.

    Args:
        rows: who attacks whom.
        seed: of the resampled patients.
        resamples: how many.
    """

    def __init__(self, rows: AttackRows, *, seed: int, resamples: int = 1000) -> None:
        self.rows = rows
        people, index = np.unique(rows.patient[rows.test], return_inverse=True)
        first = np.array([rows.test[np.argmax(index == number)] for number in range(len(people))])
        self.draws = Draws(index.astype(np.int64), count=resamples, seed=seed, strata=rows.classes[first])
        asked = {item for contest in rows.contests for item in (contest.positive, contest.negative)}
        there = rows.of_patients(rows.valid)
        names = [name for number, name in enumerate(rows.names) if number in asked or None in asked]
        self.validation = {name: there[name] for name in names}
        self.may_choose = min(self.validation.values()) >= MIN_CELL

    def of(self, attempt: Attempt, clean: AttackerRecord | None = None) -> AttackerRecord:
        """Return the record of one attacker for the question that it answers best on the validation split."""
        blank = _blank(attempt)
        if attempt.margins is None:
            return blank
        contest = max(self.rows.contests, key=lambda item: (self._rank(item, attempt.margins), item.name))
        return self._measured(blank, contest, attempt.margins, clean)

    def variants(
        self, attempts: Iterable[Attempt], clean: AttackerRecord | None = None
    ) -> tuple[AttackerRecord, ...]:
        """Return the record of the best of several variants of an attacker, and of the highest one.

        The second record is there where another variant, or the answer to another question, has a larger
        upper limit on the test split. So no variant has a larger limit than both records.
        """
        tried = [attempt for attempt in attempts if attempt.margins is not None]
        first = self.best(tried)
        chosen = self.of(first, clean)
        pairs = [(attempt, contest) for attempt in tried for contest in self.rows.contests]
        if len(pairs) == 1:
            return (chosen,)
        every = [
            (attempt, self._measured(_blank(attempt), contest, attempt.margins, None))
            for attempt, contest in pairs
            if attempt.margins is not None
        ]
        attempt, highest = max(every, key=lambda pair: pair[1].high or 0.0)
        if (highest.high or 0.0) <= (chosen.high or 0.0) + _SAME:
            return (chosen,)
        other = attempt.variant if attempt is not first else ""
        name = f"{highest.name}, by {other}" if other else highest.name
        return chosen, replace(highest, name=name if name != chosen.name else f"{name}, {highest.question}")

    def every(self, attempt: Attempt) -> tuple[AttackerRecord, ...]:
        """Return the record of one attacker for every question; empty where there is one only."""
        if attempt.margins is None or len(self.rows.contests) < 2:
            return ()
        blank = AttackerRecord(name=attempt.name, knows=attempt.knows, retrained=attempt.retrained)
        return tuple(self._measured(blank, contest, attempt.margins, None) for contest in self.rows.contests)

    def best(self, attempts: Iterable[Attempt]) -> Attempt:
        """Return the best attacker on the validation split, of equal ones the one that separates further."""

        def key(item: Attempt) -> tuple[tuple[float, float], str, str]:
            best = max(self._rank(contest, item.margins) for contest in self.rows.contests)
            return best, item.name, item.variant

        return max((attempt for attempt in attempts if attempt.margins is not None), key=key)

    def _rank(self, contest: Contest, margins: Margins | None) -> tuple[float, float]:
        """Return what attackers and questions are chosen by: the validation split, where it may choose."""
        if margins is None:
            return 0.0, 0.0
        if not self.may_choose:
            return float(folded(_area(contest, margins, self.rows.test))), 0.0
        return _rank(contest, margins, self.rows.valid)

    def valid_area(self, contest: Contest, margins: Margins) -> float:
        """Return the area on the validation split, not folded."""
        return _area(contest, margins, self.rows.valid)

    def _measured(
        self, blank: AttackerRecord, contest: Contest, margins: Margins, clean: AttackerRecord | None
    ) -> AttackerRecord:
        rows, test = self.rows, self.rows.test
        truth = contest.truth[test]
        problem = BinaryProblem(truth, contest.scores(margins)[test], None, ("auroc",))
        found = measure([problem], self.draws)[0]
        area, ends = found.values["auroc"], found.ends["auroc"]
        chosen = self.valid_area(contest, margins)
        low, high = folded_ends(ends)
        known = test[~np.isnan(truth)]
        return replace(
            blank,
            question=contest.name,
            valid_auroc=float(folded(chosen)),
            valid_separation=_separation(contest, margins, rows.valid),
            auroc=float(folded(area)),
            low=low,
            high=high,
            oriented_auroc=area if chosen >= 0.5 else 1 - area,
            clean_auroc=None if clean is None else clean.auroc,
            patients=int(np.unique(rows.patient[known]).size),
            classes=rows.of_patients(known),
        )


def _blank(attempt: Attempt) -> AttackerRecord:
    return AttackerRecord(
        name=attempt.name, knows=attempt.knows, retrained=attempt.retrained, seconds=attempt.seconds,
        refusal=attempt.refusal,
    )  # fmt: skip


def measure_null(
    values: npt.ArrayLike,
    rows: AttackRows,
    *,
    permutations: int,
    seed: int,
    network: Callable[[Numbers], Margins] | None = None,
    repetitions: int = 2,
) -> NullRecord:
    """Return what is found with permuted attributes, by attackers that are fitted and chosen again.

    Args:
        values: released images or features of all rows.
        rows: who attacks whom.
        permutations: of the linear and the kernel attacker, >= 1.
        seed: of the permutations.
        network: from permuted classes of all rows to the margins of a network trained on them.
        repetitions: of the network.
    """
    features = flat_values(np.asarray(values, dtype=np.float32))
    drawn = [rows.classes, *(permuted(rows, seed, number) for number in range(permutations))]
    top = len(rows.names)
    hot = np.concatenate([kinds[:, None] == np.arange(top) for kinds in drawn], axis=1)
    blocks = np.repeat(np.arange(len(drawn)), top)
    margins = [
        fit_ridge(kind, features, hot, rows.train, rows.valid, blocks=blocks, seed=seed)(features).reshape(
            len(features), len(drawn), top
        )
        for kind in _RIDGES
    ]
    areas = np.array(
        [
            _chosen_area(rows, kinds, [item[:, number] for item in margins])
            for number, kinds in enumerate(drawn)
        ]
    )
    null = areas[1:]
    repeated = []
    for number in range(repetitions if network is not None else 0):
        assert network is not None
        kinds = permuted(rows, seed, permutations + number)
        repeated.append(_chosen_area(rows, kinds, [network(kinds)]))
    return NullRecord(
        permutations=permutations,
        mean=float(null.mean()),
        high=float(np.quantile(null, _SHARE_BELOW)),
        observed=float(areas[0]),
        p_value=float((1 + (null >= areas[0] - _SAME).sum()) / (1 + permutations)),
        network=tuple(repeated),
    )


def permuted(rows: AttackRows, seed: int, number: int) -> Numbers:
    """Return classes of all rows after patients of one split exchanged theirs.

    All rows of a patient get the class that the other patient's first row has.
    """
    kinds = rows.classes.copy()
    for name, part in (("train", rows.train), ("valid", rows.valid), ("test", rows.test)):
        people, first, index = np.unique(rows.patient[part], return_index=True, return_inverse=True)
        order = child(seed, "permuted attribute", name, number).permutation(len(people))
        kinds[part] = rows.classes[part[first]][order][index]
    return kinds


def _chosen_area(rows: AttackRows, kinds: Numbers, tried: Sequence[Margins]) -> float:
    """Return the folded area on the test split of the attacker and question that the validation chooses."""
    asked = [(contest.of(kinds), margins) for margins in tried for contest in rows.contests]
    best = max(asked, key=lambda pair: _rank(pair[0], pair[1], rows.valid))
    return float(folded(_area(*best, rows.test)))


def _rank(contest: Contest, margins: Margins, rows: Numbers) -> tuple[float, float]:
    """Return the folded area, and the separation of the classes, by which equal areas are told apart."""
    return round(float(folded(_area(contest, margins, rows))), DIGITS), _separation(contest, margins, rows)


def _separation(contest: Contest, margins: Margins, rows: Numbers) -> float:
    """Return the distance of the mean scores of both classes, in standard deviations within a class."""
    truth, scores = contest.truth[rows], contest.scores(margins)[rows]
    classes = [scores[truth == value] for value in (0, 1)]
    if min(map(len, classes)) == 0:
        return 0.0
    apart = abs(float(classes[1].mean() - classes[0].mean()))
    spread = float(np.sqrt(np.mean([item.var() for item in classes])))
    return round(min(apart / max(spread, _SAME), _MOST_APART), DIGITS) if apart > 0 else 0.0


def _area(contest: Contest, margins: Margins, rows: Numbers) -> float:
    area = auroc(contest.truth[rows], contest.scores(margins)[rows])
    return 0.5 if np.isnan(area) else float(area)
