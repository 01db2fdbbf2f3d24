"""Attribute-aware codes: what is released, what attackers find in it, and what is refused."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from planted_images import coarse, planted_table

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal
from meninx.core.progress import SILENT
from meninx.metrics.bootstrap import Areas, Draws
from meninx.metrics.classification import Ranking, auroc
from meninx.metrics.groups import Grouping
from meninx.metrics.intervals import percentile_interval
from meninx.metrics.label_floor import label_floor
from meninx.obfuscate import dataset_table
from meninx.obfuscate.codes import LEAST_IMAGES, create
from meninx.obfuscate.config import CodeSettings, ObfuscateConfig
from meninx.obfuscate.obfuscator import CodedObfuscator
from meninx.obfuscate.published_columns import PublishedColumns
from meninx.obfuscate.utility_scores import cross_fitted_utility
from meninx.synthetic import write_dataset

KEY = bytes(range(32))


def fitted(table, key=KEY, seed=0, attribute="sex", **settings):
    config = ObfuscateConfig(
        method="codes", attribute=attribute, codes=CodeSettings(**{"utility": "linear", **settings})
    )
    return create(config, key).fit(table.select(~table.where("test")), seed=seed, progress=SILENT)


def area_of(inputs, targets, fit, judge):
    """Return the AUROC on rows ``judge`` of a linear model that was fitted on rows ``fit``."""
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    mean, deviation = flat[fit].mean(axis=0), flat[fit].std(axis=0) + 1e-6
    design = np.column_stack([(flat - mean) / deviation, np.ones(len(flat))])
    gram = design[fit].T @ design[fit] + 0.01 * fit.sum() * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design[fit].T @ (targets[fit] - targets[fit].mean()))
    return auroc(targets[judge], (design @ weights)[judge])


def table_area(codes, targets, fit, judge):
    """Return the AUROC on rows ``judge`` of the target's mean per code on rows ``fit``, the best attack."""
    size = int(codes.max()) + 1
    total = np.bincount(codes[fit], weights=targets[fit], minlength=size)
    scores = (total + targets[fit].mean()) / (np.bincount(codes[fit], minlength=size) + 1)
    return auroc(targets[judge], scores[codes[judge]])


@pytest.fixture(scope="module")
def table():
    return planted_table(700)


@pytest.fixture(scope="module")
def codes(table):
    return fitted(table)


def test_the_planted_population_has_what_the_criteria_need(table):
    train, rest = table.where("train"), ~table.where("train")
    assert area_of(coarse(table.values), table.private["sex"], train, rest) > 0.9
    assert area_of(coarse(table.values, 16), table.labels["nodule"], train, rest) > 0.85


def test_the_codes_keep_the_disease_and_hide_the_sex(table, codes):
    assert isinstance(codes, CodedObfuscator)
    train, rest = table.where("train"), ~table.where("train")
    sex, disease, found = table.private["sex"], table.labels["nodule"], codes.codes(table)
    attack = table_area(found, sex, train, rest)
    assert max(attack, 1 - attack) <= 0.58
    released = codes.release(table)
    attack = area_of(coarse(released), sex, train, rest)
    assert max(attack, 1 - attack) <= 0.58
    clean = auroc(disease[rest], codes.utility.models[0](table.values[rest])[:, 0])
    assert table_area(found, disease, train, rest) > clean - 0.03
    facts = codes.facts()
    assert facts["balance"] == "class"
    assert abs(facts["auroc_of_codes"]["nodule"] - facts["auroc_out_of_fold"]["nodule"]) < 0.02


def test_training_patients_of_both_sexes_have_every_code_equally_often(table, codes):
    train = table.select(table.where("train"))
    found, patients = codes.codes(train), np.unique(train.patients, return_inverse=True)[1]
    weight = 1 / np.bincount(patients)[patients]
    shares = []
    for sex in (0, 1):
        rows = train.private["sex"] == sex
        masses = np.bincount(found[rows], weights=weight[rows])
        shares.append(masses / masses.sum())
    assert np.abs(shares[0] - shares[1]).max() < 1.5 / 150  # a row has at most the mass of one patient


