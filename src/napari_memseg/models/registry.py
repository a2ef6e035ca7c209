"""The networks that there are, by name: those to begin with first.

A new network is one file in this folder and one line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.models.classes import ClassTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_memseg.models.base import Halo, Model

_BUILT_IN = {
    "small": "napari_memseg.models.small:Small",
    "pixels": "napari_memseg.models.pixels:PixelClassifier",
    "unet3d": "napari_memseg.models.unet3d:UNet3d",
    "meunet": "napari_memseg.models.meunet:MeUNet",
    "cascade": "napari_memseg.models.cascade:Cascade",
    "distill_dsm": "napari_memseg.models.distill_dsm:DistillDSM",
    "unet2d": "napari_memseg.models.distill_dsm:UNet2d",
    "sau_net": "napari_memseg.models.sau_net:SAUNet",
    "scn": "napari_memseg.models.scn:Scn",
    "oss_net": "napari_memseg.models.oss_net:OSSNet",
    "o_net": "napari_memseg.models.oss_net:ONet",
    "unet3d_residual": "napari_memseg.models.unet3d_residual:ResidualUNet3d",
}
_REGISTERED: dict[str, type[Model]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What there is to say about a network before it is trained; for three classes, as papers count."""

    name: str
    title: str
    ndim: int
    parameters: int
    stages: int
    halo_exact: Zyx
    """In voxels of the working level, on the longer side."""
    halo_recommended: Zyx
    multiple: Zyx
    paper: str
    advice: str
    """When to choose it."""
    phases: int
    """Trainings that follow each other."""
    arguments: dict[str, Any]
    """What can be set, with its default."""


def register(model: type[Model]) -> type[Model]:
    """Make a network known for the life of this process; usable as a decorator."""
    _REGISTERED[model.architecture] = model
    return model


def names() -> list[str]:
    """Return the names of all networks, ours first."""
    return list(dict.fromkeys([*_BUILT_IN, *_REGISTERED]))


def create_model(name: str, classes: ClassTable, /, **arguments: Any) -> Model:
    """Build an untrained network.

    Parameters
    ----------
    name : str
        One of ``names()``.
    classes : ClassTable
        What it tells apart.
    **arguments
        Of the network itself.

    Raises
    ------
    InputError
        If no network has that name, or it does not take these arguments.
    """
    model = _find(name)
    try:
        return model(classes, **arguments)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The network {name} does not take the arguments {arguments!r:.200}: {error!s:.200}."
        ) from error


def architectures() -> list[Architecture]:
    """Describe every network, in the order of ``names()``."""
    three = ClassTable.from_ids([1, 2])
    return [_describe(create_model(name, three)) for name in names()]


def _find(name: str) -> type[Model]:
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _BUILT_IN:
        raise InputError(f"There is no network named {name!r:.100}. Choose one of: {', '.join(names())}.")
    found: type[Model] = resolve_name(_BUILT_IN[name])
    return found


def _describe(model: Model) -> Architecture:
    exact, recommended = zip(*_image_halos(model), strict=True)
    return Architecture(
        name=model.architecture,
        title=model.title,
        ndim=model.ndim,
        parameters=model.parameter_count,
        stages=len(model.stages),
        halo_exact=_largest(exact),
        halo_recommended=_largest(recommended),
        multiple=_largest(stage.multiple for stage in model.stages),
        paper=model.paper,
        advice=model.advice,
        phases=len(model.training_plan()),
        arguments=model.arguments,
    )


def _image_halos(model: Model) -> Iterator[tuple[Zyx, Zyx]]:
    """Yield exact and recommended context of every tiled read of the image, in working voxels."""
    for stage in model.stages:
        for read in stage.reads:
            name, _, level = read.array.partition("@")
            if name == "image" and not read.whole:
                scale = 2 ** int(level)
                yield _longer(read.halo_exact, scale), _longer(read.halo_recommended, scale)


def _longer(halo: Halo, scale: int) -> Zyx:
    return zyx(scale * max(pair) for pair in zip(halo.low, halo.high, strict=True))


def _largest(sizes: Any) -> Zyx:
    return zyx(map(max, zip(*sizes, strict=True)))
