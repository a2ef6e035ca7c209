"""What people reach for first: the residual U-Net by its count, and a pixel classifier by its filters."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from learning import blocks, spec_for
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.models.base import EVERYTHING
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.pixels import PAIRS, PixelClassifier, SeenNorm, eigenvalues, features, gaussian
from napari_memseg.models.reach import exact_reach
from napari_memseg.models.unet3d_residual import ResidualNetwork, ResidualUNet3d
from napari_memseg.training.config import TrainConfig
from napari_memseg.training.loop import train_phase

TWO = ClassTable.from_ids([1])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_residual_unet_has_as_many_weights_as_published(norm):
    assert sum(p.numel() for p in ResidualNetwork(4, 3, 8, norm).parameters()) == 4_288_208


def test_its_multiply_adds_are_as_counted():
    """29,891 a voxel for 4 channels and 3 classes, a hundredth less at this size for whole strides."""
    network, found = ResidualNetwork(4, 3, 8, "batch").eval(), []

    def count(module, _, out):
        found.append(out[0].numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 4, 32, 32, 32))
    assert sum(found) / 32**3 == pytest.approx(29_891, rel=0.001)


def test_a_group_norm_is_offered_for_fidelity_and_known_to_depend_on_the_tile():
    model = ResidualUNet3d(TWO, width=2, norm="group").eval()
    x = torch.rand(1, 1, 48, 16, 16)
    with torch.inference_mode():
        assert not torch.allclose(model(x)[:, :, :1], model(x[:, :, :32])[:, :, :1])
    assert model.stages[0].reads[0].halo_exact == EVERYTHING
    assert ResidualUNet3d(TWO, width=2).stages[0].reads[0].halo_exact != EVERYTHING


@pytest.mark.parametrize(
    ("network", "wrong"),
    [
        (ResidualUNet3d, {"width": 0}),
        (ResidualUNet3d, {"norm": "layer"}),
        (PixelClassifier, {"sigmas": []}),
        (PixelClassifier, {"sigmas": [0.0]}),
        (PixelClassifier, {"sigmas": [99.0]}),
        (PixelClassifier, {"hidden": 0}),
    ],
    ids=str,
)
def test_an_impossible_network_is_refused(network, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        network(TWO, **wrong)


# --- filters


def field(function, edge=25):
    z, y, x = (torch.arange(edge, dtype=torch.float32) - edge // 2 for _ in range(3))
    return function(z[:, None, None], y[:, None], x)[None, None].expand(1, 1, edge, edge, edge).contiguous()


def test_a_gaussian_keeps_constants_and_spreads_as_asked_for():
    assert torch.allclose(gaussian(torch.ones(1, 1, 4, 5, 1), 2.0), torch.ones(1, 1, 4, 5, 1))
    point = torch.zeros(1, 1, 31, 31, 31)
    point[..., 15, 15, 15] = 1
    out = gaussian(point, 2.0)[0, 0]
    place = torch.arange(31) - 15.0
    assert float(out.sum()) == pytest.approx(1, rel=1e-5)
    assert float((out.sum((1, 2)) * place**2).sum()) == pytest.approx(4.0, rel=0.05)


def test_eigenvalues_are_those_of_the_matrices():
    matrices = np.random.default_rng(0).normal(size=(500, 3, 3)).astype(np.float32)
    matrices = (matrices + matrices.transpose(0, 2, 1)) / 2
    matrices[0] = np.eye(3)
    matrices[1] = 0
    parts = [torch.from_numpy(matrices[:, a, b].copy()) for a, b in PAIRS]
    found = torch.stack(eigenvalues(parts), 1).numpy()
    np.testing.assert_allclose(found[:, ::-1], np.linalg.eigvalsh(matrices), atol=2e-3)


def test_filters_of_known_fields_are_known():
    middle = (0, slice(None), 12, 12, 12)
    ramp = features(field(lambda z, y, x: 0.5 * z + 0 * y + 0 * x), 1.0)[middle]
    assert ramp[:3].tolist() == pytest.approx([0, 0.5, 0], abs=1e-4)
    assert ramp[6:].tolist() == pytest.approx([0.5, 0, 0], abs=1e-3)
    bowl = features(field(lambda z, y, x: z**2 + 0 * y - 2 * x**2), 1.0)[middle]
    assert float(bowl[2]) == pytest.approx(2 - 4, abs=1e-3)
    assert bowl[3:6].tolist() == pytest.approx([2, 0, -4], abs=1e-2)


@pytest.mark.parametrize("turn", list(product([(0, 1), (1, 2)], [1, 2])))
def test_filters_do_not_know_axes(turn):
    axes, times = turn
    image = torch.rand(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    turned = torch.rot90(image, times, [2 + a for a in axes])
    back = torch.rot90(features(turned, 0.7), -times, [2 + a for a in axes])
    assert torch.allclose(back, features(image, 0.7), atol=1e-3)


def test_it_looks_as_far_as_its_filters():
    model = PixelClassifier(TWO, sigmas=[1.0, 2.0])
    assert exact_reach(model.trace, model.multiple) == (6 + 2 + 3, 6 + 2 + 3)


def test_a_patch_of_one_material_is_told_by_what_was_seen_before():
    norm, generator = SeenNorm(2), torch.Generator().manual_seed(0)
    parts = [i + 0.1 * torch.randn(2, 2, 6, 6, 6, generator=generator) for i in (0.0, 1.0, 3.0)]
    for part in parts:
        norm(part)
    seen = torch.cat(parts)
    expected = (parts[0] - seen.mean((0, 2, 3, 4), True)) / seen.std((0, 2, 3, 4), keepdim=True)
    assert torch.allclose(norm.eval()(parts[0]), expected, atol=1e-2)
    assert norm(parts[0]).mean() < -1


@pytest.mark.slow
def test_it_learns_materials_in_a_few_steps(tmp_path):
    volume = blocks((32, 32, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PixelClassifier(ClassTable.from_ids([7, 200]))
    (phase,) = model.training_plan()
    spec = spec_for(model, tmp_path / "pixels.safetensors")
    config = TrainConfig(steps=40, device="cpu")
    list(train_phase(model, phase, [volume], [], spec.card.window, config, spec))
    whole = Box.whole(volume.shape)
    grey, ids = volume.image.read(whole), volume.labels.read(whole)
    with torch.inference_mode():
        scores = model(torch.from_numpy(grey / 200.0).float()[None, None])[0]
    found = np.asarray(model.classes.ids)[scores.argmax(0)]
    assert (found == ids).mean() > 0.9
