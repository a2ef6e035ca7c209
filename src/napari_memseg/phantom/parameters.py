"""What can be chosen: the animal, how it lies, how it is scanned, and how hard that is.

Sizes are in micrometres, so the same animal exists at any voxel size. Presets are values of these
classes, nothing more; the manifest of a phantom holds all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast, get_args

import numpy as np

from napari_memseg.errors import InputError
from napari_memseg.geometry import zyx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_memseg.geometry import Zyx

T = TypeVar("T")
FLY_UM = 2500.0
"""Length of a fly, for which the places and sizes of its parts are given."""
VERSION = 2
"""Of what a seed gives: another version may give other voxels."""
Medium = Literal["air", "ethanol", "agarose"]
Stain = Literal["none", "iodine", "pta"]
Mode = Literal["image", "projection"]

ANIMAL_LIMITS = {
    "length_um": (1.0, 1e6),
    "spread": (0.0, 0.3),
    "head": (0.1, 10.0),
    "thorax": (0.1, 10.0),
    "abdomen": (0.1, 10.0),
    "bend": (-1.0, 1.0),
    "cuticle_um": (0.1, 1e4),
    "membrane_um": (0.1, 1e4),
    "bristles": (0, 10_000),
    "wing_um": (0.01, 1e3),
    "fibre_um": (1.0, 1e4),
    "fibre_gap_um": (0.0, 1e3),
    "fat_cell_um": (1.0, 1e4),
    "fat_reach_um": (0.0, 1e5),
    "facet_um": (1.0, 1e4),
    "air_sacs": (0, 10),
    "twig_um": (1e-9, 1e3),
    "attractors": (1, 100_000),
    "shrinkage_um": (0.0, 1e3),
    "stain_depth_um": (0.1, 1e6),
}
SCAN_LIMITS = {
    "drift_voxels": (0.0, 100.0),
    "seam_every": (0, 2**20),
    "seam_jump": (0.0, 20.0),
    "seam_gain": (0.0, 0.5),
    "blur": (0.0, 4.0),
    "blur_at_edge": (0.5, 2.0),
    "blur_z": (0.0, 2.0),
    "hardening": (0.0, 0.9),
    "phase": (0.0, 2.0),
    "ring": (0.0, 1.0),
    "strong_rings": (0, 100),
    "ring_run": (1, 10_000),
    "snr": (1e-3, 1e12),
    "noise_floor": (0.0, 1.0),
    "streaks": (0.0, 1.0),
    "clip": (0.0, 0.49),
    "z_gain": (0.0, 0.5),
    "flicker": (0.0, 0.5),
}
"""What is possible, from and to, of an animal and of a scan."""
MOST_CELLS, MOST_FIBRES, MOST_FACETS = 200, 1000, 1000
"""Fat cells, fibres and facets along an animal: 9, 10 and 12 bits of an instance count them."""
MEDIA: Mapping[str, float] = {"air": 0.0, "ethanol": 0.75, "agarose": 1.0}
"""Attenuation of what surrounds the animal, relative to water."""


def _check(what: str, values: object, limits: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers beyond their limits, and those that are none."""
    for name, (low, high) in limits.items():
        value = getattr(values, name)
        if not low <= value <= high:
            raise InputError(f"No {what} of a phantom has {name}={value}. Possible is {low:g} to {high:g}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimalParameters:
    """One animal. Lengths are means in µm; each structure strays from them by ``spread``.

    Raises
    ------
    InputError
        If a length is impossible.
    """

    kind: str = "fly"
    """What it is called in the manifest."""
    length_um: float = FLY_UM
    """From head to tail, without legs and wings."""
    spread: float = 0.1
    """Of sizes, as a fraction: one standard deviation."""
    head: float = 1.0
    thorax: float = 1.0
    abdomen: float = 1.0
    """Sizes of the parts of the body, relative to a fly's."""
    bend: float = 0.05
    """How far the body's axis bends, as a fraction of its length."""
    cuticle_um: float = 12.0
    membrane_um: float = 3.0
    """Thickness of sclerites and of the membranes between them."""
    legs: bool = True
    wings: bool = True
    eyes: bool = True
    bristles: int = 60
    wing_um: float = 1.5
    fibre_um: float = 20.0
    fibre_gap_um: float = 2.0
    """Pitch of the fibres of flight muscle, and the gap between them."""
    flight_muscle: bool = True
    fat_cell_um: float = 30.0
    fat_reach_um: float = 90.0
    """How far fat body reaches from cuticle and gut."""
    facet_um: float = 16.0
    air_sacs: int = 8
    twig_um: float = 1.0
    """Radius at which tracheae end."""
    attractors: int = 1500
    """Places that tracheae grow to."""
    shrinkage_um: float = 0.0
    """By how far organs are drawn from the cuticle, 0 to 30."""
    torn: bool = False
    """Whether there is a hole in the cuticle of the abdomen."""
    collapsed: bool = False
    """Whether one tree of tracheae is filled with haemolymph."""
    dust: bool = False
    """Whether a grain of metal lies on it; streaks, if any, go out from it."""
    second: bool = False
    """Whether a second animal, a twin, lies across."""
    medium: Medium = "air"
    tube: bool = False
    """Whether it lies in a tube of plastic; with bubbles where the medium is wet."""
    stain: Stain = "none"
    stain_depth_um: float = 200.0
    """How far the stain came: e-fold depth."""

    @property
    def scale(self) -> float:
        """How large it is, relative to a fly."""
        return self.length_um / FLY_UM

    def __post_init__(self) -> None:
        _check("animal", self, ANIMAL_LIMITS)
        least = {"fat_cell_um": MOST_CELLS, "fibre_um": MOST_FIBRES, "facet_um": MOST_FACETS}
        _check("animal", self, {name: (self.length_um / most, 1e4) for name, most in least.items()})
        if not re.fullmatch(r"[\w -]{1,40}", self.kind):
            raise InputError(
                f"No animal has kind={self.kind!r}: files are named by it. Choose letters, digits, spaces "
                "and hyphens."
            )
        if self.medium not in MEDIA or self.stain not in get_args(Stain):
            raise InputError(
                f"No animal has medium={self.medium!r} and stain={self.stain!r}. Choose the medium from "
                f"{', '.join(MEDIA)}, and the stain from {', '.join(get_args(Stain))}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanParameters:
    """How mode A forms an image: effects of a microCT, in voxels and relative to water.

    Mode B has ``blur``, ``blur_z``, ``ring``, ``arc``, ``snr``, ``clip``, ``bits``, drifts, seams and gains
    of it; what else there is comes about by projection.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    drift_voxels: float = 1.0
    """Random walk of the slices' position, per 1000 slices."""
    seam_every: int = 0
    """Slices between two scans that were joined; 0 for one scan."""
    seam_jump: float = 2.0
    """Largest jump at a seam, in voxels."""
    seam_gain: float = 0.02
    """Largest step of grey values at a seam, as a fraction."""
    blur: float = 0.75
    """Standard deviation of the point spread, in voxels, at the rotation axis."""
    blur_at_edge: float = 1.3
    """Times ``blur`` at the edge of the field of view."""
    blur_z: float = 1.0
    """Times ``blur`` along z."""
    hardening: float = 0.03
    """Beam hardening c: value x (1 - c P), P in [0, 1] the mean line integral."""
    phase: float = 0.0
    """Phase contrast k: value - k x Laplacian."""
    ring: float = 0.006
    """Error of a detector column, one standard deviation, relative to water."""
    strong_rings: int = 3
    ring_run: int = 120
    """Slices over which a detector row's error stays, on average."""
    arc: Literal[180, 360] = 360
    """Degrees of the scan; 180 gives half rings."""
    axis_offset: tuple[float, float] = (0.03, -0.02)
    """Of the rotation axis from the middle (y, x), as a fraction of the field."""
    snr: float = 2.0
    """Muscle against haemolymph: their difference over the noise's standard deviation."""
    noise_floor: float = 0.4
    """Part of the noise's variance that does not depend on what the beam passed."""
    streaks: float = 0.0
    """Amplitude of streaks from the densest parts, relative to water; half of it is left at 40 voxels."""
    clip: float = 0.001
    """Fraction of voxels that are clipped at either end of the grey values."""
    bits: Literal[8, 16] = 16
    z_gain: float = 0.008
    """Slow drift of grey values along z, as a fraction."""
    flicker: float = 0.0
    """Gain of single slices, one standard deviation, as a fraction."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the grey values."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def top(self) -> float:
        """The highest grey value."""
        return float(2**self.bits - 1)

    def __post_init__(self) -> None:
        _check("scan", self, SCAN_LIMITS)
        if self.bits not in (8, 16) or self.arc not in (180, 360):
            raise InputError(
                f"No scan has bits={self.bits} and arc={self.arc}. Possible are 8 or 16 bits, and 180 or "
                "360 degrees."
            )


ANIMALS: Mapping[str, AnimalParameters] = {
    "fly": AnimalParameters(),
    "beetle": AnimalParameters(
        kind="beetle", length_um=4000.0, cuticle_um=40.0, membrane_um=8.0, wings=False, air_sacs=2,
        bristles=10, thorax=0.9, abdomen=1.15, facet_um=20.0,
    ),
    "larva": AnimalParameters(
        kind="larva", length_um=3500.0, cuticle_um=5.0, membrane_um=3.0, legs=False, wings=False, eyes=False,
        flight_muscle=False, air_sacs=0, fat_reach_um=260.0, head=0.6, thorax=0.85, bristles=0, bend=0.08,
    ),
}  # fmt: skip
"""By name."""

DIFFICULTIES: Mapping[str, ScanParameters] = {
    "easy": ScanParameters(
        drift_voxels=0.2, blur=0.6, blur_at_edge=1.1, hardening=0.01, ring=0.002, strong_rings=1, snr=5.0,
        z_gain=0.005,
    ),
    "normal": ScanParameters(),
    "hard": ScanParameters(
        drift_voxels=2.0, seam_every=100, blur=1.2, blur_at_edge=1.5, hardening=0.15, phase=0.2, ring=0.016,
        strong_rings=5, ring_run=60, arc=180, snr=0.8, streaks=0.02, flicker=0.005, z_gain=0.02,
    ),
}  # fmt: skip
"""By name."""

LARGEST_PROJECTION = 1024
"""Edge of the largest plane that is projected."""
SIZES: Mapping[str, Zyx] = {
    "tiny": (64, 64, 64),
    "small": (256, 256, 256),
    "medium": (1024, 1024, 1024),
    "large": (4096, 4096, 4096),
    "huge": (8192, 8192, 16384),
}
"""Shapes (z, y, x) by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomParameters:
    """Everything that a phantom is a function of, but the place.

    Raises
    ------
    InputError
        If the shape or the voxel size are impossible.
    """

    shape: Zyx = SIZES["small"]
    seed: int = 0
    voxel_um: float | None = None
    """Edge of a voxel; by default the animal fills the volume."""
    tilt_degrees: float = 5.0
    """Of its axis from the volume's longest one; drawn up to this."""
    mode: Mode = "image"
    """How the image is formed: by filters, block by block, or by projection, plane by plane."""
    animal: AnimalParameters = ANIMALS["fly"]
    scan: ScanParameters = DIFFICULTIES["normal"]

    def __post_init__(self) -> None:
        _check_shape(self.shape)
        object.__setattr__(self, "shape", zyx(self.shape))
        if not isinstance(self.seed, Integral) or not 0 <= self.seed < 2**64:
            raise InputError(f"A seed of {self.seed!r} is impossible. Give a whole number from 0.")
        object.__setattr__(self, "seed", int(self.seed))
        if not 0 <= self.tilt_degrees <= 180:
            raise InputError(f"A tilt of {self.tilt_degrees} degrees is impossible. Give 0 to 180.")
        if self.voxel_um is not None and not 0 < self.voxel_um < float("inf"):
            raise InputError(f"A voxel of {self.voxel_um} µm is impossible. Give an edge above 0.")
        if self.mode not in get_args(Mode):
            raise InputError(f"There is no mode {self.mode!r}. Choose one of {', '.join(get_args(Mode))}.")
        if self.mode == "projection" and max(self.shape[1:]) > LARGEST_PROJECTION:
            raise InputError(
                f"Planes of {self.shape[1:]} voxels are too large to be projected. Up to "
                f"{LARGEST_PROJECTION} are possible; larger volumes are made with mode 'image'."
            )

    @classmethod
    def named(
        cls,
        size: str | Zyx = "small",
        difficulty: str = "normal",
        *,
        animal: str = "fly",
        seed: int = 0,
        voxel_um: float | None = None,
        mode: Mode = "image",
    ) -> Self:
        """Return the parameters of presets.

        Raises
        ------
        InputError
            If there is no such preset.
        """
        shape = _known("size", SIZES, size) if isinstance(size, str) else size
        return cls(
            shape=shape,
            seed=seed,
            voxel_um=voxel_um,
            mode=mode,
            animal=_known("animal", ANIMALS, animal),
            scan=_known("difficulty", DIFFICULTIES, difficulty),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what ``to_json`` gave."""
        own = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        scan = dict(own["scan"], axis_offset=tuple(own["scan"]["axis_offset"]))
        return cls(
            **own
            | {"shape": tuple(own["shape"]), "animal": AnimalParameters(**own["animal"])}
            | {"scan": ScanParameters(**scan)}
        )

    def with_scan(self, **changes: Any) -> Self:
        """Return the same animal, scanned differently."""
        return replace(self, scan=replace(self.scan, **changes))

    def with_animal(self, **changes: Any) -> Self:
        """Return another animal, scanned alike."""
        return replace(self, animal=replace(self.animal, **changes))


def _check_shape(shape: object) -> None:
    whole = isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(n, Integral) for n in shape)
    if not whole or not all(1 <= n <= 2**20 for n in cast("Zyx", shape)):
        raise InputError(
            f"A phantom of {shape!r} voxels is impossible. Give three lengths (z, y, x), 1 to {2**20} each, "
            f"or one of {', '.join(SIZES)}."
        )


def _known(what: str, presets: Mapping[str, T], name: str) -> T:
    if name not in presets:
        raise InputError(f"There is no {what} {name!r} of a phantom. There are {', '.join(presets)}.")
    return presets[name]