def test_without_the_attribute_the_codes_tell_it_where_the_disease_does():
    table = planted_table(700, rho=0.7)
    train, rest, sex = table.where("train"), ~table.where("train"), table.private["sex"]
    aware, oblivious = fitted(table), fitted(table, balance="none")
    assert table_area(oblivious.codes(table), sex, train, rest) >= 0.7
    attack = table_area(aware.codes(table), sex, train, rest)
    assert max(attack, 1 - attack) <= 0.58
    patients = np.unique(table.patients, return_inverse=True)[1]
    floor = label_floor(Grouping("sex", ("F", "M"), sex), table.labels, patients, draws=100)
    assert floor.value > 0.7


def test_codes_beside_published_labels_tell_more_than_the_labels_unless_they_are_balanced_within_them():
    table = planted_table(1000, rho=0.6)
    train, rest, sex = table.where("train"), ~table.where("train"), table.private["sex"]
    label = table.labels["nodule"].astype(int)
    alone = table_area(label, sex, train, rest)
    together = {}
    for balance in ("class", "class-and-labels"):
        codes = fitted(table, balance=balance, levels=(6,)).codes(table)
        together[balance] = table_area(2 * codes + label, sex, train, rest)
    assert together["class"] > alone + 0.05
    assert abs(together["class-and-labels"] - alone) < 0.02


def test_balance_within_labels_takes_unknown_ones_for_a_value_and_refuses_many(table):
    some = table.labels["nodule"].copy()
    some[::7] = np.nan
    codes = fitted(dataclasses.replace(table, labels={"nodule": some}), balance="class-and-labels")
    assert codes.facts()["codes"] > 2
    many = {f"label {number}": table.labels["nodule"] for number in range(6)}
    with pytest.raises(ConfigError, match="at most 5 labels"):
        fitted(dataclasses.replace(table, labels=many), balance="class-and-labels")


def test_an_image_has_the_same_code_in_ten_releases_and_however_it_comes_again(table, codes):
    rows = np.flatnonzero(table.where("test"))[:60]
    some = table.select(rows)
    first = codes.release(some)
    assert all((codes.release(some, draw=draw) == first).all() for draw in range(10))
    again = dataclasses.replace(
        some.select(np.arange(60)[::-1]),
        cases=tuple(f"new {row}" for row in range(60)),
        patients=tuple(f"new {row}" for row in range(60)),
        private={"sex": 1 - some.private["sex"][::-1]},
    )
    assert (codes.release(again) == first[::-1]).all()
    train = table.select(table.where("train"))
    known = codes.codes(train)
    moved = dataclasses.replace(train, split=("test",) * len(train))
    assert (codes.codes(moved) == known).all()


def test_a_released_image_is_one_of_the_prototypes_in_8_bits(table, codes):
    released = codes.release(table)
    different = np.unique(released.reshape(len(released), -1), axis=0)
    assert len(different) == codes.facts()["codes"] == len(codes.prototypes)
    assert (np.round(released * 255) / np.float32(255) == released).all()
    assert released.dtype == np.float32


def test_a_prototype_averages_16_images_of_16_patients_balanced_by_class(table, codes):
    place = {case: row for row, case in enumerate(table.cases)}
    assert len(codes.galleries) == len(codes.prototypes)
    for code, cases in enumerate(codes.galleries):
        rows = [place[case] for case in cases]
        assert {table.split[row] for row in rows} == {"train"}
        assert len(rows) == len({table.patients[row] for row in rows}) >= LEAST_IMAGES
        sexes = table.private["sex"][rows]
        assert (sexes == 0).sum() == (sexes == 1).sum()
        assert codes.prototypes[code] == pytest.approx(table.values[rows].mean(axis=0), abs=0.5 / 255 + 1e-6)


def correlations(estimates, images):
    """Return the correlation of every estimate with every image."""
    first = estimates.reshape(len(estimates), -1)
    second = images.reshape(len(images), -1)
    first, second = (part - part.mean(axis=1, keepdims=True) for part in (first, second))
    first, second = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (first, second))
    return first @ second.T


