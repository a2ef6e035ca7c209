"""What can be chosen of an animal, and that it shows: each option does what it says, and little else."""

import numpy as np
import pytest

from flies import box_around, clean, phantom, to_voxel, voxels, voxels_in
from napari_memseg.phantom import labels as L
from napari_memseg.phantom.animal import build_anatomy, build_animal
from napari_memseg.phantom.body import ABDOMEN, surface_point
from napari_memseg.phantom.grid import cell_of
from napari_memseg.phantom.parameters import AnimalParameters, PhantomParameters
from napari_memseg.phantom.solids import TRACHEA
from napari_memseg.phantom.tissue import METAL_VALUE, PARTS, PLASTIC_VALUE, tissue

TINY = (40, 40, 40)
FINE = (400, 400, 400)
"""Of which only small boxes are made."""
BARE = {"legs": False, "wings": False, "bristles": 0}


def plain():
    """Return the voxels of an animal without any option."""
    return voxels(clean(TINY))


def on_the_abdomen(parameters, way=(0.0, 1.0, 0.2)):
    body = phantom(parameters).levels[0].animal.body
    return surface_point(body, body.centre[ABDOMEN], np.array(way))


def mean(found, label):
    where = found.labels == label
    return found.light[where].mean(), found.heavy[where].mean()


@pytest.mark.parametrize("stain", ["iodine", "pta"])
def test_a_stain_is_heavy_in_muscle_and_moves_no_label(stain):
    stained = voxels(clean(TINY, stain=stain))
    assert np.array_equal(stained.labels, plain().labels)
    assert np.array_equal(stained.instances, plain().instances)
    assert mean(plain(), L.FLIGHT_MUSCLE)[1] < 0.05
    gain = {label: mean(stained, label)[1] - mean(plain(), label)[1] for label in range(1, 13)}
    assert gain[L.FLIGHT_MUSCLE] > gain[L.NERVOUS_TISSUE] > gain[L.FAT_BODY] > 0.01
    assert gain[L.FLIGHT_MUSCLE] > 0.3
    assert gain[L.CUTICLE] > 0.05


def test_a_stain_fades_inwards():
    shallow, deep = (voxels(clean(TINY, stain="iodine", stain_depth_um=um)) for um in (100.0, 400.0))
    assert mean(deep, L.FLIGHT_MUSCLE)[1] > 1.5 * mean(shallow, L.FLIGHT_MUSCLE)[1]


@pytest.mark.parametrize(("medium", "value"), [("ethanol", 0.75), ("agarose", 1.0)])
def test_a_medium_fills_what_is_around_the_animal(medium, value):
    wet = voxels(clean(TINY, medium=medium))
    around = wet.light[(wet.labels == L.OUTSIDE) & (plain().light == 0)]
    assert np.median(around) == pytest.approx(value)
    assert (abs(around - value) < 1e-6).mean() > 0.9
    assert np.array_equal(wet.labels, plain().labels)


def test_a_wet_medium_has_bubbles_and_air_has_none():
    wet, dry = (voxels(clean(TINY, medium=medium)) for medium in ("ethanol", "air"))
    assert 1e-4 < ((wet.light < 0.4) & (wet.labels == 0)).mean() < 0.05
    assert (dry.light[(dry.labels == 0) & (plain().light == 0)] == 0).all()


def test_a_tube_of_plastic_stands_around_the_animal_with_air_outside():
    found = voxels(clean(TINY, tube=True, medium="ethanol", bend=0.0, tilt=0.0, **BARE))
    level = phantom(clean(TINY, tube=True, medium="ethanol", bend=0.0, tilt=0.0, **BARE)).levels[0]
    pose, radius = level.pose(0), level.animal.traits.tube_um
    places = np.moveaxis(np.indices(TINY), 0, -1) @ pose.matrix.T + pose.offset
    across = np.hypot(places[..., 1], places[..., 2]) - radius
    assert (found.light[across > 180] == 0).all()
    np.testing.assert_allclose(found.light[(across > 35) & (across < 65)], PLASTIC_VALUE, rtol=1e-6)
    assert np.median(found.light[(across < -50) & (across > -150)]) == pytest.approx(0.75)
    assert not found.labels[across > 0].any()


