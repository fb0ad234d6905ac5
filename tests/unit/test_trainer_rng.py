"""Numbers that hang on where they are used: frozen values, spread, independence."""

import itertools

import numpy as np
import pytest
import torch

from last_e import rng

MASK = 0xFFFFFFFF
GOLDEN_KEY = 45983534
GOLDEN_WIDE_KEY = 3712870049
GOLDEN_BITS = [[1253399597, 556537604], [1261708873, 2449689552], [1068916412, 163347598]]
GOLDEN_UNIFORM = [0.48406583070755005, 0.897001326084137, 0.3150098919868469]
GOLDEN_NORMAL = [1.0849367380142212, 0.07526978105306625, -0.3896162807941437]
GOLDEN_ORDER = [0, 1, 7, 5, 3, 2, 8, 9, 4, 6]


def lowbias32(x: int) -> int:
    """Wellons' published finaliser, in plain Python."""
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ (x >> 16)


def test_the_mixing_is_the_published_one():
    values = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xDEADBEEF, MASK, *range(1000, 400_000_000, 7_654_321)]
    assert rng._mix(torch.tensor(values)).tolist() == [lowbias32(value) for value in values]


def test_frozen_values_never_change():
    """Changing these changes every run: a resumed one would no longer continue what it began."""
    key = rng.key(42, rng.CROP, 3)
    assert key == GOLDEN_KEY
    assert rng.key(2**63 - 1, rng.ORDER, 0) == GOLDEN_WIDE_KEY
    assert rng.random_bits(key, torch.tensor([0, 1, 2**40]), 2).tolist() == GOLDEN_BITS
    assert rng.uniform(key, torch.tensor([5]), 3).tolist() == [GOLDEN_UNIFORM]
    assert rng.normal(key, torch.tensor([5]), 3).tolist() == [GOLDEN_NORMAL]
    assert rng.permutation(key, 10).tolist() == GOLDEN_ORDER


def test_a_number_does_not_hang_on_what_else_is_asked_for():
    key = rng.key(1, rng.WARP, 0)
    all_at_once = rng.uniform(key, torch.arange(100), 9)
    assert torch.equal(rng.uniform(key, torch.arange(40, 50), 9), all_at_once[40:50])
    assert torch.equal(rng.uniform(key, torch.tensor([7]), 4), all_at_once[7:8, :4])
    assert torch.equal(rng.uniform(key, torch.arange(100).flip(0), 9), all_at_once.flip(0))


def test_uniform_numbers_lie_evenly_in_the_unit_interval():
    values = rng.uniform(rng.key(7, rng.DROPOUT, 2), torch.arange(20_000), 10)
    assert values.dtype == torch.float32
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    assert torch.equal(values * 2**24, (values * 2**24).round())
    counts = np.histogram(values.numpy(), bins=100, range=(0, 1))[0]
    chi_squared = ((counts - 2000) ** 2 / 2000).sum()  # 99 degrees of freedom: mean 99, deviation 14
    assert 50 < chi_squared < 160
    for column in range(10):
        assert abs(float(values[:, column].mean()) - 0.5) < 0.01


def test_every_bit_is_set_half_of_the_time():
    bits = rng.random_bits(rng.key(0, rng.ORDER, 0), torch.arange(20_000), 2)
    assert int(bits.min()) >= 0
    assert int(bits.max()) <= MASK
    share = torch.stack([(bits >> bit & 1).double().mean() for bit in range(32)])
    assert float((share - 0.5).abs().max()) < 0.015


def test_neighbouring_seeds_purposes_epochs_indices_and_columns_are_not_correlated():
    index = torch.arange(20_000)
    words = [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1), (1, 2, 1), (2**32, 1, 0), (1, 0, 1)]
    streams = [rng.uniform(rng.key(*word), index, 2) for word in words]
    columns = [s[:, c] for s in streams for c in (0, 1)] + [streams[0][:, 0].roll(1)]
    correlation = np.corrcoef(torch.stack(columns).numpy())
    assert np.abs(correlation - np.eye(len(columns))).max() < 0.03


def test_keys_differ_between_all_small_words():
    keys = [rng.key(*word) for word in itertools.product(range(8), range(1, 7), range(8))]
    assert len(set(keys)) == len(keys)


def test_both_halves_of_a_long_seed_count():
    assert len({rng.key(seed, 1, 0) for seed in (5, 5 + 2**32, 5 + 2**40, 2**63 - 1, 5 << 32)}) == 5


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_a_permutation_holds_every_index_once(length):
    order = rng.permutation(rng.key(3, rng.ORDER, 0), length)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(length))


def test_the_order_changes_with_epoch_and_seed():
    orders = [tuple(rng.permutation(rng.key(seed, rng.ORDER, epoch), 50).tolist()) for seed in range(3) for epoch in range(20)]
    assert len(set(orders)) == 60


def test_every_place_of_a_permutation_is_equally_likely():
    orders = torch.stack([rng.permutation(rng.key(0, rng.ORDER, epoch), 10) for epoch in range(2000)])
    for place in range(10):
        counts = torch.bincount(orders[:, place], minlength=10)
        assert int(counts.min()) > 140
        assert int(counts.max()) < 260


def test_normal_numbers_have_mean_0_deviation_1_and_stay_below_3_and_a_half():
    values = rng.normal(rng.key(9, rng.JITTER, 0), torch.arange(50_000), 4).double()
    assert abs(float(values.mean())) < 0.01
    assert float(values.std()) == pytest.approx(1, abs=0.01)
    assert float(values.abs().max()) < 3.5
    assert float((values.abs() < 1).double().mean()) == pytest.approx(0.68, abs=0.02)
    assert float((values**3).mean()) == pytest.approx(0, abs=0.05)
    assert np.abs(np.corrcoef(values.T.numpy()) - np.eye(4)).max() < 0.02
