"""The window of grey values."""

from __future__ import annotations

import pytest
import torch

from napari_memseg.errors import InputError
from napari_memseg.models.intensity import Window


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.float32, torch.float64])
def test_low_becomes_zero_and_high_one(dtype):
    image = torch.tensor([10, 60, 110], dtype=dtype)
    out = Window(10, 110, "any").normalise(image)
    assert out.dtype == torch.float32
    assert out.tolist() == [0.0, 0.5, 1.0]
    assert image.tolist() == [10, 60, 110]


def test_what_lies_outside_is_not_clipped():
    assert Window(0, 100, "int16").normalise(torch.tensor([-100, 200], dtype=torch.int16)).tolist() == [-1, 2]


@pytest.mark.parametrize("bounds", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_window_of_nothing_is_refused(bounds):
    with pytest.raises(InputError, match="window"):
        Window(*bounds, "uint8")


def test_json_gives_it_back():
    window = Window(-3.25, 7.5, "float32")
    assert Window.from_json(window.to_json()) == window


@pytest.mark.parametrize(
    "row", [{}, {"low": 0, "high": "x", "dtype": "uint8"}, [], None, {"low": 0, "high": 1}]
)
def test_other_json_is_refused(row):
    with pytest.raises(InputError, match="window"):
        Window.from_json(row)
