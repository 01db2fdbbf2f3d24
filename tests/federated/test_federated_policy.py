"""The policy of a site: strict unless the hospital says otherwise, with a reason for each refusal."""

from __future__ import annotations

import os

import pytest

from meninx.core import settings
from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.federated import code_hash
from meninx.federated.code_hash import CodeVersion
from meninx.federated.config import StudyConfig, recipe_digest
from meninx.federated.policy import PolicyConfig, read_policy, refusals, write_policy

TINY = {"model": "resnet9-small", "lr": 3e-3, "batch_size": 16, "physical_batch": 16}
PRIVATE = TINY | {"epsilon": 3.0, "delta": 1e-5}
ALLOWING = PolicyConfig(max_epsilon=8.0, allowed_recipes=("tiny",))
OWN = code_hash.installed()


def study(train: dict | None = None, **changes: object) -> StudyConfig:
    return StudyConfig.of(name="chest", train=PRIVATE if train is None else train, **changes)


def reasons(policy: PolicyConfig, config: StudyConfig, *, code: CodeVersion = OWN, sites: int = 4) -> str:
    return " ".join(refusals(policy, config, code, sites))


def test_a_policy_that_allows_a_study_says_nothing():
    assert reasons(ALLOWING, study()) == ""


def test_the_default_allows_no_recipe_and_little_epsilon():
    found = refusals(PolicyConfig(), study(), OWN, 4)
    assert [word for reason in found for word in ("max_epsilon", "allowed_recipes") if word in reason] == [
        "max_epsilon",
        "allowed_recipes",
    ]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aggregation": "plain"}, "coordinator sees the update of every site"),
        ({"aggregation": "plain", "algorithm": "cyclic"}, "sees the model of the site before"),
        ({"train": TINY}, "without differential privacy"),
        ({"train": PRIVATE | {"epsilon": 8.1}}, "epsilon 8.1 per patient, the policy allows at most 8"),
        ({"train": PRIVATE | {"delta": 1e-4}}, "delta 0.0001"),
        ({"train": PRIVATE | {"unit": "case"}}, "per patient"),
        ({"train": PRIVATE | {"deterministic": True}}, "seed that everybody knows"),
        ({"train": PRIVATE | {"lr": 1.0}}, "no allowed recipe"),
        ({"train": PRIVATE | {"model": "unet"}}, "no allowed recipe"),
    ],
)
def test_a_weaker_study_is_refused_with_its_reason(changes, words):
    assert words in reasons(ALLOWING, study(**changes))


@pytest.mark.parametrize(
    ("sites", "policy", "words"),
    [
        (2, {}, "3 to 32 sites"),
        (4, {"min_quorum": 4}, "over 3, the policy requires at least 4"),
        (33, {}, "3 to 32 sites"),
    ],
)
def test_too_few_or_too_many_sites_are_refused(sites, policy, words):
    assert words in reasons(ALLOWING.replace(**policy), study(), sites=sites)


def test_a_plain_study_of_two_sites_has_a_quorum_of_two():
    policy = ALLOWING.replace(require_secure_aggregation=False)
    assert "over 2" in reasons(policy, study(aggregation="plain"), sites=2)
    assert reasons(policy.replace(min_quorum=2), study(aggregation="plain"), sites=2) == ""


@pytest.mark.parametrize(
    ("changes", "sites", "opened"),
    [
        ({}, 4, 3),
        ({}, 10, 7),
        ({"aggregation": "ckks"}, 10, 7),
        ({"aggregation": "shares"}, 4, 4),
        ({"aggregation": "plain"}, 10, 2),
        ({"aggregation": "plain", "algorithm": "cyclic"}, 10, 1),
    ],
)
def test_min_quorum_is_compared_with_the_fewest_sites_that_the_coordinator_needs(changes, sites, opened):
    config = study(**changes)
    policy = ALLOWING.replace(require_secure_aggregation=False, min_quorum=opened)
    assert reasons(policy, config, sites=sites) == ""
    refusal = reasons(policy.replace(min_quorum=opened + 1), config, sites=sites)
    assert f"at least {opened + 1} (min_quorum)" in refusal
    assert ("nothing is added up" if opened == 1 else f"over {opened}") in refusal