def test_the_prototypes_cannot_be_unmixed_into_gallery_images(table, codes):
    """The attacker knows which images are in which prototype, and solves for the images."""
    place = {case: row for row, case in enumerate(table.cases)}
    gallery = [place[case] for cases in codes.galleries for case in cases]
    mixed = np.zeros((len(codes.galleries), len(gallery)))
    start = 0
    for code, cases in enumerate(codes.galleries):
        mixed[code, start : start + len(cases)] = 1 / len(cases)
        start += len(cases)
    estimates = np.linalg.pinv(mixed) @ codes.prototypes.reshape(len(mixed), -1)
    unseen = np.flatnonzero(table.where("test"))[: len(gallery)]
    inside = np.abs(correlations(estimates, table.values[gallery])).max()
    outside = np.abs(correlations(estimates, table.values[unseen])).max()
    assert inside - outside <= 0.05
    # What fixed prototypes prevent: a fresh mean of few images in every release can be solved.
    rng = np.random.default_rng(0)
    fresh = (rng.random((3 * len(gallery), len(gallery))) < 0.05) / 4.0
    solved = np.linalg.pinv(fresh) @ (fresh @ table.values[gallery].reshape(len(gallery), -1))
    assert np.diag(correlations(solved, table.values[gallery])).min() > 0.99


def test_the_key_decides_the_gallery_and_nothing_depends_on_other_randomness(table, codes):
    again, other = fitted(table), fitted(table, key=bytes(32))
    assert again.galleries == codes.galleries
    assert (again.prototypes == codes.prototypes).all()
    assert again.facts() == codes.facts()
    assert other.galleries != codes.galleries


def test_private_files_list_codes_and_galleries_and_the_facts_no_patient(table, codes):
    codes.release(table)
    files = codes.private_files()
    lines = files["codes.csv"].decode().splitlines()
    assert lines[0] == "digest,code"
    assert len(lines) == 1 + len(table)
    assert files["gallery.csv"].decode().splitlines()[1] == f"0,{codes.galleries[0][0]}"
    assert "P0" not in str(codes.facts())


def test_an_unknown_attribute_is_refused_or_its_code_tells_nothing():
    table = planted_table(700, unknown=150)  # in the test split
    refusing = fitted(table)
    with pytest.raises(PrivacyRefusal, match=r"\d+ images have no known class"):
        refusing.release(table)
    refusing.release(table.select(table.private["sex"] >= 0))
    drawing = fitted(table, unknown_attribute="draw")
    found, unknown = drawing.codes(table), table.private["sex"] < 0
    disease = table.labels["nodule"]
    train = table.where("train")
    blind = table_area(found, disease, train, unknown)
    assert abs(blind - 0.5) < 0.1
    assert table_area(found, disease, train, ~unknown & ~train) > 0.8
    drawn = np.bincount(found[unknown], minlength=len(drawing.prototypes)) / unknown.sum()
    assert np.abs(drawn - drawing.masses).max() < 0.1
    in_training = planted_table(700, unknown=450)
    with pytest.raises(PrivacyRefusal, match="known class"):
        fitted(in_training)
    assert fitted(in_training, unknown_attribute="draw").facts()["codes"] >= 2


def test_joint_classes_have_every_code_equally_often():
    table = planted_table(900)
    old = np.array([int(name[1:]) % 2 for name in table.patients])
    joint = dataclasses.replace(
        table,
        private={"sex+age": table.private["sex"] * 2 + old},
        classes={"sex+age": ("F, young", "F, old", "M, young", "M, old")},
    )
    codes = fitted(joint, attribute="sex+age", most_codes=6)
    found = codes.codes(joint)
    train, rest = joint.where("train"), ~joint.where("train")
    for number in range(4):
        attack = table_area(found, (joint.private["sex+age"] == number).astype(float), train, rest)
        assert max(attack, 1 - attack) < 0.6
    assert len(codes.certificates(joint, "sex+age", target=0.6)) == 6


