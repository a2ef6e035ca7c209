"""Random numbers that are a function of what they are for and where they are."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flies import KEY
from napari_memseg.phantom.hashing import Draws, field_key, hash3, mix, thirds, unit

points = st.tuples(*[st.integers(-(2**20), 2**20 - 1)] * 3)
seeds = st.integers(0, 2**64 - 1)
fields = st.text(max_size=12)


def bits_along_a_line(count=20_000):
    return np.array([hash3(KEY, 3, -5, i) for i in range(count)], np.uint64)


@given(seeds, fields, points)
def test_the_same_point_of_the_same_field_has_the_same_bits(seed, field, point):
    assert hash3(field_key(seed, field), *point) == hash3(field_key(seed, field), *point)


@given(points, points)
def test_another_point_has_other_bits(one, other):
    assume(one != other)
    assert hash3(KEY, *one) != hash3(KEY, *other)


@given(seeds, seeds, fields, points)
def test_another_seed_has_other_bits(one, other, field, point):
    assume(one != other)
    assert hash3(field_key(one, field), *point) != hash3(field_key(other, field), *point)


@given(seeds, st.tuples(fields, fields), points)
def test_another_field_has_other_bits(seed, names, point):
    assume(names[0] != names[1])
    one, other = (field_key(seed, name) for name in names)
    assert hash3(one, *point) != hash3(other, *point)


@given(seeds, fields, st.integers(0, 2**40))
def test_python_and_compiled_code_draw_the_same_number(seed, field, index):
    inner = np.uint64(mix(np.uint64(index)))
    assert Draws(seed).uniform(field, index) == unit(np.uint64(mix(field_key(seed, field) ^ inner)))


def test_each_bit_is_set_half_of_the_time():
    bits = np.unpackbits(bits_along_a_line().view(np.uint8).reshape(-1, 8), axis=1)
    assert abs(bits.mean(0) - 0.5).max() < 0.02


def test_numbers_are_even_in_0_to_1_and_neighbours_know_nothing_of_each_other():
    values = np.array([unit(bits) for bits in bits_along_a_line()])
    assert 0 <= values.min() < values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=0.01)
    assert values.var() == pytest.approx(1 / 12, rel=0.03)
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03


def test_one_hash_holds_three_numbers_that_know_nothing_of_each_other():
    values = np.array([thirds(bits) for bits in bits_along_a_line(10_000)])
    assert values.min() >= 0
    assert values.max() < 1
    np.testing.assert_allclose(values.mean(0), 0.5, atol=0.015)
    np.testing.assert_allclose(np.corrcoef(values.T), np.eye(3), atol=0.04)


def test_a_draw_lies_between_its_limits():
    values = [Draws(4).uniform("leg", i, -3.0, 5.0) for i in range(500)]
    assert -3 <= min(values) < -2.5
    assert 4.5 < max(values) < 5


def test_normal_draws_have_mean_0_and_variance_1_and_no_monsters():
    values = np.array([Draws(1).normal("leg", i) for i in range(5000)])
    assert values.mean() == pytest.approx(0, abs=0.05)
    assert values.var() == pytest.approx(0.95, abs=0.06)  # cut at 2.5
    assert abs(values).max() == 2.5


def test_sizes_stray_by_the_spread():
    sizes = np.array([Draws(1, spread=0.2).size(50.0, "egg", i) for i in range(2000)])
    assert sizes.mean() == pytest.approx(50, rel=0.02)
    assert sizes.std() == pytest.approx(10, rel=0.08)
    assert Draws(1, spread=0.0).size(50.0, "egg") == 50
