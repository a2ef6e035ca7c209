"""What the values of labels from elsewhere mean in a session.

A value becomes an opinion, or none. An export of ours is known again by the provenance
that lies beside it, and a raw dataset of nnU-Net by its ``dataset.json``::

    0                         "this is background", or no opinion if so asked
    class id of the session   that class; other numbers by a map, theirs=ours
    highest of the dtype      no opinion: not predicted; so is whatever is named unlabelled
    any other                 refused, before anything is changed
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import fastremap
import numpy as np

from napari_memseg.errors import ClassTableError, InputError
from napari_memseg.io.formats import parse_source
from napari_memseg.workflows.export import PROVENANCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.annotation.session import Session
    from napari_memseg.models.classes import ClassTable

DEEPEST = 4
"""Folders between an export and labels in it, at most: ``image.ome.zarr/labels/corrected/0``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """What the values of labels mean, and where they belong."""

    box: str | None = None
    """``Z0:Z1,Y0:Y1,X0:X1``: only this part of the session; labels may be as large as it."""
    unlabelled: tuple[int, ...] = ()
    """Values that mean "no opinion"."""
    renamed: Mapping[int, int] = field(default_factory=dict)
    """From their value to the id of our class, where they differ."""
    zero_is: Literal["background", "no-opinion"] = "background"
    """What 0 means."""
    overwrite: bool = False
    """Whether they also replace what is painted here already."""


def renamed_of(text: str) -> dict[int, int]:
    """Read ``theirs=ours,...``, whole numbers.

    Raises
    ------
    InputError
        If it is anything else.
    """
    pairs = [part.split("=") for part in text.split(",") if part.strip()]
    try:
        return {int(theirs): int(ours) for theirs, ours in pairs}
    except ValueError as error:
        raise InputError(
            f"{text!r} does not say which value is which class. Write theirs=ours, divided by commas: "
            "3=15,4=2."
        ) from error


@dataclass(frozen=True, slots=True)
class Told:
    """What an export says of the labels in it.

    Attributes
    ----------
    region : str or None
        The box of the session that they fill.
    renamed : mapping of int to int
        From their value to the id of our class; empty where nothing is said.
    unlabelled : tuple of int
        Values that mean that nobody knows.
    """

    region: str | None = None
    renamed: Mapping[int, int] = field(default_factory=dict)
    unlabelled: tuple[int, ...] = ()


def told_beside(labels: str, session: Session) -> Told:
    """Return what lies beside labels, or beside the folders that they are in, says of them.

    Raises
    ------
    InputError
        If they were exported from another image.
    """
    path = parse_source(labels).path.absolute()
    for folder in path.parents[:DEEPEST]:
        told = _json(folder / PROVENANCE)
        if {"image", "region", "values", "not_predicted"} <= told.keys():
            _check_image(labels, told["image"], session)
            renamed = {int(value): int(i) for i, value in told["values"].items()}
            return Told(told["region"], renamed, (told["not_predicted"],))
        named = _json(folder / "dataset.json").get("labels")
        if isinstance(named, dict) and isinstance(named.get("ignore"), int):
            return Told(unlabelled=(named["ignore"],))
    return Told()


def _check_image(labels: str, image: Mapping[str, Any], session: Session) -> None:
    if (image["fingerprint"], image["level"]) != (session.image.fingerprint, session.level):
        raise InputError(
            f"{labels} was exported from another image, or another level of it: level {image['level']} of "
            f"{image['source']}. Import it into a session on that one."
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Meaning:
    """What each value of labels is in the overlay: 0 for no opinion.

    Parameters
    ----------
    classes : ClassTable
        Of the session.
    dtype : dtype
        Of the labels.
    config : ImportConfig
        What a person says of them; it counts more than ``told``.
    told : Told
        What lies beside them says.

    Raises
    ------
    ClassTableError
        If the map leads to what is no class of the session.
    """

    def __init__(self, classes: ClassTable, dtype: np.dtype[Any], config: ImportConfig, told: Told) -> None:
        self._classes, self._dtype, self._config, self._told = classes, dtype, config, told
        self._table: dict[int, int] = {}
        unknown = sorted({*config.renamed.values()} - {*classes.ids})
        if unknown:
            raise ClassTableError(
                f"The map leads to {unknown}, which are no classes of the session: {list(classes.ids)}. "
                "Add them to it, or map to others."
            )

    def learn(self, found: set[int]) -> None:
        """Say what each value that was found means.

        Raises
        ------
        ClassTableError
            If there are values that mean nothing here.
        """
        meant = {value: self._of(value) for value in sorted(found)}
        strange = [value for value, opinion in meant.items() if opinion is None]
        if strange:
            raise ClassTableError(
                f"The labels hold {strange[:20]}, which mean nothing here: the classes are "
                f"{list(self._classes.ids)}. Add classes of these ids to the session, say which of its "
                f"classes they are (map {strange[0]}={self._classes.ids[-1]}), or that they mean no opinion "
                f"(unlabelled {strange[0]})."
            )
        self._table = {value: opinion for value, opinion in meant.items() if opinion is not None}

    def opinions(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return labels, of values that were learnt, as values of the overlay."""
        found: NDArray[Any] = fastremap.remap(labels.astype(np.int64), self._table, in_place=True)
        return found.astype(self._classes.dtype)

    def _of(self, value: int) -> int | None:
        config, classes, told = self._config, self._classes, self._told
        if value in config.unlabelled:
            return 0
        if value in config.renamed:
            return config.renamed[value] or classes.background_opinion
        if value == 0:
            return classes.background_opinion if config.zero_is == "background" else 0
        if value in told.unlabelled:
            return 0
        if told.renamed:
            known = told.renamed.get(value)
            return known if known in classes.known_ids else None
        return value if value in classes.known_ids else self._reserved(value)

    def _reserved(self, value: int) -> int | None:
        """Return what a value means that is a class of nobody: one of the two highest of a dtype of ours."""
        if self._dtype.kind == "u" and value == np.iinfo(self._dtype).max:
            return 0
        own = value == self._classes.background_opinion and self._dtype == self._classes.dtype
        return value if own else None
