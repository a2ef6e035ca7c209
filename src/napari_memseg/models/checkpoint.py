"""A trained network as one file: the weights, and a card that says what they are.

The file is a ``.safetensors``, and the card is JSON in its header; whatever reads it
reads numbers, never code. Nothing is believed before it is checked::

    header ──> card ──> architecture known? ──> names and shapes those of the network?
                                                   └─> finite? ──> sha256? ──> network

What only further training needs (optimiser, step) is a second file, plain tensors
and numbers, read by torch's loader of weights alone. Both are written beside the
old file and then put in its place, so that a kill leaves the old one or the new one.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from pickle import UnpicklingError  # the error alone: nothing is unpickled here
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from napari_memseg.errors import CheckpointError, InputError
from napari_memseg.files import atomic_write, from_checked_json, to_checked_json
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.models.registry import create_model
from napari_memseg.models.weights import refuse_non_finite, refuse_other_tensors, sha256

if TYPE_CHECKING:
    from napari_memseg.models.base import Model

CARD = "napari_memseg"
"""Key of the card in the file's metadata."""
VERSION = 1
"""Of the card. A reader refuses what is newer than itself."""

_UNREADABLE = (
    UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What torch's loader raises on damaged files."""

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a checkpoint says of itself; plain values throughout."""

    architecture: str
    """Name in the registry."""
    arguments: Mapping[str, Any]
    """Of the network."""
    classes: ClassTable
    window: Window
    """Grey values that the network sees as 0 to 1."""
    own_window: bool = False
    """Whether every image is seen in a window sampled from itself, since those of the training differed."""
    voxel_size: tuple[float, float, float] | None = None
    """Edges (z, y, x) at the level it was trained on, in ``unit``; None if unknown."""
    unit: str | None = None
    axis: int | None = None
    """Along which slices are taken, for networks that map slices: 0, 1 or 2."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Data and settings it learned from."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """What it reached, and on what."""
    version: int = VERSION
    sha256: str = ""
    """Of the tensors; set by ``save_checkpoint``."""

    @property
    def network(self) -> str:
        """Architecture and arguments as JSON: two networks of the same weights may differ in them."""
        return json.dumps({"architecture": self.architecture, "arguments": self.arguments}, sort_keys=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; numbers that JSON cannot say (NaN, infinity) become None."""
        rows = {"classes": self.classes.to_json(), "window": self.window.to_json()}
        plain = _plain({name: getattr(self, name) for name in self.__slots__ if name not in rows})
        return {**plain, **rows}

    @classmethod
    def from_json(cls, row: Any) -> Card:
        """Read what ``to_json`` wrote.

        Raises
        ------
        CheckpointError
            If anything is missing or of the wrong kind.
        """
        try:
            known = {name: row[name] for name in cls.__slots__}
            size = known["voxel_size"]
            card = cls(
                **known
                | {
                    "classes": ClassTable.from_json(known["classes"]),
                    "window": Window.from_json(known["window"]),
                    "voxel_size": None if size is None else _edges(size),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"The card is damaged: {error!r:.200}") from error
        card._check()
        return card

    def _check(self) -> None:
        kinds: dict[str, Any] = {
            "architecture": str,
            "arguments": Mapping,
            "unit": str | None,
            "axis": int | None,
            "own_window": bool,
            "training": Mapping,
            "scores": Mapping,
            "sha256": str,
        }
        wrong = [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind)]
        if wrong or self.axis not in (None, 0, 1, 2):
            raise CheckpointError(f"The card is damaged: unusable {', '.join(wrong) or 'axis'}")


def save_checkpoint(path: StrPath, model: Model, card: Card) -> Card:
    """Write weights and card, all at once.

    Parameters
    ----------
    path : path-like
        Where to; a file there is replaced, and stays if anything goes wrong.
    model : Model
        Whose weights to keep.
    card : Card
        ``version`` and ``sha256`` are filled in.

    Returns
    -------
    Card
        As it was written.

    Raises
    ------
    CheckpointError
        If a weight is NaN or infinite.
    OSError
        If the disk is full or the folder not writable.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    refuse_non_finite(path, tensors)
    card = replace(card, version=VERSION, sha256=sha256(tensors))
    atomic_write(path, save(tensors, {CARD: to_checked_json(card.to_json()).decode()}))
    return card


def load_checkpoint(path: StrPath) -> tuple[Model, Card]:
    """Build the network that a checkpoint holds, on the CPU, in eval mode.

    Parameters
    ----------
    path : path-like
        A file that ``save_checkpoint`` wrote.

    Returns
    -------
    model, card : Model, Card

    Raises
    ------
    CheckpointError
        If it is no checkpoint of ours, is damaged, or belongs to a newer version.
    """
    with _opened(path) as file:
        card = _read_card(path, file.metadata())
        names = list(file.keys())
        refuse_other_tensors(path, _layout(path, card), {name: file.get_slice(name) for name in names})
        tensors = {name: file.get_tensor(name) for name in names}
    refuse_non_finite(path, tensors)
    if sha256(tensors) != card.sha256:
        raise CheckpointError(
            f"{path} is damaged: its weights do not have the sha256 of its card. Copy it again."
        )
    model = create_model(card.architecture, card.classes, **card.arguments)
    model.load_state_dict(tensors)
    return model.eval(), card


def read_card(path: StrPath) -> Card:
    """Read the card alone, without the weights.

    Raises
    ------
    CheckpointError
        As ``load_checkpoint``.
    """
    with _opened(path) as file:
        return _read_card(path, file.metadata())


def save_training_state(path: StrPath, state: Mapping[str, Any]) -> None:
    """Write what further training needs, all at once.

    Parameters
    ----------
    path : path-like
        Where to; a file there is replaced.
    state : mapping
        Tensors, numbers, text, and dicts, lists or tuples of them.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    atomic_write(path, buffer.getvalue())


def load_training_state(path: StrPath) -> dict[str, Any]:
    """Read what ``save_training_state`` wrote, onto the CPU.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds anything but tensors and plain values.
    """
    try:
        with open(path, "rb") as file:  # a path would let the loader choose by the name's ending
            state = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} cannot be read as a training state: {error!s:.200}. "
            "Train without resuming, from the checkpoint."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, not a training state. Train without resuming."
        )
    return state


@contextmanager
def _opened(path: StrPath) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a .safetensors file: {error}. Choose a checkpoint that training wrote."
        ) from error


def _layout(path: StrPath, card: Card) -> dict[str, Tensor]:
    """Return the network's tensors without memory, whatever size the card asks for."""
    try:
        with torch.device("meta"):
            return create_model(card.architecture, card.classes, **card.arguments).state_dict()
    except InputError as error:
        raise CheckpointError(f"{path} holds a network that cannot be built here: {error}") from error
    except (ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path} asks for an impossible network: {card.arguments!r:.200}.") from error


def _read_card(path: StrPath, metadata: Mapping[str, str] | None) -> Card:
    text = (metadata or {}).get(CARD)
    if text is None:
        raise CheckpointError(
            f"{path} has no napari-memseg card: its weights come from another program. "
            "Choose a checkpoint that training wrote."
        )
    try:
        row = from_checked_json(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: of its card, {error!s:.200}. Copy it again.") from error
    version = row.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{path} has a card of version {version!r:.40}; versions up to {VERSION} can be read. "
            "Update napari-memseg if the checkpoint is newer."
        )
    try:
        return Card.from_json(row)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}. Copy it again, or choose another checkpoint.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _edges(size: Any) -> tuple[float, float, float]:
    z, y, x = map(float, size)
    if not all(isfinite(edge) and edge > 0 for edge in (z, y, x)):
        raise ValueError(f"voxel size {size!r:.80}")
    return z, y, x
