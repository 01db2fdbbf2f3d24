"""Erasure of an attribute from vectors: against the numbers of another program, and as a method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, UsageError
from meninx.core.progress import SILENT
from meninx.obfuscate import stage
from meninx.obfuscate.config import ObfuscateConfig
from meninx.obfuscate.erasure import fit_least_squares, fit_quadratic
from meninx.obfuscate.obfuscator import ImageTable, create

# concept-erasure 0.2.4 (Belrose et al., MIT): LeaceFitter(svd_tol=1e-6, constrain_cov_trace=False).eraser.P
PLAIN = [
    [1.0066920426, 0.0140521955, 0.0089240894, -0.1237253599],
    [-0.1085514914, 0.8240900871, -0.1704413844, -0.0404077944],
    [-0.5300347033, -0.8670239904, 0.1717640484, 0.1211066752],
    [0.0038905701, 0.0318197762, -0.0064862817, -0.0025461781],
]
SHRUNK = [
    [0.990109344, -0.0034415529, 0.012320663, -0.1205634787],
    [-0.0191480567, 0.933269912, -0.1918049445, -0.0584223838],
    [-0.0655666587, -0.3067692256, 0.0622040444, 0.027970234],
    [-0.0873793349, -0.0577078474, 0.0108212081, 0.0144166995],
]
# the same, QuadraticFitter(shrinkage=False).eraser.ot_maps
TRANSPORT = [
    [
        [0.80088193, -0.22209469, -0.03801876, 0.01586282],
        [-0.22209469, 0.74772101, 0.02839405, -0.03891019],
        [-0.03801876, 0.02839405, 0.96190011, -0.10442242],
        [0.01586282, -0.03891019, -0.10442242, 1.09234809],
    ],
    [
        [2.98559283, 2.23331634, 0.08896345, 0.09582209],
        [2.23331634, 3.53073377, 0.03020712, 0.14460085],
        [0.08896345, 0.03020712, 1.06930685, 0.09996243],
        [0.09582209, 0.14460085, 0.09996243, 0.94660354],
    ],
]


def small():
    i = np.arange(24)
    vectors = np.stack([i * 7 % 13, i * 5 % 11, i * i % 17, i % 3 * 4 + i % 5], axis=1).astype(float)
    return vectors, i, np.full(24, 1 / 24)


@pytest.mark.parametrize(("shrunk", "wanted"), [(False, PLAIN), (True, SHRUNK)])
def test_the_map_is_that_of_the_authors_program(shrunk, wanted):
    vectors, rows, weights = small()
    eraser = fit_least_squares(vectors, rows % 3, weights, shrunk=shrunk)
    assert eraser.rank == 2
    np.testing.assert_allclose(np.eye(4) - eraser.left @ eraser.right, wanted, atol=1e-9)


def test_the_quadratic_map_is_that_of_the_authors_program():
    vectors, rows, weights = small()
    np.testing.assert_allclose(fit_quadratic(vectors, rows // 12, weights).maps, TRANSPORT, atol=1e-7)


def vectors_of(patients=120, features=8, seed=0, **changed) -> ImageTable:
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), 2)
    sex, ill = (np.arange(patients) % 2)[who], rng.integers(0, 2, patients)[who]
    values = rng.normal(size=(len(who), features)) + np.outer(sex, np.linspace(0, 2, features))
    values[:, 0] += 2 * ill
    values[:, -1] *= 1 + 2 * sex  # the covariance tells, too
    given = {
        "values": values.astype(np.float32),
        "cases": tuple(f"c{row}" for row in range(len(who))),
        "patients": tuple(f"p{number}" for number in who),
        "split": tuple(("train", "train", "valid", "test")[number // 2 % 4] for number in who),
        "private": {"sex": sex.astype(np.int64)},
        "classes": {"sex": ("F", "M")},
        "labels": {"ill": ill.astype(np.float64)},
    }
    return ImageTable(**{**given, **changed})


def fitted(table: ImageTable, method="leace", **given):
    config = ObfuscateConfig.of(method=method, **given)
    return create(config.method, config, key=bytes(32)).fit(table, seed=0, progress=SILENT)


def means_apart(values, table, rows) -> float:
    kinds = table.private["sex"]
    one, other = (values[rows & (kinds == kind)].mean(axis=0, dtype=np.float64) for kind in (0, 1))
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("method", ["leace", "kernel-erasure"])
def test_means_are_equal_on_training_patients_and_other_rows_change_nothing(method):
    table = vectors_of()
    eraser = fitted(table, method)
    train, test = table.where("train"), table.where("test")
    values = eraser.release(table)
    assert means_apart(eraser.represented(table), table, train) > 0.2
    assert means_apart(values, table, train) < 1e-5
    assert means_apart(values, table, test) < means_apart(eraser.represented(table), table, test)
    np.testing.assert_array_equal(eraser.release(table.select(test)), values[test])
    again = fitted(table.select(train), method).release(table)
    np.testing.assert_array_equal(again, values)
    assert eraser.facts()["erased_directions"] == 1
    assert set(eraser.private_files()) == {"eraser.npz"}


def test_kernel_features_are_released_beside_the_vectors_and_their_means_are_equal_too():
    table = vectors_of()
    eraser = fitted(table, "kernel-erasure", kernel_features=20)
    values = eraser.release(table)
    assert values.shape == (len(table), 28)
    assert means_apart(eraser.represented(table)[:, 8:], table, table.where("train")) > 0.05
    assert means_apart(values[:, 8:], table, table.where("train")) < 1e-5


@pytest.mark.parametrize("large", [0, 3, 7])
def test_the_unit_of_a_feature_changes_nothing_in_what_is_erased(large):
    plain = vectors_of()
    units = np.full(8, 1e-15)
    units[large] = 1e15
    table = replace(plain, values=(plain.values * units).astype(np.float32))
    erased = fitted(table).release(table).astype(np.float64) / units
    train, kinds = plain.where("train"), plain.private["sex"]
    spread = plain.values[train].std(axis=0)
    for values, most in ((plain.values.astype(np.float64), None), (erased, 1e-5)):
        one, other = (values[train & (kinds == kind)].mean(axis=0) for kind in (0, 1))
        apart = np.abs(one - other) / spread
        assert apart.max() > 0.5 if most is None else apart.max() < most
    np.testing.assert_allclose(erased, fitted(plain).release(plain), atol=0.6)  # shrinkage depends on units


def test_patients_weigh_the_same_whatever_their_number_of_vectors():
    table = vectors_of()
    rows = np.arange(len(table))
    fewer = table.select((rows % 2 == 0) | (rows < 40))
    values = fitted(fewer).release(fewer)
    train, kinds = fewer.where("train"), fewer.private["sex"]
    people = np.unique(np.array(fewer.patients), return_inverse=True)[1]
    weight = 1 / np.bincount(people)[people]
    one, other = (
        np.average(values[train & (kinds == kind)], axis=0, weights=weight[train & (kinds == kind)])
        for kind in (0, 1)
    )
    assert np.abs(one - other).max() < 1e-5
    assert means_apart(values, fewer, train) > 1e-4


def test_the_quadratic_variant_reads_the_class_and_refuses_an_unknown_one():
    table = vectors_of()
    values = fitted(table, quadratic=True).release(table)
    train, kinds = table.where("train"), table.private["sex"]
    spread = [values[train & (kinds == kind)].std(axis=0, dtype=np.float64) for kind in (0, 1)]
    np.testing.assert_allclose(*spread, rtol=1e-4)
    unknown = {"sex": np.where(np.arange(len(table)) == 3, -1, kinds)}
    some = vectors_of(private=unknown)
    fitted(some).release(some)  # LEACE does not read it
    with pytest.raises(PrivacyRefusal, match="1 vectors have no known class"):
        fitted(table, quadratic=True).release(some)
    with pytest.raises(DataError, match="training rows of every class"):
        fitted(vectors_of(features=80), quadratic=True)


def test_codes_of_erased_vectors_are_released_as_prototypes_with_a_certificate_or_a_refusal():
    table = vectors_of(160)
    coded = fitted(table, quantise=True)
    values = coded.release(table)
    assert len(np.unique(values, axis=0)) == coded.facts()["codes"] <= 12
    (few,) = coded.certificates(table, "sex", target=0.6)
    assert few.limit is None
    assert "not certified: needs" in few.sentence
    many = vectors_of(6000)
    (found,) = fitted(many, quantise=True, most_codes=4).certificates(many, "sex", target=0.6)
    assert 0.5 < found.plug_in < found.limit < 0.6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "codes", "quadratic": True}, "does not read it (quadratic)"),
        ({"method": "leace", "kernel_features": 9}, "has no kernel"),
        ({"method": "kernel-erasure", "quadratic": True}, "no covariance"),
        ({"method": "leace", "most_codes": 9}, "does not read it (most_codes)"),
        ({"method": "leace", "budget": 0.1}, "has no budget"),
    ],
)
def test_settings_without_effect_are_refused(given, words):
    with pytest.raises(ConfigError) as refused:
        ObfuscateConfig.of(**given)
    assert words in str(refused.value)


def test_only_the_variants_that_read_the_class_may_go_below_the_label_floor():
    def aware(**given):
        return ObfuscateConfig.of(**given).aware

    assert [aware(method="leace"), aware(method="kernel-erasure")] == [False, False]
    assert aware(method="leace", quadratic=True)
    assert aware(method="leace", quantise=True)
    assert not aware(method="leace", quantise=True, balance="none")


def test_too_few_patients_images_and_constant_features_are_refused(tmp_path):
    with pytest.raises(DataError, match="at least 10 training patients"):
        fitted(vectors_of(24))
    table = vectors_of()
    with pytest.raises(DataError, match="for feature vectors"):
        fitted(vectors_of(values=table.values[:, None, None, :]))
    with pytest.raises(DataError, match="do not differ"):
        fitted(vectors_of(values=np.ones_like(table.values)))
    with pytest.raises(DataError, match="another length"):
        fitted(table).release(vectors_of(features=9))
    with pytest.raises(UsageError, match="obfuscate features"):
        stage.run(ObfuscateConfig.of(method="leace"), tmp_path, tmp_path / "out")
