"""Networks by name."""

from __future__ import annotations

import pytest

import toys
from napari_memseg.errors import InputError
from napari_memseg.models import registry
from napari_memseg.models.classes import ClassTable

TWO = ClassTable.from_ids([1])


def test_every_architecture_is_described():
    rows = {row.name: row for row in registry.architectures()}
    assert list(rows)[:3] == ["small", "pixels", "unet3d"]
    assert rows["unet3d"].halo_exact == (112, 112, 112)
    assert rows["unet3d"].multiple == (16, 16, 16)
    assert rows["small"].stages == 1
    assert all(row.paper and row.title for row in rows.values())


def test_every_name_makes_the_network_that_carries_it():
    for name in registry.names():
        model = registry.create_model(name, TWO)
        again = registry.create_model(name, TWO, **model.arguments)
        assert model.architecture == name
        assert again.arguments == model.arguments
        assert again.parameter_count == model.parameter_count


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"'resnet'.*small, pixels"):
        registry.create_model("resnet", TWO)


@pytest.mark.parametrize("arguments", [{"depth": 3}, {"name": "x"}, {"classes": 3}])
def test_arguments_of_no_network_are_refused(arguments):
    with pytest.raises(InputError, match="does not take"):
        registry.create_model("small", TWO, **arguments)


def test_a_registered_network_is_as_good_as_ours(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    toys.register()
    assert isinstance(registry.create_model("toy", TWO), toys.ToyModel)
    row = next(row for row in registry.architectures() if row.name == "toy")
    assert (row.stages, row.halo_exact, row.multiple) == (3, (2, 2, 2), (2, 2, 2))
