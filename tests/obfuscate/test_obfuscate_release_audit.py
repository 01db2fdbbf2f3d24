"""The attackers of a release find what is there, find nothing where nothing is, and refuse bad splits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted_attribute import planted, question, without_corner

from meninx.core.errors import DataError
from meninx.obfuscate.obfuscator import ImageTable
from meninx.obfuscate.release_audit import audit_release, foreign_release

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def table() -> ImageTable:
    return planted()


@pytest.fixture(scope="module")
def erased(table):
    return audit_release(question(table, without_corner(table), target=0.9, deterministic=True))


def test_an_erased_attribute_is_not_found(erased):
    assert erased.verdict == "passed", erased.reason
    assert erased.clean.auroc > 0.9  # the same attackers find it in the originals
    assert erased.chosen_attacker.oriented_auroc < 0.65
    assert erased.null.p_value > 0.05
    assert {item.name for item in erased.attackers} >= {"strided", "residual", "wide", "linear", "kernel"}


@pytest.mark.slow
def test_an_attribute_that_is_left_is_found_whatever_the_static_attackers_say(table):
    turned = np.ascontiguousarray(1 - table.values)  # a static attacker is wrong about all of it
    record = audit_release(question(table, turned, target=0.8))
    assert record.verdict == "failed"
    assert record.highest_attacker.low > 0.8
    assert all(item.retrained for item in record.attackers)
    assert not any(item.retrained for item in record.static)


@pytest.mark.slow
def test_two_audits_are_equal_byte_by_byte(table, erased):
    again = audit_release(question(table, without_corner(table), target=0.9, deterministic=True))
    assert again == erased


@pytest.mark.slow
def test_an_audit_that_cannot_attack_is_void(table):
    blind = dataclasses.replace(table, values=without_corner(table))
    record = audit_release(question(blind, without_corner(table, seed=2), target=0.9))
    assert record.verdict == "void"
    assert "original images" in record.reason


def test_an_image_in_two_splits_is_refused(table):
    values = table.values.copy()
    values[table.split.index("test")] = values[table.split.index("train")]
    with pytest.raises(DataError, match="every image in one split"):
        audit_release(question(dataclasses.replace(table, values=values), without_corner(table)))


def test_a_released_image_in_two_splits_is_refused(table):
    values = without_corner(table)
    values[table.split.index("test")] = values[table.split.index("train")]
    with pytest.raises(DataError, match="1 released images"):
        audit_release(question(table, values))


def test_a_foreign_release_is_matched_by_case(table):
    order = np.random.default_rng(0).permutation(len(table))
    assert np.array_equal(foreign_release(table, table.select(order)), table.values)


@pytest.mark.parametrize("column", ["cases", "patients", "split"])
def test_a_release_of_other_cases_is_refused(table, column):
    there = list(getattr(table, column))
    if column == "cases":
        there[0] = "another"
    else:
        rows = [row for row, name in enumerate(table.patients) if name == table.patients[0]]
        for row in rows:
            there[row] = "test" if column == "split" else "another"
    with pytest.raises(DataError):
        foreign_release(table, dataclasses.replace(table, **{column: tuple(there)}))


@pytest.mark.slow
def test_features_are_audited_like_images(table):
    flat = dataclasses.replace(table, values=table.values.reshape(len(table), -1))
    mean = flat.values.mean(axis=0)
    erased = np.where(np.isin(np.arange(64), [0, 1, 8, 9]), mean, flat.values).astype(np.float32)
    left, gone = (audit_release(question(flat, values, target=0.8)) for values in (flat.values, erased))
    assert left.verdict == "failed"
    assert gone.verdict == "passed", gone.reason
    assert {item.name for item in gone.attackers} >= {"perceptron", "linear", "kernel", "boosted", "purifier"}
    assert gone.distortion is None


@pytest.mark.slow
def test_attributes_of_the_test_split_decide_nothing_but_its_own_numbers(table):
    kinds = table.private["sex"].copy()
    people = sorted({who for who, split in zip(table.patients, table.split, strict=True) if split == "test"})
    order = np.random.default_rng(0).permutation(len(people))
    rows = {who: [row for row, name in enumerate(table.patients) if name == who] for who in people}
    for who, other in zip(people, order, strict=True):
        kinds[rows[who]] = table.private["sex"][rows[people[other]][0]]
    moved = dataclasses.replace(table, private={"sex": kinds})
    first, second = (audit_release(question(one, one.values)) for one in (table, moved))
    assert first.chosen == second.chosen
    chosen = [
        {item.name: item.valid_auroc for item in one.attackers if ", by " not in item.name}
        for one in (first, second)
    ]  # a variant beside them is the one with the largest limit on the test split, and says so
    assert chosen[0] == chosen[1]
    assert first.chosen_attacker.auroc > 0.9
    assert second.verdict == "void"  # nobody finds attributes that were permuted
