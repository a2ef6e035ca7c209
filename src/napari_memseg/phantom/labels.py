"""The classes of the truth, and what a material of each does to X-rays.

Linear attenuation is relative to water at an effective energy of 20 to 30 keV. Of fat, haemolymph, nerve
and muscle it differs by little, on purpose: a threshold must fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

(
    OUTSIDE, CUTICLE, FLIGHT_MUSCLE, OTHER_MUSCLE, GUT_WALL, GUT_CONTENT, FAT_BODY, NERVOUS_TISSUE,
    EYE_FACETS, TRACHEAE, REPRODUCTIVE, EXCRETORY, HAEMOLYMPH,
) = range(13)  # fmt: skip

NAMES: Mapping[int, str] = dict(
    enumerate((
        "outside", "cuticle", "flight muscle", "other muscle", "gut wall", "gut content", "fat body",
        "nervous tissue", "eye", "tracheae and air sacs", "reproductive organs",
        "tubules and vessel", "haemolymph",
    ))
)  # fmt: skip
"""By class id."""

COLORS: Mapping[int, str] = dict(
    enumerate((
        "#000000", "#b8860b", "#c0392b", "#e67e73", "#2e8b57", "#9acd32", "#f4e19c", "#8e5bd0", "#ff5fa2",
        "#4fc3f7", "#ff9f40", "#26a69a", "#5c7cfa",
    ))
)  # fmt: skip
"""By class id, as ``#rrggbb``."""

RANK = (0, 11, 4, 3, 8, 9, 2, 7, 10, 12, 6, 5, 1)
"""Where two structures have equal parts of a voxel, the higher rank has it."""

TEXTURES: Mapping[int, tuple[float, float]] = {
    CUTICLE: (0.03, 12.0), FLIGHT_MUSCLE: (0.03, 10.0), OTHER_MUSCLE: (0.03, 16.0), GUT_WALL: (0.04, 12.0),
    GUT_CONTENT: (0.05, 30.0), FAT_BODY: (0.04, 20.0), NERVOUS_TISSUE: (0.03, 10.0), EYE_FACETS: (0.03, 10.0),
    REPRODUCTIVE: (0.05, 26.0), EXCRETORY: (0.05, 12.0), HAEMOLYMPH: (0.03, 10.0),
}  # fmt: skip
"""Smooth noise inside the material of a class: from trough to crest as a fraction, and its lattice in µm."""

FIBRE, CELL, FACET, EGG, TREE = range(1, 6)
"""Kinds of instances; the upper three bits of an instance's number."""
KIND_BITS = 29
TWIN = 1 << 28
"""The bit that instances of a second animal have."""
