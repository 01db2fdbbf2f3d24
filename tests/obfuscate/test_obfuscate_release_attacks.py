"""Parts of the audit of a release, on planted attributes: what each finds, refuses and may not read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted_attribute import one_pixel, planted, question, without_corner

from meninx.core.errors import DataError
from meninx.core.progress import SILENT
from meninx.metrics.intervals import folded_ends
from meninx.obfuscate.attack_measurement import Judge, measure_null, permuted
from meninx.obfuscate.label_attacks import attack_codes, attack_columns, attack_with_columns
from meninx.obfuscate.release_attacks import Attempt, ReleaseAttacks, coarse_images, log_odds
from meninx.obfuscate.release_linkage import measure_reidentification
from meninx.obfuscate.release_question import DrawCache, attack_rows, one_row_per_patient, patient_means
from meninx.obfuscate.release_utility import measure_utility
from meninx.obfuscate.release_verdict import chosen_of

pytestmark = pytest.mark.torch


def attacks_of(asked, *, valid_of=None):
    draws = DrawCache(asked.draws, asked.original.values.shape)
    rows = attack_rows(asked)
    return ReleaseAttacks(asked, draws, rows, SILENT), rows


def area_of(kind, asked):
    attacks, rows = attacks_of(asked)
    values = attacks.draws(0)
    return Judge(rows, seed=0).of(Attempt(kind, "", attacks.vector(kind, values)(values)))


def test_trees_find_an_attribute_that_was_left_in_one_pixel_of_many():
    table = planted(200, side=24)
    record = area_of("boosted", question(table, one_pixel(table)))
    assert record.low > 0.6, record


@pytest.mark.parametrize("kind", ["linear", "kernel", "boosted"])
def test_attacks_on_features_find_a_shift(kind):
    table = planted(side=4)
    flat = dataclasses.replace(table, values=table.values.reshape(len(table), -1))
    assert area_of(kind, question(flat, flat.values)).low > 0.8


def test_the_perceptron_attacks_features():
    table = planted(side=4)
    flat = dataclasses.replace(table, values=table.values.reshape(len(table), -1))
    attacks, rows = attacks_of(question(flat, flat.values, attack_epochs=5))
    margins = attacks.network("perceptron", attacks.draws)(flat.values)
    assert Judge(rows, seed=0).of(Attempt("perceptron", "", margins)).low > 0.7


def test_the_worst_of_several_classes_is_reported_with_its_name():
    table = planted(180, classes=3)
    attacks, rows = attacks_of(question(table, table.values))
    margins = attacks.vector("linear", table.values)(table.values)
    judge = Judge(rows, seed=0)
    every = judge.every(Attempt("linear", "", margins))
    assert {item.question for item in every} == {
        "F against the rest", "M against the rest", "X against the rest",
        "M against F", "X against F", "X against M",
    }  # fmt: skip
    found = judge.of(Attempt("linear", "", margins))
    assert found.question == max(every, key=lambda item: item.valid_auroc).question
    assert sum(found.classes.values()) == found.patients


def test_the_average_of_several_releases_undoes_noise_that_one_release_hides():
    table = planted(side=4)

    def noisy(number):
        return table.values + np.random.default_rng(number).normal(0, 1.0, table.values.shape)

    attacks, rows = attacks_of(question(table, noisy))
    judge = Judge(rows, seed=0)
    alone = judge.of(Attempt("one", "", attacks.vector("linear", attacks.draws(0))(attacks.draws(0))))
    together = judge.of(judge.best(attacks.averages().values()))
    assert together.name == "average-of-10"
    assert together.auroc > alone.auroc + 0.1


def test_equal_draws_are_not_averaged():
    table = planted(40)
    attacks = ReleaseAttacks(
        question(table, table.values), DrawCache(lambda number: table.values, table.values.shape),
        attack_rows(question(planted(), planted().values)), SILENT,
    )  # fmt: skip
    assert attacks.draws.constant
    assert attacks.averages() == {}


def test_attackers_do_not_train_on_rows_that_the_method_was_fitted_on():
    table = planted()
    fitted = np.array(
        [
            split == "train" and int(who[1:]) % 4 < 2
            for who, split in zip(table.patients, table.split, strict=True)
        ]
    )
    rows = attack_rows(question(table, table.values, fitted=fitted))
    assert not fitted[rows.train].any()
    assert len(rows.train) == (table.where("train") & ~fitted).sum()


def test_scores_of_test_rows_do_not_depend_on_their_attribute():
    """Attributes of test rows are permuted, which changes no margin: nothing was learned from them."""
    table = planted()
    kinds = table.private["sex"].copy()
    test = table.where("test")
    kinds[test] = np.random.default_rng(0).permutation(kinds[test])
    other = dataclasses.replace(table, private={"sex": kinds})
    for kind in ("linear", "boosted"):
        first, second = (
            attacks_of(question(one, one.values))[0].vector(kind, one.values)(one.values)
            for one in (table, other)
        )
        assert np.array_equal(first, second)


def test_patients_keep_one_class_when_attributes_are_permuted():
    rows = attack_rows(question(planted(), planted().values))
    moved = permuted(rows, 0, 0)
    for person in np.unique(rows.patient):
        assert len(set(moved[rows.patient == person].tolist())) == 1
    for part in (rows.train, rows.valid, rows.test):
        assert np.array_equal(np.bincount(moved[part]), np.bincount(rows.classes[part]))


def test_the_null_shows_that_folding_raises_areas_of_few_patients():
    few, many = (
        measure_null(
            without_corner(table), attack_rows(question(table, table.values)), permutations=19, seed=0
        )
        for table in (planted(80, images=1), planted(500, images=1))
    )
    assert few.mean > 0.53
    assert few.high > many.high > 0.5
    assert few.p_value > 0.05


def test_an_interval_is_folded_at_its_ends():
    assert folded_ends((0.3, 0.6)) == (0.5, 0.7)


def test_log_odds_of_two_classes_are_the_difference_of_logits():
    logits = np.array([[1.0, 3.0], [0.0, -2.0]])
    assert np.allclose(log_odds(logits)[:, 1], logits[:, 1] - logits[:, 0])


@pytest.mark.slow
def test_utility_is_lost_where_the_label_is_erased_and_kept_where_it_is_not():
    table = planted(160)
    erased = np.random.default_rng(3).normal(0.5, 0.1, table.values.shape).astype(np.float32)
    for values, low, high in ((without_corner(table), -0.05, 0.05), (erased, 0.3, 0.6)):
        asked = question(table, values, attack_epochs=6)
        losses, leaks = measure_utility(asked, DrawCache(asked.draws, table.values.shape), attack_rows(asked))
        again = next(item for item in losses if item.regime == "retrained" and not item.group)
        assert again.clean > 0.9
        assert low < again.loss < high
        assert again.loss_low <= again.loss <= again.loss_high
        assert {item.group for item in losses} == {"", "F", "M"}
        assert leaks[1].auroc < 0.7  # the release does not hold the attribute any more


def test_a_small_cell_has_no_number():
    table = planted(120)
    ill = table.labels["ill"].copy()
    ill[table.where("test")] = 0
    ill[np.flatnonzero(table.where("test"))[:4]] = 1
    asked = question(dataclasses.replace(table, labels={"ill": ill}), table.values, attack_epochs=1)
    losses, _ = measure_utility(asked, DrawCache(asked.draws, table.values.shape), attack_rows(asked))
    assert {item.refusal for item in losses} == {"insufficient"}
    assert all(item.loss is None for item in losses)


@pytest.mark.slow
def test_outputs_of_a_utility_model_that_tell_the_attribute_are_reported():
    table = planted(200, images=1)
    label = {"ill": table.private["sex"].astype(np.float64)}  # the worst case: the label is the attribute
    asked = question(dataclasses.replace(table, labels=label), table.values, attack_epochs=8)
    _, leaks = measure_utility(asked, DrawCache(asked.draws, table.values.shape), attack_rows(asked))
    assert all(item.low > 0.8 for item in leaks)


def test_patients_are_recognised_in_originals_and_not_in_images_that_show_nothing():
    table = planted(120, images=3)
    shared = np.random.default_rng(5).normal(0, 0.1, (120, 1, 8, 8)).astype(np.float32)
    known = dataclasses.replace(table, values=table.values + np.repeat(shared, 3, axis=0))
    other = np.random.default_rng(6).random(table.values.shape).astype(np.float32)
    asked = question(known, other)
    found = {
        item.subject: item for item in measure_reidentification(asked, DrawCache(asked.draws, other.shape))
    }
    assert found["original"].low > 0.7
    assert found["released"].low < 0.5 < found["released"].high
    assert found["labels"].auroc is not None


def test_released_values_of_another_shape_are_refused():
    table = planted(40)
    with pytest.raises(DataError, match="released values of shape"):
        DrawCache(lambda number: table.values[:-1], table.values.shape)(0)


def test_an_attribute_of_too_few_patients_is_refused():
    with pytest.raises(DataError, match="10 patients of a class"):
        attack_rows(question(planted(30), planted(30).values))


def hidden_by_a_label(table):
    """Return images whose corner says whether attribute and label agree: neither tells anything alone."""
    values = without_corner(table)
    agree = table.private["sex"] == table.labels["ill"]
    values[:, :, :2, :2] += (0.4 * agree - 0.2)[:, None, None, None].astype(np.float32)
    return np.clip(values, 0, 1)


def test_images_that_tell_the_attribute_only_with_the_label_beside_them_are_found():
    table = planted(200)
    asked = question(table, hidden_by_a_label(table))
    rows = attack_rows(asked)
    judge = Judge(rows, seed=0)
    assert attack_columns(asked, rows, judge)[0].low == 0.5
    assert attack_with_columns(asked, asked.draws(0), rows, judge)[0].low > 0.8


def test_codes_are_attacked_alone_and_with_the_label():
    table = planted(200)
    code = (table.private["sex"] == table.labels["ill"]).astype(np.int64)
    asked = question(table, table.values, codes=code)
    rows = attack_rows(asked)
    judge = Judge(rows, seed=0)
    assert attack_codes(asked, rows, judge)[0].low < 0.6
    assert attack_with_columns(asked, asked.draws(0), rows, judge)[-1].auroc > 0.95
    plain = question(table, table.values, codes=table.private["sex"])
    assert attack_codes(plain, rows, judge)[0].auroc == 1.0
    assert attack_codes(question(table, table.values), rows, judge) == ()


def attempts(rows, **areas):
    """Attackers with a given share of rows told rightly, in (validation, test)."""
    truth = rows.contests[0].truth
    made = []
    for name, (valid, test) in areas.items():
        margins = np.zeros((len(truth), 2))
        for part, share in ((rows.valid, valid), (rows.test, test)):
            right = np.arange(len(part)) < share * len(part)
            margins[part, 1] = np.where(right, truth[part], 0.5)
        made.append(Attempt(name, "", margins))
    return made


def test_no_choice_depends_on_the_order_of_attackers():
    table = planted(160)
    judge = Judge(rows := attack_rows(question(table, table.values)), seed=0)
    assert judge.may_choose
    tied = attempts(rows, first=(0.5, 0.1), second=(0.5, 0.6), third=(0.4, 0.9))
    nearer = dataclasses.replace(tied[0], name="the less far one", margins=tied[0].margins.copy())
    nearer.margins[rows.valid, 1] += nearer.margins[rows.valid, 1] == 1  # the same order of the rows
    for others in (tied, [*tied, nearer]):
        for order in (others, others[::-1]):
            assert judge.best(order).name == "second"
            assert chosen_of([judge.of(item) for item in order]) == "second"
    one, two, near = (judge.of(item) for item in (*tied[:2], nearer))
    assert near.valid_auroc == two.valid_auroc
    assert near.valid_separation < two.valid_separation
    assert (one.valid_auroc, one.valid_separation) == (two.valid_auroc, two.valid_separation)
    assert one.auroc != two.auroc  # equal in everything but the test split, which chooses nothing


def test_the_highest_variant_stands_beside_the_chosen_one():
    table = planted(160)
    judge = Judge(rows := attack_rows(question(table, table.values)), seed=0)
    made = attempts(rows, chosen=(0.9, 0.2), higher=(0.1, 0.8))
    same = [dataclasses.replace(item, name="purifier", variant=item.name) for item in made]
    chosen, highest = judge.variants(same)
    assert (chosen.name, highest.name) == ("purifier", "purifier, by higher")
    assert highest.high > chosen.high


def test_with_few_validation_patients_nothing_is_chosen_and_the_highest_is_shown():
    table = planted(80)
    rows = attack_rows(question(table, table.values))
    judge = Judge(rows, seed=0)
    assert min(judge.validation.values()) < 10
    assert not judge.may_choose
    assert judge.best(attempts(rows, valid=(0.9, 0.1), test=(0.1, 0.9))).name == "test"


def test_codes_are_attacked_by_patients_that_took_no_part_in_balancing_them():
    table = planted(240, images=1)
    rng = np.random.default_rng(0)
    told = rng.random(len(table)) < 0.8
    code = np.where(told, table.private["sex"], rng.integers(0, 2, len(table)))
    train = table.where("train")
    code[train] = rng.integers(0, 2, int(train.sum()))  # balanced where the method was fitted
    asked = question(table, table.values, codes=code)
    rows = attack_rows(asked)
    found = {item.name: item for item in attack_codes(asked, rows, Judge(rows, seed=0))}
    assert found["code, learned from new patients"].auroc > 0.75


def test_large_images_are_averaged_over_blocks_for_attacks_on_vectors():
    values = np.random.default_rng(0).random((3, 1, 130, 100)).astype(np.float32)
    coarse = coarse_images(values)
    assert coarse.shape == (3, 1, 65, 50)
    assert np.allclose(coarse[:, 0, 0, 0], values[:, 0, :2, :2].mean((1, 2)))
    assert np.array_equal(coarse_images(values[:, :, :64, :64]), values[:, :, :64, :64])


def test_an_attacker_that_is_always_wrong_tells_as_much_as_one_that_is_right():
    table = planted()
    attacks, rows = attacks_of(question(table, table.values))
    margins = attacks.vector("linear", table.values)(table.values)
    right, wrong = (Judge(rows, seed=0).of(Attempt("linear", "", sign * margins)) for sign in (1, -1))
    assert (right.auroc, right.low, right.high) == pytest.approx((wrong.auroc, wrong.low, wrong.high))
    assert right.oriented_auroc == pytest.approx(wrong.oriented_auroc)  # both directions are known from V


def test_all_images_of_a_patient_tell_more_than_one_of_them():
    table = planted(400, images=4, strength=0.1, side=4)
    attacks, rows = attacks_of(question(table, table.values))
    margins = attacks.vector("linear", table.values)(table.values)
    single = one_row_per_patient(rows)
    assert len(single.test) == len(np.unique(rows.patient[rows.test]))
    means = patient_means(margins, rows.patient)
    alone, together = (Judge(single, seed=0).of(Attempt("linear", "", item)) for item in (margins, means))
    assert together.auroc > alone.auroc + 0.05