def test_other_code_is_refused_and_pinned_code_is_compared():
    changed = CodeVersion(OWN.version, "0" * 64)
    assert "source differs" in reasons(ALLOWING, study(), code=changed)
    pinned = ALLOWING.replace(allowed_code=("1" * 64,))
    assert "allowed_code" in reasons(pinned, study())
    assert reasons(ALLOWING.replace(allowed_code=(OWN.digest,)), study()) == ""
    assert "source differs" in reasons(ALLOWING.replace(allowed_code=("0" * 64,)), study(), code=changed)


def test_settings_by_digest_are_exactly_these():
    own = study(train=PRIVATE | {"lr": 0.5})
    digest = recipe_digest(own.training)
    policy = ALLOWING.replace(allowed_recipes=(digest,))
    assert reasons(policy, own) == ""
    assert digest in reasons(ALLOWING, own)
    assert "no allowed recipe" in reasons(policy, study(train=PRIVATE | {"lr": 0.6}))
    assert reasons(policy.replace(allowed_recipes=("any",)), study(train=PRIVATE | {"lr": 0.6})) == ""


def test_length_seed_and_privacy_do_not_make_another_recipe():
    longer = study(rounds=50, train=PRIVATE | {"seed": 7, "epsilon": 1.0, "max_grad_norm": 2.0})
    assert reasons(ALLOWING, longer) == ""


def test_a_rehearsal_may_take_noise_from_a_seed_where_the_hospital_says_so():
    assert (
        reasons(ALLOWING.replace(allow_deterministic=True), study(train=PRIVATE | {"deterministic": True}))
        == ""
    )


def test_the_written_policy_is_read_back_and_an_edited_one_is_left(tmp_path):
    path = tmp_path / "policy.toml"
    write_policy(path, ALLOWING)
    assert read_policy(path) == ALLOWING
    assert all(f"{name} = " in path.read_text() for name in settings.index(PolicyConfig))
    write_policy(path, PolicyConfig())
    assert read_policy(path) == ALLOWING


def test_an_empty_policy_is_the_strict_one(tmp_path):
    (tmp_path / "policy.toml").write_text("")
    assert read_policy(tmp_path / "policy.toml") == PolicyConfig()


@pytest.mark.parametrize(
    "content",
    [
        b"max_epsilom = 3.0",
        b"[privacy]\nmax_epsilon = 3.0",
        b"max_epsilon = -1.0",
        b"max_epsilon = inf",
        b"max_epsilon = nan",
        b'max_epsilon = "8"',
        b"require_secure_aggregation = 0",
        b"min_quorum = 0",
        b'allowed_recipes = ["tyni"]',
        b'allowed_recipes = ["0000"]',
        b'allowed_code = ["any"]',
        b"max_delta = 1.0",
        b"max_epsilon =",
        b"\xff\xfe",
        b"#" * (1 << 17),
        b"x = " + b"[" * 10_000,
    ],
)
def test_a_policy_that_cannot_be_used_refuses_every_study(tmp_path, content):
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(PrivacyRefusal, match="no study"):
        read_policy(path)


def test_a_missing_policy_refuses_every_study(tmp_path):
    with pytest.raises(PrivacyRefusal, match="no study"):
        read_policy(tmp_path / "policy.toml")
    (tmp_path / "policy.toml").mkdir()
    with pytest.raises(PrivacyRefusal, match="no study"):
        read_policy(tmp_path / "policy.toml")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_a_policy_that_everybody_may_change_is_none(tmp_path):
    path = tmp_path / "policy.toml"
    write_policy(path, ALLOWING)
    path.chmod(0o666)
    with pytest.raises(PrivacyRefusal, match="chmod o-w"):
        read_policy(path)


def test_a_slip_in_the_policy_is_not_consent():
    with pytest.raises(ConfigError, match="allowed_recipes"):
        PolicyConfig(allowed_recipes=("tyni",))