def test_features_are_released_as_mean_features(table):
    features = dataclasses.replace(table, values=coarse(table.values, 16) * 5 - 5)
    codes = fitted(features)
    released = codes.release(features)
    assert released.shape == features.values.shape
    assert released.min() < 0
    with pytest.raises(DataError, match="linear models alone"):
        fitted(features, utility="network")


def test_a_certificate_counts_patients_that_nothing_was_fitted_on(table, codes):
    (found,) = codes.certificates(table, "sex", target=0.6)
    new = {name for name, split in zip(table.patients, table.split, strict=True) if split != "train"}
    assert sum(found.patients) == len(new)
    assert found.limit is None
    assert found.sentence.startswith("sex F against M: not certified: needs ")
    assert found.target == 0.6
    (lenient,) = codes.certificates(table, "sex", target=0.8)
    assert 0.5 < lenient.plug_in < lenient.limit <= 0.8


def test_levels_can_be_given_and_codes_are_merged_until_they_have_enough_patients(table):
    assert fitted(table, levels=(3,)).facts()["codes"] == 3
    many = fitted(table, levels=(40,), patients_per_code=20).facts()
    assert many["codes"] < 16
    assert many["least_images_per_prototype"] >= 40
    with pytest.raises(ConfigError, match="1 labels"):
        fitted(table, levels=(3, 3))


def test_patients_with_images_in_several_codes_do_not_make_a_prototype_of_few_patients(table):
    """Two leaves with the same eight patients are together no more than eight patients."""
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(table.where("train"))
    few = table.select(rows)
    patients = tuple(f"P{number}" for number in rng.integers(0, 40, len(few)))  # about 22 images each
    order = {name: number % 2 for number, name in enumerate(sorted(set(patients)))}
    mixed = dataclasses.replace(
        few, patients=patients, private={"sex": np.array([order[name] for name in patients])}
    )
    for seed in range(2):
        facts = fitted(mixed, seed=seed, levels=(60,), patients_per_code=15).facts()
        assert facts["least_images_per_prototype"] >= 30


def test_too_few_patients_or_labels_are_refused(table):
    with pytest.raises(DataError, match="at least 8 training patients of every class"):
        fitted(planted_table(20))
    rare = dataclasses.replace(table, labels={"rare": np.zeros(len(table))})
    with pytest.raises(DataError, match="10 training patients and absent in as many"):
        fitted(rare)
    codes = fitted(table)
    with pytest.raises(DataError, match="another size"):
        codes.release(dataclasses.replace(table, values=table.values[:, :, :16]))


def test_scores_of_training_patients_come_from_models_that_did_not_see_them():
    """Models of labels without any meaning know their own training patients, and nobody else."""
    rng = np.random.default_rng(0)
    values = rng.random((240, 1, 16, 16), dtype=np.float32)
    patients = np.repeat(np.arange(120), 2)
    label = {"coin": rng.integers(0, 2, 120).astype(float)[patients]}
    utility = cross_fitted_utility(values, label, patients, patients % 3, kind="linear")
    assert 0.35 < utility.auroc["coin"] < 0.65
    seen = utility.models[0](values[patients % 3 != 0])[:, 0]
    assert auroc(label["coin"][patients % 3 != 0], seen) > 0.8


def test_release_at_64_pixels_is_fast():
    table = planted_table(240, side=64)
    codes = fitted(table)
    new = dataclasses.replace(table, values=np.clip(table.values + np.float32(1 / 255), 0, 1))
    codes.release(new.select(np.arange(5)))
    begin = time.process_time()
    codes.release(new)
    assert len(new) / (time.process_time() - begin) >= 5000


@pytest.mark.slow
def test_a_network_scores_the_labels(table):
    codes = fitted(table, utility="network")
    assert codes.facts()["utility"] == "network"
    assert codes.facts()["auroc_out_of_fold"]["nodule"] > 0.75
    some = table.select(table.where("test"))
    assert (codes.release(some) == codes.release(some)).all()
    best = fitted(table, utility="auto").facts()
    linear = fitted(table).facts()["auroc_out_of_fold"]["nodule"]
    assert best["auroc_out_of_fold"]["nodule"] == max(linear, codes.facts()["auroc_out_of_fold"]["nodule"])


