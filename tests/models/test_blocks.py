"""The way down and up again, on even and odd sizes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_memseg.models.blocks import double_conv, halve, repeat_and_crop

sizes = st.tuples(*[st.integers(1, 9)] * 3)


@given(size=sizes)
def test_repeating_goes_back_to_any_size(size):
    coarse = halve(torch.zeros(1, 1, *size)).shape[2:]
    x = torch.arange(np.prod(coarse), dtype=torch.float32).reshape(1, 1, *coarse)
    out = repeat_and_crop(x, size)[0, 0]
    assert out.shape == size
    cell = [(torch.arange(n) // 2).clamp(max=m - 1) for n, m in zip(size, coarse, strict=True)]
    assert torch.equal(out, x[0, 0][cell[0]][:, cell[1]][:, :, cell[2]])


@given(size=sizes)
def test_halving_takes_the_maximum_of_eight_and_rounds_down(size):
    x = torch.rand(1, 1, *size)
    out = halve(x)
    assert out.shape[2:] == tuple(max(n // 2, 1) for n in size)
    assert out[0, 0, 0, 0, 0] == x[0, 0, :2, :2, :2].max()


def test_repeating_sends_gradients_back_to_every_voxel():
    x = torch.rand(1, 2, 2, 3, 2, requires_grad=True)
    repeat_and_crop(x, (5, 6, 5)).sum().backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == 2 * 5 * 6 * 5
    assert float(x.grad[0, 0, 1, 0, 1]) == 3 * 2 * 3


def test_norms_can_be_folded_into_the_convolutions_before_them():
    block = double_conv(1, 2)
    kinds = [type(layer).__name__ for layer in block]
    assert kinds == ["Conv3d", "BatchNorm3d", "ReLU"] * 2
