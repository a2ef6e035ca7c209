"""Voxels in the database: read as written, or an error; never wrong labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_memseg.annotation.codec import Patch, background_of, pack, unpack, widen
from napari_memseg.errors import SessionError

U8 = np.dtype(np.uint8)
BLOCK = (6, 5, 7)
blocks = arrays(np.uint8, BLOCK, elements=st.sampled_from([0, 0, 0, 1, 2, 254]))


@given(before=blocks, after=blocks)
def test_a_patch_leads_from_one_state_to_the_other_and_back(before, after):
    patch = Patch.between(before, after)
    if patch is None:
        np.testing.assert_array_equal(before, after)
        return
    stored = Patch.from_row(patch.to_row(), U8)
    cell = before.copy()
    stored.redo(cell)
    np.testing.assert_array_equal(cell, after)
    stored.undo(cell)
    np.testing.assert_array_equal(cell, before)


def test_a_patch_over_a_whole_cell_fits_its_row():
    before, after = np.zeros((64, 64, 64), np.uint8), np.ones((64, 64, 64), np.uint8)
    patch = Patch.from_row(Patch.between(before, after).to_row(), U8)
    assert patch.mask.shape == (64, 64, 64)
    assert patch.mask.all()


def test_each_flipped_bit_is_an_error_and_never_another_label():
    block = np.zeros((16, 16, 16), np.uint8)
    block[3, 4:9, 5:12] = 2
    blob = pack(block)
    for bit in range(8 * len(blob)):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = unpack(bytes(flipped), block.shape, 1, U8)
        except SessionError:
            continue
        np.testing.assert_array_equal(found, block)


@pytest.mark.parametrize("length", [0, 1, 8])
def test_a_cut_block_is_an_error(length):
    with pytest.raises(SessionError, match="damaged"):
        unpack(pack(np.ones(BLOCK, np.uint8))[:length], BLOCK, 1, U8)


def test_a_small_blob_cannot_become_large():
    with pytest.raises(SessionError, match="damaged"):
        unpack(pack(np.zeros(1 << 24, np.uint8)), BLOCK, 1, U8)


@pytest.mark.parametrize("wide", [np.uint16, np.uint32])
def test_a_wider_dtype_keeps_classes_and_moves_the_background_opinion(wide):
    block = np.array([0, 1, 253, background_of(U8)], np.uint8)
    found = unpack(pack(block), (4,), 1, np.dtype(wide))
    assert found.tolist() == [0, 1, 253, np.iinfo(wide).max - 1]
    assert found.dtype == wide


def test_the_same_dtype_is_left_alone():
    block = np.array([0, 254], np.uint8)
    assert widen(block, U8) is block
