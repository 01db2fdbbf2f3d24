"""Files of other institutions: whatever bytes arrive, the answer is an error of meninx in printable words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.core import signed_file
from meninx.core.errors import MeninxError
from meninx.federated import (
    approval,
    authority,
    code_hash,
    enrolment,
    enrolment_keys,
    policy,
    site_folder,
    study,
)
from meninx.federated.approval import Approval, StudyRefusal
from meninx.federated.audit_log import AuditLog
from meninx.federated.config import NAME, DataConfig, StudyConfig
from meninx.federated.enrolment import EnrolmentRequest
from meninx.federated.policy import PolicyConfig
from meninx.federated.study import StudyFile, StudyFolder

KINDS = (StudyFile, EnrolmentRequest, Approval, StudyRefusal)
KEY = Ed25519PrivateKey.generate()
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> StudyFolder:
    """A study with one enrolled site."""
    root = tmp_path_factory.mktemp("study")
    facts = DataConfig.of(data_task="multilabel", labels=("effusion",), size=(8, 8))
    made = study.create(root / "chest", StudyConfig.of(data=facts, train={"model": "resnet9-small"}))
    site = site_folder.create(root / "north", "north", PolicyConfig())
    enrolment.request(site)
    enrolment.accept(made, [site.request_path])
    return made


def refused(step, *arguments: object) -> bool:
    """Whether a step ends in an error of meninx whose words a terminal shows as they are."""
    try:
        step(*arguments)
    except MeninxError as raised:
        error = raised
    else:
        return False
    assert error.exit_code in (2, 3, 4)
    assert str(error).isprintable()
    return True


@given(st.binary(max_size=300))
def test_garbage_is_no_signed_file(content):
    for kind in KINDS:
        assert refused(lambda kind=kind: signed_file.read(content, kind, where="x"))
    assert refused(lambda: signed_file.check_signature(content, bytes(32), where="x"))
    assert refused(lambda: signed_file.digest(content, where="x"))


@given(st.sampled_from(KINDS), PLAIN, st.binary(max_size=70))
def test_an_envelope_with_any_body_is_refused(kind, body, signature):
    tag = kind.__struct_config__.tag
    envelope = {"kind": tag, "body": json.dumps(body), "signature": msgspec.to_builtins(signature)}
    content = msgspec.json.encode(envelope)
    assert refused(lambda: signed_file.read(content, kind, where="x"))
    assert refused(
        lambda: signed_file.check_signature(content, KEY.public_key().public_bytes_raw(), where="x")
    )


@given(st.data())
@settings(max_examples=150)
def test_a_study_file_with_any_field_changed_is_refused_or_a_study(folder, data):
    """The coordinator itself may be hostile: every field is replaced, and the file is signed again."""
    content = folder.study_path.read_bytes()
    body = json.loads(json.loads(content)["body"])
    field = data.draw(st.sampled_from(sorted(body)))
    body[field] = data.draw(PLAIN | st.just(body[field]))
    text = json.dumps(body)
    signature = folder.keys().signing.sign(b"meninx federated 1\0study\0" + text.encode())
    envelope = {"kind": "study", "body": text, "signature": msgspec.to_builtins(signature)}
    changed = msgspec.json.encode(envelope)
    if not refused(lambda: study.study_of(changed, where="x")):
        found = study.study_of(changed, where="x")
        assert all(site.keys.in_words() for site in found.file.sites)
        assert study.file_name("study", found.name) == "study-chest.json"


@given(st.data())
def test_a_flipped_byte_of_a_study_file_is_noticed(folder, data):
    content = bytearray(folder.study_path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    before = folder.published()
    if not refused(lambda: study.study_of(bytes(content), where="x")):
        assert (
            study.study_of(bytes(content), where="x").digest == before.digest
        )  # white space or base64 padding


@given(st.text(max_size=60))
def test_no_text_becomes_a_file_name_unless_it_is_a_plain_name(word):
    plain = re.fullmatch(NAME, word) is not None
    assert study.is_name(word) is plain
    assert refused(lambda: study.file_name("study", word)) is not plain


@given(st.binary(max_size=400))
def test_garbage_is_no_certificate_and_no_key(content):
    assert refused(lambda: authority.certificate(content, where="x"))
    assert refused(lambda: enrolment_keys.p384(content, where="x"))


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_a_policy_is_readable_or_refuses(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    path.write_bytes(content)
    if not refused(lambda: policy.read_policy(path)):
        assert isinstance(policy.read_policy(path), PolicyConfig)


@given(
    require=st.booleans(),
    quorum=st.integers(1, 40),
    epsilon=st.floats(0.01, 100),
    asked=st.floats(0.01, 100),
    sites=st.integers(0, 40),
    method=st.sampled_from(["masks", "shares", "ckks", "plain"]),
)
def test_a_stricter_policy_never_has_fewer_reasons(require, quorum, epsilon, asked, sites, method):
    config = StudyConfig.of(aggregation=method, train={"epsilon": asked, "delta": 1e-6})
    loose = PolicyConfig(
        require_secure_aggregation=require, min_quorum=quorum, max_epsilon=epsilon, allowed_recipes=("any",)
    )
    strict = loose.replace(
        require_secure_aggregation=True, min_quorum=quorum + 1, max_epsilon=epsilon / 2, allowed_recipes=()
    )
    own = code_hash.installed()
    assert len(policy.refusals(strict, config, own, sites)) >= len(policy.refusals(loose, config, own, sites))
    allowed = not policy.refusals(loose, config, own, sites)
    if allowed:
        assert asked <= epsilon
        assert method != "plain" or not require


@given(st.data())
@settings(max_examples=60)
def test_any_change_of_an_audit_log_is_noticed(tmp_path_factory, data):
    root: Path = tmp_path_factory.mktemp("log")
    log = AuditLog.create(root, KEY)
    for number in range(3):
        log.append("round", number=number)
    path = root / "private" / "audit.jsonl"
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, len(content)))
    changed = content[:start] + data.draw(st.binary(max_size=20)) + content[stop:]
    path.write_bytes(changed)
    try:
        entries = log.verify()
    except MeninxError:
        return
    assert [entry.details.get("number") for entry in entries] == [None, 0, 1, 2]
    assert path.read_bytes() == content  # a torn tail was cut off


def test_an_answer_is_compared_with_the_study(folder):
    assert refused(lambda: approval.agreed(folder))
