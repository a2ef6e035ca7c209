"""Small phantoms, and what they look like whole: made once for all tests of a process."""

from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import strategies as st

from napari_memseg.geometry import Box
from napari_memseg.phantom.fly import Level, Phantom
from napari_memseg.phantom.hashing import field_key
from napari_memseg.phantom.parameters import AnimalParameters, PhantomParameters
from napari_memseg.phantom.pose import Pose
from napari_memseg.phantom.voxels import sample

FLY = AnimalParameters(attractors=400)
"""Grows its tracheae sooner than others."""
KEY = field_key(0, "a test")
SMALL = (48, 48, 48)
CLEAN = {
    "drift_voxels": 0.0,
    "blur": 0.0,
    "hardening": 0.0,
    "ring": 0.0,
    "snr": 1e9,
    "z_gain": 0.0,
}
"""A scan without any effect."""


def clean(shape=SMALL, seed=0, tilt=5.0, voxel_um=None, **animal):
    """Return the parameters of an animal as no scanner sees it."""
    at = {"shape": shape, "seed": seed, "tilt_degrees": tilt, "voxel_um": voxel_um}
    return PhantomParameters(animal=replace(FLY, **animal), **at).with_scan(**CLEAN)


@cache
def phantom(parameters):
    return Phantom(parameters)


@cache
def whole(parameters):
    """Return image, truth and instances of all of a phantom."""
    made = phantom(parameters)
    return made.render(Box.whole(made.shape))


def voxels_in(parameters, box, step=1):
    """Return labels, instances and attenuation of a box, which no scanner has seen."""
    level = Level(phantom(parameters), step)
    return sample(level.animal, level.pose(0), box)


@cache
def voxels(parameters):
    """Return labels, instances and attenuation of all of a phantom."""
    return voxels_in(parameters, Box.whole(parameters.shape))


@st.composite
def boxes(draw, shape, largest=20):
    """Draw boxes cut anywhere in a volume."""
    start = [draw(st.integers(0, n - 1)) for n in shape]
    stop = [draw(st.integers(a + 1, min(n, a + largest))) for a, n in zip(start, shape, strict=True)]
    return Box(tuple(start), tuple(stop))


def axes_pose(offset=(0.0, 0.0, 0.0), voxel_um=1.0, depth=32):
    """Return a pose in which z, y and x run along u, v and w."""
    still = np.zeros(depth)
    no_twin = np.zeros((3, 3)), np.zeros(3)
    return Pose(
        np.eye(3) * voxel_um, np.array(offset), np.arange(depth, dtype=float), still, still, 0, *no_twin
    )


def to_body(pose, places):
    """Return the body coordinates (bent) of voxels (n, 3), whatever slice they come from."""
    return np.asarray(places, float) @ pose.matrix.T + pose.offset


def to_voxel(pose, body, place):
    """Return the voxel (z, y, x), as floats, at a straightened place of the body."""
    u, v, w = place
    bent = np.array([u, v - body.bend * (u / body.half) ** 2, w])
    return np.linalg.solve(pose.matrix, bent - pose.offset)


def box_around(parameters, place, reach):
    """Return a box about a straightened place of the body."""
    level = phantom(parameters).levels[0]
    middle = to_voxel(level.pose(0), level.animal.body, place).round().astype(int)
    return Box(tuple(int(n) - reach for n in middle), tuple(int(n) + reach for n in middle))


def directions(count, seed=0):
    """Return (count, 3) unit vectors."""
    found = np.random.default_rng(seed).normal(size=(count, 3))
    return found / np.linalg.norm(found, axis=1)[:, None]
