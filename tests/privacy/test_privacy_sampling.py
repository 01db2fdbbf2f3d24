"""The Poisson sampler: right frequency, independent coins, exact on resume."""

import numpy as np
import pytest
from scipy import stats

from meninx.core.errors import ConfigError
from meninx.privacy.keystream import keystream, stream_id
from meninx.privacy.sampling import PoissonSampler

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))


def sampler(rate=0.1, n_units=500, key=KEY):
    return PoissonSampler(sample_rate=rate, n_units=n_units, key=key)


def masks(drawer, steps):
    table = np.zeros((steps, drawer.n_units), dtype=bool)
    for step in range(steps):
        table[step, drawer.draw(step)] = True
    return table


def family_p(counts, trials, rate):
    """Exact chance that the most extreme of several binomial counts is at least this extreme."""
    counts = np.atleast_1d(counts)
    tails = 2 * np.minimum(stats.binom.cdf(counts, trials, rate), stats.binom.sf(counts - 1, trials, rate))
    return 1 - (1 - min(1.0, tails.min())) ** len(counts)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_every_unit_and_every_step_is_drawn_at_the_rate(rate):
    table = masks(sampler(rate), 2000)
    assert abs(table.sum() - table.size * rate) < 4 * np.sqrt(table.size * rate * (1 - rate))
    assert family_p(table.sum(0), 2000, rate) > 1e-5
    assert family_p(table.sum(1), 500, rate) > 1e-5


def test_the_frequency_check_sees_a_unit_drawn_too_often():
    table = masks(sampler(0.1), 2000)
    table[:, 3] |= masks(sampler(0.1, key=OTHER), 2000)[:, 3]
    assert family_p(table.sum(0), 2000, 0.1) < 1e-5


def test_batch_sizes_have_the_binomial_spread():
    sizes = masks(sampler(0.1), 2000).sum(1)
    assert sizes.var() == pytest.approx(500 * 0.1 * 0.9, rel=0.15)
    assert len(set(sizes.tolist())) > 20  # not a fixed batch size


def test_units_and_steps_are_independent():
    table = masks(sampler(0.3, 60), 4000) - 0.3
    between_units = np.corrcoef(table.T)
    between_steps = np.corrcoef(np.stack([table[:-1].ravel(), table[1:].ravel()]))
    assert np.abs(between_units[np.triu_indices(60, 1)]).max() < 5 / np.sqrt(4000)
    assert abs(between_steps[0, 1]) < 4 / np.sqrt(table[1:].size)


def test_the_same_key_repeats_and_another_differs():
    assert np.array_equal(sampler().draw(7), sampler().draw(7))
    assert not np.array_equal(sampler().draw(7), sampler().draw(8))
    both = masks(sampler(0.5), 200), masks(sampler(0.5, key=OTHER), 200)
    assert abs((both[0] == both[1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(both[0].size)


def test_a_unit_more_moves_no_other_coin():
    for step in range(50):
        with_it, without = sampler(n_units=501).draw(step), sampler(n_units=500).draw(step)
        assert np.array_equal(with_it[with_it < 500], without)


def test_draws_are_sorted_unique_indices_and_may_be_empty():
    drawn = sampler(0.5).draw(0)
    assert drawn.dtype == np.int64
    assert np.array_equal(drawn, np.unique(drawn))
    assert len(sampler(1e-9).draw(0)) == 0
    assert len(sampler(n_units=0).draw(0)) == 0
    assert np.array_equal(sampler(1.0).draw(3), np.arange(500))


def test_bad_arguments_are_refused_and_the_key_is_never_shown():
    with pytest.raises(ConfigError, match="0 <= sample_rate <= 1"):
        sampler(1.5)
    with pytest.raises(ConfigError, match="32 bytes, got 3 bytes"):
        sampler(key=b"abc")
    with pytest.raises(ConfigError, match="step >= 0"):
        sampler().draw(-1)
    assert "key" not in repr(sampler())


def test_addresses_of_the_keystream_do_not_overlap():
    read = [
        keystream(KEY, *address).read(64)
        for address in (("a", 1), ("a", 2), ("b", 1), ("a", 1, "w"), ("a", 1, "v"))
    ]
    assert len(set(read)) == 5
    reader = keystream(KEY, "a", 1)
    rest = bytearray(54)
    assert reader.read(10) == read[0][:10]
    reader.read_over(memoryview(bytes(54)), memoryview(rest))  # a reader goes on where it stopped
    assert bytes(rest) == read[0][10:]
    assert keystream(OTHER, "a", 1).read(64) != read[0]


def test_keys_have_names_that_do_not_give_them_away():
    assert stream_id(KEY, OTHER) == stream_id(KEY, OTHER)
    assert len({stream_id(KEY, OTHER), stream_id(OTHER, KEY), stream_id(KEY)}) == 3
    assert KEY.hex()[:8] not in stream_id(KEY)
