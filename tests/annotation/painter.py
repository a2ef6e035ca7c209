"""Paint, say what is on disk, and be killed: a program that ``test_kills`` runs.

It forks a child for each kill, so that Python starts once. The child paints strokes
that follow from their number alone and writes that number to a pipe when a stroke is
acknowledged; the parent kills it somewhere after a number drawn by chance, opens what
is left, and compares.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np

from annotation.helpers import Picture
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.models.classes import ClassTable

SHAPE = (66, 70, 40)


def stroke(number: int) -> tuple[Box, int]:
    """Return what stroke ``number`` paints."""
    draw = random.Random(number)
    start = tuple(draw.randrange(n) for n in SHAPE)
    shape = tuple(draw.randrange(1, 12) for _ in SHAPE)
    return Box.at(start, shape).clip(SHAPE), draw.choice([0, 1, 2, 254])


def overlay_after(number: int) -> np.ndarray:
    """Return what the first ``number`` strokes come to."""
    model = np.zeros(SHAPE, np.uint8)
    for i in range(number):
        box, value = stroke(i)
        model[box.slices] = value
    return model


def paint(folder: Path, first: int, pipe: int) -> None:
    """Paint until killed."""
    overlay = Session.open(folder, image=Picture(SHAPE)).overlay
    number = first
    while True:
        box, value = stroke(number)
        with overlay.stroke():
            half = Box(box.start, (*box.stop[:2], (box.start[2] + box.stop[2]) // 2))
            overlay[half.slices] = value
            overlay[box.slices] = value
        number += 1
        os.write(pipe, number.to_bytes(4, "big"))


def kill_once(folder: Path, first: int, draw: random.Random) -> int:
    """Let a child paint, kill it, and return how many strokes were acknowledged in all."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        paint(folder, first, theirs)
    os.close(theirs)
    last, enough = first, first + draw.randrange(1, 12)
    with os.fdopen(ours, "rb") as pipe:
        while last < enough:
            last = int.from_bytes(pipe.read(4), "big")
        os.kill(child, signal.SIGKILL)
        while number := pipe.read(4):
            last = int.from_bytes(number, "big")
    os.waitpid(child, 0)
    return last


def main(folder: Path, kills: int) -> None:
    """Kill so many times; print one line of JSON for each."""
    Session.create(folder, Picture(SHAPE), ClassTable.from_ids([1, 2])).close()
    draw, known = random.Random(7), 0
    for _ in range(kills):
        acknowledged = kill_once(folder, known, draw)
        with Session.open(folder, image=Picture(SHAPE)) as session:
            found = np.asarray(session.overlay)
            # the stroke that was being stored when the kill came may be there whole, or not at all
            matches = [n for n in (acknowledged, acknowledged + 1) if np.array_equal(found, overlay_after(n))]
            report = {"acknowledged": acknowledged, "matches": matches, "ok": session.verify()["ok"]}
            report["recovered"] = session.recovered
            report["painted"] = not np.array_equal(overlay_after(known), overlay_after(acknowledged))
        sys.stdout.write(json.dumps(report) + "\n")
        known = matches[-1] if matches else acknowledged


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