def test_a_tube_is_straight_whatever_lies_in_it():
    how = {"tube": True, "medium": "air", "tilt": 0.0, **BARE}
    straight, bent = (voxels(clean(TINY, bend=bend, **how)) for bend in (0.0, 0.1))
    around = ~near((straight.labels > 0) | (bent.labels > 0))
    differ = abs(straight.light - bent.light)[around] > 1e-6
    assert differ.sum() < 20  # antennae, thinner than half a voxel


def test_an_animal_that_shrank_left_a_gap_under_its_cuticle():
    full, shrunk = (clean(FINE, shrinkage_um=um, **BARE) for um in (0.0, 30.0))
    box = box_around(full, on_the_abdomen(full), 8)
    before, after = (voxels_in(parameters, box) for parameters in (full, shrunk))
    gap = (before.labels != L.OUTSIDE) & (after.labels == L.OUTSIDE)
    cuticle = before.labels == L.CUTICLE
    assert gap.sum() * phantom(full).voxel_um == pytest.approx(30 * 16 * 16, rel=0.35)
    assert (after.labels[cuticle] == L.CUTICLE).mean() > 0.95
    assert not after.light[gap].any() or after.light[gap].mean() < 0.2


def test_the_gap_is_filled_with_the_medium():
    shrunk = clean(FINE, shrinkage_um=30.0, medium="agarose", **BARE)
    box = box_around(shrunk, on_the_abdomen(shrunk), 8)
    full, after = voxels_in(clean(FINE, **BARE), box), voxels_in(shrunk, box)
    gap = (full.labels != L.OUTSIDE) & (after.labels == L.OUTSIDE)
    assert np.median(after.light[gap]) == pytest.approx(1.0)


def test_a_torn_cuticle_has_a_hole():
    whole, torn = clean(FINE, **BARE), clean(FINE, torn=True, **BARE)
    place = phantom(torn).levels[0].animal.traits.torn[:3]
    box = box_around(torn, place, 5)
    before, after = (voxels_in(parameters, box).labels for parameters in (whole, torn))
    assert (before == L.CUTICLE).sum() > 50
    assert not (after == L.CUTICLE).any()
    inside = (before != L.OUTSIDE) & (before != L.CUTICLE)
    assert np.array_equal(before[inside], after[inside])


def test_a_tear_changes_nothing_elsewhere():
    whole, torn = (voxels(clean((64, 64, 64), torn=has)).labels for has in (False, True))
    level = phantom(clean((64, 64, 64), torn=True)).levels[0]
    *place, radius = level.animal.traits.torn
    changed = np.argwhere(torn != whole)
    assert 0 < len(changed) < 40
    off = changed - to_voxel(level.pose(0), level.animal.body, place)
    assert np.linalg.norm(off, axis=1).max() < radius / phantom(clean((64, 64, 64))).voxel_um + 1


def test_a_collapsed_trachea_holds_no_air_and_the_others_do():
    collapsed = voxels(clean(TINY, collapsed=True))
    assert np.array_equal(collapsed.instances, plain().instances)
    tree = (L.TREE << L.KIND_BITS) + phantom(clean(TINY, collapsed=True)).levels[0].animal.traits.collapsed
    its, others = plain().instances == tree, (plain().labels == L.TRACHEAE) & (plain().instances != tree)
    assert its.sum() >= 5
    assert np.median(collapsed.light[its]) > 0.8
    assert (collapsed.light[its] >= plain().light[its]).all()
    assert np.array_equal(collapsed.light[others & ~near(its)], plain().light[others & ~near(its)])


def near(mask):
    """Return a mask that is one voxel wider."""
    wide = mask.copy()
    for axis in range(3):
        wide = wide | np.roll(wide, 1, axis) | np.roll(wide, -1, axis)
    return wide


