"""Checkpoints: a changed bit and foreign files are refused, those of earlier versions are read."""

import io
import random

import pytest
import torch

from meninx.core import integrity
from meninx.core.errors import DataError, PrivacyRefusal
from meninx.learn import checkpoint
from meninx.learn.config import LearnConfig
from meninx.learn.fitting import fit

CONFIG = LearnConfig.of(model="resnet9-small", steps=1, epochs=1, batch_size=4, deterministic=True)


@pytest.fixture
def trained(dataset, new_run):
    run = new_run()
    fit(CONFIG, dataset(), run)
    return run


def test_forty_changed_bits_of_forty_are_refused(trained):
    path, generator = checkpoint.path_of(trained, "last"), random.Random(1)
    whole = path.read_bytes()
    places = [generator.randrange(len(whole)) for _ in range(36)] + [
        len(whole) - 1,
        len(whole) - 70,
        len(whole) - 80,
        0,
    ]
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << generator.randrange(8)
        path.write_bytes(spoilt)
        with pytest.raises(DataError, match=r"checkpoints/last\.pt"):
            checkpoint.load(trained, "last")
    path.write_bytes(whole)
    assert checkpoint.load(trained, "last")["sealed"]


def test_a_changed_bit_is_refused_when_a_run_goes_on(trained, dataset):
    path = checkpoint.path_of(trained, "last")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"last\.pt"):
        fit(CONFIG, dataset(), trained, resume=True)


def saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


FOREIGN = {
    "empty": b"",
    "text": b"no checkpoint at all",
    "a cut zip": saved({"a": torch.ones(50)})[:200],
    "a list": saved([1, 2]),
    "another dict": saved({"version": 2}),
    "an unhashable version": saved({"version": [1]}),
    "a sealed list": integrity.seal(saved([1, 2])),
    "a sealed pickle": integrity.seal(b"cos\nsystem\n(S'true'\ntR."),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_by_name(trained, content):
    checkpoint.path_of(trained, "last").write_bytes(content)
    with pytest.raises(DataError, match=r"last\.pt"):
        checkpoint.load(trained, "last")


def of_one_player(content, version):
    """Return the content as versions 1 and 2 wrote it: one player without a name."""
    player = content["players"]["model"]
    rest = {name: value for name, value in content.items() if name not in ("players", "sealed")}
    own = {
        "model": player["weights"],
        **{name: player[name] for name in ("optimizer", "schedule", "average")},
    }
    return {**rest, **own, "version": version}


def test_checkpoints_of_earlier_versions_are_read_and_say_whether_they_are_sealed(trained):
    path, content = checkpoint.path_of(trained, "last"), checkpoint.load(trained, "last")
    older = saved(of_one_player(content, 1)), integrity.seal(saved(of_one_player(content, 2)))
    for written, sealed in zip(older, (False, True), strict=True):
        path.write_bytes(written)
        read = checkpoint.load(trained, "last")
        assert read["sealed"] is sealed
        weights = read["players"]["model"]["weights"]
        assert all(
            torch.equal(value, weights[name])
            for name, value in content["players"]["model"]["weights"].items()
        )
    path.write_bytes(saved({name: value for name, value in content.items() if name != "sealed"}))
    with pytest.raises(DataError):  # a seal cannot be cut off
        checkpoint.load(trained, "last")


def test_torch_reads_a_sealed_checkpoint(trained):
    assert torch.load(checkpoint.path_of(trained, "last"), weights_only=True)["version"] == checkpoint.VERSION


def test_a_key_of_another_length_is_refused(trained):
    from meninx.learn.dp_step import secret_key

    (trained.private / "keys").mkdir()
    (trained.private / "keys/noise.key").write_bytes(bytes(31))
    with pytest.raises(PrivacyRefusal, match="noise key"):
        secret_key(trained, "noise", resumed=True)
