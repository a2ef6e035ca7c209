"""The Padé activation: what it is at the start, and what it learns by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from napari_memseg.models.pade import DENOMINATOR, NUMERATOR, RATES, Pade


def plain(x, above, below):
    """The formula as it is written, in float64."""
    top = sum(a * x**n for n, a in enumerate(above))
    return top / (1 + sum((b * x**n).abs() for n, b in enumerate(below, start=1)))


def test_it_begins_as_a_leaky_relu():
    x = torch.linspace(-3, 3, 6001)
    assert float((Pade()(x).detach() - F.leaky_relu(x, 0.01)).abs().max()) < 0.034


def test_it_is_the_ratio_of_its_polynomials():
    x = torch.linspace(-20, 20, 401)
    wanted = plain(x.double(), NUMERATOR, DENOMINATOR)
    torch.testing.assert_close(Pade()(x).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_are_those_of_the_formula(sign):
    pade = Pade()
    with torch.no_grad():
        pade.denominator.copy_(torch.tensor([0.3, -0.7, 0.2, -0.1]) * sign)
    x = torch.linspace(-2.5, 2.5, 40, requires_grad=True)
    weights = torch.linspace(-1, 2, 40)
    (pade(x) * weights).sum().backward()
    known = [t.detach().double().requires_grad_() for t in (x, pade.numerator, pade.denominator)]
    (plain(*known) * weights).sum().backward()
    for found, wanted in zip((x, pade.numerator, pade.denominator), known, strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_single(dtype):
    x = torch.tensor([-300.0, -3.0, 0.5, 40.0, 2000.0], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = Pade()(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), Pade()(x.float()), rtol=1e-2, atol=1e-2)
    y.sum().backward()
    assert bool(x.grad.isfinite().all())


def test_nothing_but_its_argument_is_kept_for_the_way_back():
    kept = []
    x = torch.rand(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        Pade()(x)
    assert sorted(kept) == [4, 6, 1000]


def test_its_coefficients_have_rates_of_their_own():
    names = [name for name, _ in Pade().named_parameters()]
    assert all(any(name.endswith(ending) for ending in RATES) for name in names)
    assert set(RATES.values()) == {1e-2}
