"""A training as a person asks for it. Loads no torch, so that a viewer can fill it in."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import InputError
from napari_memseg.files import atomic_write
from napari_memseg.training.config import TrainConfig
from napari_memseg.training.leftovers import beside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_STEPS = 500
DEFAULT_ARCHITECTURE = "small"
SUFFIX = ".safetensors"
"""Of a model file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """What to train on what, and where the model goes.

    Raises
    ------
    InputError
        If neither or both of ``pairs`` and ``session`` are given, if ``out`` is no ``.safetensors``
        file, or if two settings contradict each other.
    """

    out: Path
    """The checkpoint, a ``.safetensors`` file; one that is there is replaced at the end, not before."""
    learning: TrainConfig = field(default_factory=lambda: TrainConfig(steps=DEFAULT_STEPS))
    """How long, and how."""
    pairs: Sequence[tuple[str, str]] = ()
    """Sources of images and of their labels."""
    session: Path | None = None
    """In place of pairs: a session, whose corrected and confirmed voxels are learned from."""
    architecture: str | None = None
    """A registered network; None: ``DEFAULT_ARCHITECTURE``, or that of ``init``."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the network: widths."""
    init: Path | None = None
    """A checkpoint to start from, in place of ``architecture`` and ``arguments``."""
    unlabelled: int | None = None
    """Value of voxels without an opinion, in the labels of pairs; a session knows its own."""
    level: int | None = None
    """Pyramid level of the images; the labels are given at it. None: 0, or the session's, which is fixed."""
    val_pairs: Sequence[tuple[str, str]] = ()
    """To score on; without them some labelled voxels are held back."""
    seq: int | None = None
    """Of a session: learn from the strokes up to this one; None: up to the last, or those it began with."""
    resume: bool = False
    """Go on with an unfinished training of the same kind."""
    restart: bool = False
    """Discard an unfinished training that is there, and begin again."""

    def __post_init__(self) -> None:
        if bool(self.pairs) == (self.session is not None):
            raise InputError("Give image and label pairs to learn from, or a session: one of the two.")
        if self.out.suffix != ".safetensors":
            raise InputError(f"A model is a .safetensors file: name it {self.out}.safetensors.")
        if self.resume and self.restart:
            raise InputError("Either resume the unfinished training, or restart: discard it and begin again.")
        if self.init is not None and (self.architecture is not None or self.arguments):
            raise InputError(
                f"A training that starts from {self.init} keeps the network of that model. Leave out --model "
                "and --widths (architecture, arguments), or --init."
            )
        needless = self.unlabelled is not None and not self.val_pairs
        if self.session is not None and (self.level is not None or needless):
            raise InputError(
                f"The session {self.session} knows its own level and which voxels are unlabelled. Leave out "
                "--level and --unlabelled, or name images and labels: --pair."
            )


def learning(steps: int | None, minutes: float | None, **settings: Any) -> TrainConfig:
    """Return a training of so many steps or minutes; of ``DEFAULT_STEPS`` if neither is said."""
    if steps is None and minutes is None:
        steps = DEFAULT_STEPS
    return TrainConfig(steps=steps, minutes=minutes, **settings)


def remember(job: TrainJob, seq: int) -> None:
    """Write down what a training on a session was asked for, so that it can go on after more strokes.

    Parameters
    ----------
    job : TrainJob
        On a session.
    seq : int
        The last stroke that it learns from.
    """
    row = {
        "learning": job.learning.to_json(),
        "architecture": job.architecture,
        "arguments": dict(job.arguments),
        "init": None if job.init is None else str(job.init),
        "seq": seq,
    }
    atomic_write(_asked(job.out), json.dumps(row, indent=1).encode())


def recall(out: Path, session: Path) -> TrainJob:
    """Return the training on a session that was stopped, to go on with it as it was asked for.

    Raises
    ------
    InputError
        If nothing readable tells what it was.
    """
    try:
        row = json.loads(_asked(out).read_bytes())
        return TrainJob(
            out=out,
            session=session,
            learning=TrainConfig.from_json(row["learning"]),
            architecture=row["architecture"],
            arguments=row["arguments"],
            init=None if row["init"] is None else Path(row["init"]),
            seq=int(row["seq"]),
            resume=True,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"What the unfinished training of {out.name} was asked for cannot be read ({error}). "
            "Discard it (--restart), and train again."
        ) from error


def seq_of(out: Path) -> int | None:
    """Return the last stroke that the unfinished training of a model learns from; None if that is unknown."""
    try:
        return int(json.loads(_asked(out).read_bytes())["seq"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def discard(out: Path) -> None:
    """Delete what an unfinished training left beside its model; a model that is finished stays."""
    for path in beside(out):
        path.unlink(missing_ok=True)
    shutil.rmtree(stages_folder(out), ignore_errors=True)


def stages_folder(out: Path) -> Path:
    """Return where a training of several phases keeps what earlier stages wrote."""
    return out.with_name(f"{out.stem}.stages")


def _asked(out: Path) -> Path:
    return out.with_name(f"{out.stem}.asked.json")
