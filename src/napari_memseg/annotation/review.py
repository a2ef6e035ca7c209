"""A list of places worth a look, and what a person said of each.

A list is made once and never changed; verdicts are added beside it::

    SESSION/reviews/0001/
    ├── places.json      run, last stroke, places: kind, score, box, class
    ├── 000.png, ...     what each looks like
    └── verdicts.json    accepted or skipped, when, after how many seconds, whether it was changed
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.corrections import now_utc
from napari_memseg.errors import SessionError
from napari_memseg.files import atomic_write
from napari_memseg.geometry import Box, Zyx, zyx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from napari_memseg.models.classes import ClassTable

FOLDER, PLACES, VERDICTS = "reviews", "places.json", "verdicts.json"
ACCEPTED, SKIPPED = "accepted", "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somewhere to be looked at, in voxels of the working level."""

    number: int
    """From 0, the most worthwhile first."""
    kind: str
    """"unsure", "differs" or "random"."""
    score: float
    """Voxels that are expected to be wrong; 0 of a random place."""
    centre: Zyx
    box: Box
    label: int
    """The class that is predicted at the centre."""
    other: int | None = None
    """What the other run says there."""

    def reason(self, classes: ClassTable) -> str:
        """Say why it is worth a look, in the words of a class table."""
        names = {c.id: c.name for c in classes}
        names.update({c.id: names[c.merged_into or 0] for c in classes.merged})
        name = names.get(self.label, str(self.label))
        if self.kind == "random":
            return f"random: {name}"
        about = f"about {self.score:,.0f} voxels may be wrong"
        if self.kind == "differs" and self.other is not None:
            return f"{name}, before: {names.get(self.other, self.other)}; {about}"
        return f"unsure of {name}; {about}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "box": [list(self.box.start), list(self.box.stop)]}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Place:
        """Read what ``to_json`` wrote."""
        start, stop = row["box"]
        return cls(**{**row, "box": Box(zyx(start), zyx(stop)), "centre": zyx(row["centre"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a person said of a place."""

    verdict: str
    """"accepted" or "skipped"."""
    utc: str
    seconds: float
    """That it took."""
    changed: bool
    """Whether something was painted there first."""


@dataclass(eq=False, kw_only=True)
class Review:
    """A list of places and the verdicts so far; the one who edits a session judges.

    Attributes
    ----------
    path : Path
        Of its folder.
    run : str or None
        The run that was looked at.
    places : sequence of Place
        In the order in which they are worth a look.
    verdicts : dict of int to Verdict
        By number of the place; a later one replaces an earlier one.
    """

    path: Path
    run: str | None
    places: Sequence[Place]
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Review:
        """Read a list and its verdicts.

        Raises
        ------
        SessionError
            If it is damaged.
        """
        try:
            row = json.loads((path / PLACES).read_bytes())
            places = [Place.from_json(place) for place in row["places"]]
            verdicts = _verdicts(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SessionError(
                f"The list of places {path} cannot be read ({type(error).__name__}: {error}). "
                "Move the folder away, and find places anew; strokes and confirmed boxes are not in it."
            ) from error
        return cls(path=path, run=row["run"], places=places, verdicts=verdicts)

    def judge(self, number: int, verdict: str, *, seconds: float, changed: bool) -> None:
        """Note what a person said of a place; on disk when this returns."""
        said = Verdict(verdict=verdict, utc=now_utc(), seconds=round(seconds, 1), changed=changed)
        verdicts = {**_verdicts(self.path), number: said}
        row = {str(n): asdict(one) for n, one in verdicts.items()}
        atomic_write(self.path / VERDICTS, json.dumps(row, indent=1).encode())
        self.verdicts = verdicts

    def next(self, after: int = -1) -> Place | None:
        """Return the next place without a verdict, behind the last one the first; None if all have one."""
        left = [place for place in self.places if place.number not in self.verdicts]
        return next((place for place in left if place.number > after), left[0] if left else None)

    def thumbnail(self, number: int) -> Path:
        """Return the file that shows a place."""
        return self.path / f"{number:03d}.png"

    @property
    def honest(self) -> tuple[int, int]:
        """Of the random places that were accepted: those that were right as they were, and all of them."""
        kinds = {place.number: place.kind for place in self.places}
        judged = [v for n, v in self.verdicts.items() if kinds.get(n) == "random" and v.verdict == ACCEPTED]
        return sum(not verdict.changed for verdict in judged), len(judged)


def _verdicts(path: Path) -> dict[int, Verdict]:
    said = json.loads((path / VERDICTS).read_bytes()) if (path / VERDICTS).exists() else {}
    return {int(number): Verdict(**verdict) for number, verdict in said.items()}


def reviews_in(session: Path) -> list[Path]:
    """Return the lists of places of a session, the newest first."""
    found = (path for path in (session / FOLDER).glob("*") if (path / PLACES).exists())
    return sorted(found, key=lambda path: path.name, reverse=True)


def next_folder(session: Path) -> Path:
    """Return the folder of a new list."""
    names = [path.name for path in (session / FOLDER).glob("[0-9]*")]
    return session / FOLDER / f"{max((int(n) for n in names if n.isdecimal()), default=0) + 1:04d}"
