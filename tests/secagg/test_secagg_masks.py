"""Masks are AES-256-CTR, start anywhere, cancel in pairs and leave nothing to see."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest
from secagg_sites import Consortium, random_vector, signed_roster, signing_keys

import meninx.secagg
from meninx.core.errors import ConfigError, DataError
from meninx.secagg import SiteProtocol
from meninx.secagg import payload as upload_bytes
from meninx.secagg.masks import CHUNK_BYTES, Mask, apply_masks, commitment, derive, ring_type
from meninx.secagg.statements import Masked, read

SEED = bytes(range(32))


def keystream(seed, elements, bits=32, start=0):
    vector = np.zeros(elements, dtype=ring_type(bits))
    apply_masks(vector, [Mask(seed)], start=start)
    return vector


def test_keystream_is_that_of_nist_sp_800_38a():
    """F.5.5, CTR-AES256.Encrypt."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    wanted = bytes(a ^ b for a, b in zip(plain, cipher, strict=True))
    assert keystream(key, 16, start=counter * 4).tobytes() == wanted
    assert keystream(key, 8, bits=64, start=counter * 2).tobytes() == wanted


@pytest.mark.parametrize("bits", [32, 64])
def test_keystream_starts_at_any_element(bits):
    whole = keystream(SEED, 100_000, bits)
    for start, length in (
        (0, 1),
        (1, 3),
        (3, 70_000),
        (CHUNK_BYTES // 4, 9),
        (CHUNK_BYTES // 4 - 1, 2),
        (99_999, 1),
    ):
        np.testing.assert_array_equal(keystream(SEED, length, bits, start), whole[start : start + length])
    assert keystream(SEED, 0, bits, 5).size == 0


def test_adding_and_subtracting_cancels():
    vector = random_vector(70_001, 1)
    masked = vector.copy()
    masks = [Mask(hashlib.sha256(bytes([number])).digest(), add=number % 2 == 0) for number in range(5)]
    apply_masks(masked, masks)
    assert np.count_nonzero(masked == vector) < 5
    apply_masks(masked, [Mask(mask.seed, add=not mask.add) for mask in masks])
    np.testing.assert_array_equal(masked, vector)


def test_seeds_of_a_pair_are_equal_and_of_everything_else_different():
    consortium = Consortium(4)
    vector = random_vector(10, 0)
    statements = {}
    for name in consortium.names:
        for round, attempt in ((0, 0), (0, 1), (1, 0)):
            data = consortium.sites[name].upload(round, attempt, consortium.names, vector)
            statements[name, round, attempt] = read(upload_bytes.split(data)[0], Masked, consortium.roster)
    seen = set()
    for (name, round, attempt), statement in statements.items():
        for other, committed in statement.pairs:
            assert committed == dict(statements[other, round, attempt].pairs)[name]
            seen.add(committed)
        seen.add(statement.own)
    assert len(seen) == 3 * (6 + 4)  # 6 pairs and 4 own seeds in each of 3 attempts


def test_keys_of_different_purposes_and_directions_differ():
    keys = {
        derive(SEED, bytes(32), purpose, *names)
        for purpose in ("mask", "tag")
        for names in (("a", "b"), ("b", "a"))
    }
    keys |= {derive(SEED, bytes([1]) * 32, "mask", "a", "b"), derive(bytes(32), bytes(32), "mask", "a", "b")}
    assert len(keys) == 6
    assert commitment(SEED, bytes(32)) != commitment(SEED, bytes([1]) * 32)


def masked_vector(consortium, vector):
    data = consortium.sites["site00"].upload(0, 0, consortium.names, vector)
    statement, body = upload_bytes.split(data)
    return upload_bytes.vector_of(body, read(statement, Masked, consortium.roster))


def test_single_masked_upload_is_uniform():
    """Chi-square of the bytes of an upload of zeros, and of the bits of each position."""
    masked = masked_vector(Consortium(4), np.zeros(250_000, dtype="<u4"))
    counts = np.bincount(masked.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - 255) < 6 * np.sqrt(2 * 255)
    ones = np.array([np.count_nonzero(masked >> bit & 1) for bit in range(32)])
    assert np.abs(ones - 125_000).max() < 6 * np.sqrt(250_000) / 2


def counted_bytes():
    """Random bytes for two sites that shall draw the same: a counter hashed."""
    state = [0]

    def draw(count):
        state[0] += 1
        return hashlib.shake_256(f"{state[0]}".encode()).digest(count)

    return draw


def test_upload_shows_nothing_of_the_input_but_through_the_uniform_vector():
    """Two inputs, the same draws: statements differ in what is computed from the masked vector alone.

    So whoever holds fewer than t shares sees a uniform vector and values that are independent of the input.
    """
    consortium = Consortium(4)
    statements, vectors = [], []
    inputs = [np.zeros(1000, dtype="<u4"), random_vector(1000, 7)]
    for vector in inputs:
        site = SiteProtocol(
            signed_roster(4), "site00", signing_keys(4)["site00"], "run-1",
            record=[].append, draw=counted_bytes(),
        )  # fmt: skip
        site.meet([site.announce(), *consortium.announcements[1:]])
        statement, body = upload_bytes.split(site.upload(0, 0, consortium.names, vector))
        statements.append(read(statement, Masked, consortium.roster))
        vectors.append(upload_bytes.vector_of(body, statements[-1]))
    differing = {
        name
        for name in Masked.__struct_fields__
        if getattr(statements[0], name) != getattr(statements[1], name)
    }
    assert differing == {"leaves", "tags"}
    for statement, vector in zip(statements, vectors, strict=True):
        assert statement.leaves == upload_bytes.leaves(vector)
    np.testing.assert_array_equal(vectors[1] - vectors[0], inputs[1] - inputs[0])


def test_wrong_seeds_rings_and_bits_are_refused():
    with pytest.raises(DataError, match="a seed of 32 bytes, got 16 bytes"):
        apply_masks(np.zeros(1, dtype="<u4"), [Mask(bytes(16))])
    with pytest.raises(DataError, match="one axis of uint32 or uint64"):
        apply_masks(np.zeros(1, dtype="<i4"), [Mask(SEED)])
    with pytest.raises(ConfigError, match="a ring of 32 or 64 bits, got 16"):
        ring_type(16)
    assert "secret" in repr(Mask(SEED))


def test_package_uses_no_other_randomness_and_no_input_or_output():
    """No generator of numpy or Python, no file, socket, log, clock or torch."""
    forbidden = {"random", "secrets", "socket", "logging", "time", "pathlib", "os", "io", "torch", "flwr"}
    for path in Path(meninx.secagg.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & forbidden, path.name
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden, path.name
            if isinstance(node, ast.Attribute):
                assert node.attr != "random", path.name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"open", "print", "eval", "exec"}, path.name


def test_memory_does_not_grow_with_the_masks():
    import tracemalloc

    vector = np.zeros(1_000_000, dtype="<u4")
    masks = [Mask(hashlib.sha256(bytes([number])).digest()) for number in range(20)]
    tracemalloc.start()
    apply_masks(vector, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * CHUNK_BYTES
