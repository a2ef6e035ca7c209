"""A synthetic fly under microCT, of any size, with exact labels.

The package can be called: ``napari_memseg.phantom("small")`` is ``make_phantom("small")``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_memseg.phantom.fly import Phantom


def make_phantom(
    size: str | tuple[int, int, int] = "small", difficulty: str = "normal", **choices: Any
) -> Phantom:
    """Return a synthetic animal under microCT, whose image and exact labels are made when read.

    Parameters
    ----------
    size : str or (z, y, x)
        "tiny" (64³), "small" (256³), "medium" (1024³), "large" (4096³), "huge" (8192 x 8192 x 16384),
        or a shape in voxels. The animal fills it.
    difficulty : str
        "easy", "normal" or "hard": blur, noise and artefacts.
    **choices
        ``animal`` ("fly", "beetle", "larva"), ``seed``, ``voxel_um`` (edge of a voxel in µm), ``mode``
        ("image" or "projection").

    Returns
    -------
    Phantom
        With ``image``, ``truth`` and ``instances``, lazy volumes that need no disk, and ``render(box)``.

    Raises
    ------
    InputError
        If there is no such preset, or the shape is impossible.
    """
    from napari_memseg.phantom.fly import Phantom
    from napari_memseg.phantom.parameters import PhantomParameters

    return Phantom(PhantomParameters.named(size, difficulty, **choices))


class _Callable(ModuleType):
    """A module that is also a function, as its name in the public face says."""

    __call__ = staticmethod(make_phantom)


sys.modules[__name__].__class__ = _Callable
