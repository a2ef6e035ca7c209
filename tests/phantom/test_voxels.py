"""From places to voxels: labels by majority, means of samples, instances of their class only."""

from itertools import product

import numpy as np
import pytest

from flies import axes_pose, box_around, clean, phantom, voxels, voxels_in
from napari_memseg.geometry import Box
from napari_memseg.phantom import labels as L
from napari_memseg.phantom.body import ABDOMEN, straighten, surface_point
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.grid import cell_of
from napari_memseg.phantom.parameters import PhantomParameters
from napari_memseg.phantom.tissue import PARTS, PLASTIC_VALUE, surroundings, tissue
from napari_memseg.phantom.voxels import sample

KINDS = {
    L.FIBRE: L.FLIGHT_MUSCLE,
    L.CELL: L.FAT_BODY,
    L.FACET: L.EYE_FACETS,
    L.EGG: L.REPRODUCTIVE,
    L.TREE: L.TRACHEAE,
}
"""The class of each kind of instance."""


def samples(animal, pose, place):
    """Ask for the tissue at all eight samples of a voxel."""
    near, who = np.empty(PARTS), np.zeros(PARTS, np.int64)
    for corner in product((-0.25, 0.25), repeat=3):
        u, v, w = pose.matrix @ (place + np.array(corner)) + pose.offset
        v = straighten(animal.body, u, v)
        cell = cell_of(animal.grid, u, v, w)
        if cell < 0 or animal.grid.is_outside[cell]:
            yield surroundings(animal, u, v, w)
        else:
            yield tissue(animal, cell, u, v, w, near, who)


def skin_box(parameters, way, reach=4):
    body = phantom(parameters).levels[0].animal.body
    return box_around(parameters, surface_point(body, body.centre[ABDOMEN], np.array(way)), reach)


@pytest.mark.parametrize("way", [(0.2, 1.0, 0.3), (-0.1, -0.4, 1.0)])
def test_no_tissue_has_more_samples_of_a_voxel_than_its_label(way):
    parameters = clean(shape=(96, 96, 96))
    level, box = phantom(parameters).levels[0], skin_box(parameters, way)
    pose, labels = level.pose(0), voxels_in(parameters, box).labels
    assert len(np.unique(labels)) > 3
    for at in np.ndindex(labels.shape):
        found = [label for label, *_ in samples(level.animal, pose, np.add(box.start, at))]
        assert found.count(labels[at]) == max(map(found.count, found))


def test_a_voxel_cut_in_half_has_the_mean_of_both_sides():
    """The wall of a wide tube is a plane, as far as voxels of 1 µm can tell."""
    made = Phantom(clean(tube=True, bend=0.0, legs=False, wings=False))
    animal = made.levels[0].animal
    across = sample(animal, axes_pose((0.0, 0.0, animal.traits.tube_um - 1)), Box((0, 0, 0), (2, 1, 3)))
    np.testing.assert_allclose(across.light[:, 0], [[0, PLASTIC_VALUE / 2, PLASTIC_VALUE]] * 2, rtol=1e-6)
    assert not across.labels.any()
    assert not across.heavy.any()


@pytest.mark.parametrize(("kind", "label"), KINDS.items())
def test_instances_are_where_their_class_is_and_nowhere_else(kind, label):
    found = voxels(clean())
    numbered = found.instances >> L.KIND_BITS == kind
    assert numbered.any()
    assert (found.labels[numbered] == label).all()


@pytest.mark.parametrize("label", [L.FLIGHT_MUSCLE, L.FAT_BODY, L.EYE_FACETS, L.TRACHEAE])
def test_every_voxel_of_fibres_cells_facets_and_trees_has_its_number(label):
    found = voxels(clean())
    assert found.instances[found.labels == label].all()


def test_what_has_no_instances_has_no_numbers():
    found = voxels(clean())
    plain = ~np.isin(found.labels, list(KINDS.values()))
    assert not found.instances[plain].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tiny_fly_has_all_classes(seed):
    counts = np.bincount(voxels(PhantomParameters.named("tiny", seed=seed)).labels.ravel(), minlength=13)
    assert counts.shape == (13,)
    assert counts.min() > 20


def test_wide_structures_have_one_volume_at_two_voxel_sizes():
    parameters = clean(shape=(320, 320, 320))
    body = phantom(parameters).levels[0].animal.body
    middle = box_around(parameters, body.centre[ABDOMEN], 24).coarsen((2, 2, 2))
    one = voxels_in(parameters, middle, step=2).labels
    other = voxels_in(parameters, middle.refine((2, 2, 2))).labels
    for classes in ([L.GUT_WALL, L.GUT_CONTENT], [L.REPRODUCTIVE], [L.FAT_BODY, L.HAEMOLYMPH]):
        small, large = (np.isin(labels, classes).sum() for labels in (other, one))
        assert 8 * large == pytest.approx(small, rel=0.02), classes


def test_the_medium_around_the_animal_moves_no_label():
    """In air, what is far from the animal is passed over: nothing of it may be lost by that."""
    dry, wet = (voxels(clean((40, 40, 40), medium=medium)) for medium in ("air", "ethanol"))
    assert np.array_equal(dry.labels, wet.labels)
    assert np.array_equal(dry.instances, wet.instances)


def test_materials_have_a_texture_and_air_has_none():
    found = voxels(clean(legs=False, wings=False, bristles=0))
    low, high = np.percentile(found.light[found.labels == L.FLIGHT_MUSCLE], [16, 84])
    assert 0.02 < high - low < 0.25
    far = found.light[:, :6, :6]
    assert not far.any()
