"""Weight gradients of thin volumes are true in mixed precision on any CPU."""

import pytest
import torch
from torch import nn

from napari_memseg.training.thin import ThinInFloat32


def gradient(convolution, image):
    convolution.zero_grad()
    convolution(image).square().sum().backward()
    return convolution.weight.grad.double()


@pytest.mark.parametrize(("kernel", "depth"), [(3, 2), (5, 2), (5, 4), (7, 3), (3, 3), (1, 1)])
def test_gradients_are_those_of_double_precision(kernel, depth):
    torch.manual_seed(0)
    convolution = nn.Conv3d(3, 4, kernel, padding=kernel // 2).to(memory_format=torch.channels_last_3d)
    image = torch.randn(2, 3, depth, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    with ThinInFloat32(), torch.autocast("cpu", torch.bfloat16):
        found = gradient(convolution, image)
    wanted = gradient(convolution.double(), image.double())
    assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()


def test_only_what_is_thin_is_computed_in_float32():
    convolution = nn.Conv3d(3, 4, 3, padding=1)
    with ThinInFloat32(), torch.autocast("cpu", torch.bfloat16):
        assert convolution(torch.randn(1, 3, 2, 4, 4)).dtype == torch.float32
        assert convolution(torch.randn(1, 3, 4, 4, 4)).dtype == torch.bfloat16
        assert nn.Conv2d(3, 4, 3)(torch.randn(1, 3, 4, 4)).dtype == torch.bfloat16


def test_a_weight_may_be_given_by_its_name():
    image, weight = torch.randn(1, 3, 2, 4, 4), torch.randn(4, 3, 3, 3, 3)
    with ThinInFloat32():
        found = nn.functional.conv3d(image, weight=weight, padding=1)
        double = nn.functional.conv3d(input=image.double(), weight=weight.double(), padding=1)
    assert (found.dtype, double.dtype) == (torch.float32, torch.float64)
