"""Compare labels with truth, block by block."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.evaluation.metrics import confusion, found_ids
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_memseg.evaluation.metrics import Confusion
    from napari_memseg.io.volume import Volume


def evaluate(
    labels: str, truth: str, *, ignore: Sequence[int] = (), box: str | None = None
) -> Iterator[Progress]:
    """Score labels against truth: Dice and IoU of each class that occurs in either.

    Parameters
    ----------
    labels, truth : str
        Sources of label volumes of one shape. Labels of a run count its "not predicted" as a miss.
    ignore : sequence of int
        Values of the truth that say nothing: voxels left out.
    box : str, optional
        ``Z0:Z1,Y0:Y1,X0:X1``: compare only there.

    Yields
    ------
    Progress
        One, with the result: ``{"classes": {id: {"dice", "iou"}}, "mean": {"dice", "iou"}, "voxels"}``.

    Raises
    ------
    InputError
        If the shapes differ, or values are no whole numbers.
    """
    given, wanted = open_volume(labels), open_volume(truth)
    region = Box.parse(box, wanted.shape) if box else None
    ids = {*found_ids(wanted, box=region), *(set(found_ids(given, box=region)) - {_not_predicted(given)})}
    table = confusion(given, wanted, ids - set(ignore), box=region, ignore=ignore)
    yield Progress(stage="evaluate", done=1, total=1, result=scores(table))


def _not_predicted(labels: Volume) -> int:
    """Return the value that a run of ours leaves where it has not been: the highest of the dtype."""
    return int(np.iinfo(labels.dtype).max) if labels.dtype.kind == "u" else -1


def scores(table: Confusion) -> dict[str, Any]:
    """Return the scores of a confusion table as JSON values; an undefined mean is None."""
    classes = {str(i): {"dice": table.dice[i], "iou": table.iou[i]} for i in table.dice}
    means = {"dice": table.mean_dice, "iou": table.mean_iou}
    mean = {name: None if isnan(value) else value for name, value in means.items()}
    return {"classes": classes, "mean": mean, "voxels": table.voxels}
