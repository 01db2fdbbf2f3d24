"""Names and order of a release say nothing of the order, names or numbers of its source."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meninx.core.errors import DataError
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.obfuscate.keyed_names import KeyedNames

CASES = tuple(
    Case(case_id=f"C{number:04d}", patient_id=f"P{number // 2:04d}", image=f"{number}.png")
    for number in range(200)
)


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    return float((scores[truth][:, None] > scores[~truth]).mean())


def test_a_source_that_is_sorted_by_the_attribute_gives_names_and_an_order_that_are_not():
    truth = np.arange(200) >= 100
    areas = []
    for number in range(200):
        names = KeyedNames.of(CASES, key(number))
        place = np.empty(200)
        place[names.rows] = np.arange(200)
        patients = np.array([int(names.patient(case)[1:], 16) for case in CASES[::2]], dtype=float)
        areas.append((auroc(place, truth), auroc(patients, truth[::2])))
    error = np.sqrt(201 / (12 * 100 * 100)), np.sqrt(101 / (12 * 50 * 50))
    covered = (np.abs(np.array(areas) - 0.5) < 1.96 * np.array(error)).mean(axis=0)
    assert np.abs(np.mean(areas, axis=0) - 0.5).max() < 0.01
    assert (covered > 0.9).all()


@given(order=st.permutations(range(len(CASES[:20]))), number=st.integers(0, 1 << 30))
def test_a_shuffled_source_gives_the_same_names_in_the_same_order(order, number):
    cases = CASES[:20]
    shuffled = tuple(cases[row] for row in order)
    one, two = KeyedNames.of(cases, key(number)), KeyedNames.of(shuffled, key(number))
    assert [cases[row] for row in one.rows] == [shuffled[row] for row in two.rows]
    assert (one.cases, one.patients) == (two.cases, two.patients)


def test_another_key_gives_other_names_and_is_refused_as_that_of_the_release(tmp_path):
    info = DatasetInfo(name="demo", task=TaskKind.MULTILABEL, labels=())
    one, two = KeyedNames.of(CASES, key(1)), KeyedNames.of(CASES, key(2))
    assert not set(one.cases.values()) & set(two.cases.values())
    cases = (Case(case_id=one.case(c), patient_id=one.patient(c), image=c.image) for c in CASES)
    released = Manifest(tmp_path, info, tuple(cases))
    assert [case.case_id for case in one.of_source(released).cases] == [case.case_id for case in CASES]
    with pytest.raises(DataError, match="200 cases that the key of the release does not give"):
        two.of_source(released)