@pytest.mark.slow
def test_3000_patients_of_each_sex_hold_every_criterion_of_the_planted_population():
    """Attribute independent of the label, 16 codes: upper limits of attackers, loss of the disease."""
    from meninx.learn.release_attackers import Sides, attribute_task, fit_release_network

    table = planted_table(6000, shares=(0.4, 0.1, 0.5))
    codes = fitted(table, levels=(16,))
    train, valid, test = (table.where(name) for name in ("train", "valid", "test"))
    sex, disease = table.private["sex"], table.labels["nodule"]
    found, released = codes.codes(table), codes.release(table)
    one_hot = np.eye(2, dtype=np.float32)[sex]
    sides = Sides(train=np.flatnonzero(train), valid=np.flatnonzero(valid))
    network = fit_release_network(
        "strided", lambda draw: released, one_hot, sides, task=attribute_task(one_hot.sum(axis=0)), epochs=4
    )
    logits = network(released)
    size = len(codes.prototypes)
    counted = [np.bincount(found[train & (sex == one)], minlength=size) for one in (0, 1)]
    by_code = counted[1] / (counted[0] + counted[1])
    patients = np.unique(np.array(table.patients)[test], return_inverse=True)[1]
    for scores in (logits[:, 1] - logits[:, 0], by_code[found]):
        samples = []
        for sign in (1, -1):
            areas = Areas([Ranking.of(sex[test], sign * scores[test])], patients)
            blocks = Draws(patients, 300).blocks()
            samples.append(np.concatenate([areas.auroc(block)[:, 0] for block in blocks]))
        assert max(percentile_interval(part)[1] for part in samples) <= 0.55
    clean = auroc(disease[test], codes.utility.scores(table.values[test], np.arange(test.sum()) % 3)[:, 0])
    assert clean - table_area(found, disease, train, test) <= 0.02
    (certificate,) = codes.certificates(table, "sex", target=0.6)
    assert min(certificate.patients) >= 1500
    assert certificate.limit <= 0.6
    few = np.isin(table.patients, np.unique(np.array(table.patients)[test])[:200])
    (refused,) = codes.certificates(table.select(few), "sex", target=0.6)
    assert refused.limit is None
    assert "needs 631 patients per group for AUROC 0.60, has" in refused.sentence


@pytest.mark.slow
def test_4000_generated_patients_are_certified_and_no_attacker_does_better(tmp_path):
    """The cohort that everybody can generate: three findings, 1 to 4 images per patient, 32 x 32 pixels."""
    manifest = write_dataset(tmp_path / "cohort", patients=4000, size=32, seed=3)
    sexes = dataset_table.attribute_classes(manifest, ("sex",), ())
    values = dataset_table.read_images(manifest, SILENT)
    table = dataset_table.read_table(manifest, sexes, PublishedColumns(labels=manifest.info.labels), values)
    train, rest, sex = table.where("train"), ~table.where("train"), table.private["sex"]
    assert area_of(coarse(table.values), sex, train, rest) > 0.9
    codes = fitted(table)
    found, released = codes.codes(table), codes.release(table)
    (certificate,) = codes.certificates(table, "sex", target=0.6)
    assert 0.5 < certificate.limit <= 0.6
    attacks = [table_area(found, sex, train, rest), area_of(coarse(released), sex, train, rest)]
    assert max(max(attack, 1 - attack) for attack in attacks) <= certificate.limit
    assert table_area(found, table.labels["effusion"], train, rest) > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_certificate_is_above_every_attacker_for_1500_patients_of_each_sex(rho):
    table = planted_table(3000, rho=rho, shares=(0.4, 0.3, 0.3), seed=5)
    train, rest, sex = table.where("train"), ~table.where("train"), table.private["sex"]
    for balance in ("class", "class-and-labels", "none"):
        codes = fitted(table, balance=balance)
        found = codes.codes(table)
        attack = table_area(found, sex, train, rest)
        (certificate,) = codes.certificates(table, "sex", target=0.7)
        assert certificate.limit >= max(attack, 1 - attack)
        assert (certificate.limit <= 0.65) == (balance == "class" or rho == 0)