def test_a_collapsed_branch_thinner_than_a_sample_holds_no_air_either():
    parameters = AnimalParameters(collapsed=True, attractors=400)
    solids = build_anatomy(parameters, 0)[1]
    number = build_animal(parameters, 0, 1.0).traits.collapsed
    s = np.flatnonzero((solids.part == TRACHEA) & (solids.number == number))[5]
    animal = build_animal(parameters, 0, 4 * 1.1 * solids.shape[s, 6])  # samples just wider than the branch
    place = (solids.shape[s, :3] + solids.shape[s, 3:6]) / 2
    label, who, light, _ = tissue(
        animal, cell_of(animal.grid, *place), *place, np.empty(PARTS), np.zeros(PARTS, int)
    )
    assert (label, who) == (L.TRACHEAE, (L.TREE << L.KIND_BITS) + number)
    assert light > 0.9


def test_a_grain_of_metal_lies_on_the_skin():
    dusty = clean(FINE, dust=True)
    box = box_around(dusty, phantom(dusty).levels[0].animal.traits.dust[:3], 6)
    before, after = voxels_in(clean(FINE), box), voxels_in(dusty, box)
    assert before.heavy.max() < 1
    assert after.heavy.max() == pytest.approx(METAL_VALUE)
    assert (after.labels[after.heavy > 0.6 * METAL_VALUE] == L.OUTSIDE).all()
    touching = near(near(after.heavy > METAL_VALUE / 2)) & (before.labels != L.OUTSIDE)
    assert touching.any()


def test_a_second_animal_lies_across_the_first():
    room = clean((40, 60, 40), voxel_um=72.0)
    one, two = voxels(room), voxels(room.with_animal(second=True))
    first = one.labels != L.OUTSIDE
    assert np.array_equal(two.labels[first], one.labels[first])
    assert np.array_equal(two.instances[first], one.instances[first])
    more = (two.labels != L.OUTSIDE) & ~first
    assert more.sum() > 0.3 * first.sum()
    assert len(np.unique(two.labels[more])) >= 12
    numbers = [set(np.unique(two.instances[where])) - {0} for where in (first, more)]
    assert all(numbers)
    assert not set.intersection(*numbers)
    assert all(number & L.TWIN for number in numbers[1])


def test_a_second_animal_is_seen_in_a_volume_that_fits():
    both = voxels(clean(TINY, second=True))
    assert (both.labels > 0).sum() > 1.3 * (plain().labels > 0).sum()


def test_a_second_animal_leaves_the_tube_and_its_bubbles_where_they_are():
    how = {"tube": True, "medium": "ethanol", **BARE}
    one, two = voxels(clean(TINY, **how)), voxels(clean(TINY, second=True, **how))
    neither = ~near(two.labels > 0)
    differ = (two.light != one.light)[neither]
    assert differ.sum() < 10  # antennae of the second, thinner than half a voxel


def test_a_second_animal_does_not_hide_the_thin_wings_of_the_first():
    one, two = plain(), voxels(clean(TINY, second=True))
    thin = (one.labels == L.OUTSIDE) & (one.light > 0) & (two.labels == L.OUTSIDE)
    assert thin.sum() > 100
    assert (two.light[thin] >= one.light[thin] - 1e-6).all()


def test_two_animals_of_one_kind_have_other_numbers():
    beetle, larva, fly = (PhantomParameters.named(TINY, animal=kind) for kind in ("beetle", "larva", "fly"))
    shares = {
        p.animal.kind: np.bincount(voxels(p).labels.ravel(), minlength=13) for p in (beetle, larva, fly)
    }
    inside = {kind: counts[1:].sum() for kind, counts in shares.items()}
    assert shares["beetle"][L.CUTICLE] / inside["beetle"] > 2 * shares["fly"][L.CUTICLE] / inside["fly"]
    assert shares["larva"][L.CUTICLE] / inside["larva"] < shares["fly"][L.CUTICLE] / inside["fly"]
    assert shares["larva"][L.FAT_BODY] / inside["larva"] > shares["fly"][L.FAT_BODY] / inside["fly"]
    assert shares["larva"][[L.EYE_FACETS, L.FLIGHT_MUSCLE]].sum() == 0
    assert shares["beetle"][L.TRACHEAE] / inside["beetle"] < shares["fly"][L.TRACHEAE] / inside["fly"]
