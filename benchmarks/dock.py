"""What painting.py and event_loop.py share: the dock driven by mouse events, and a stopwatch on our code.

Not a benchmark itself.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import statistics
import threading
import time
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from qtpy.QtCore import QEventLoop, QPoint, Qt, QTimer
from qtpy.QtTest import QTest

import napari_memseg.widgets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from napari import Viewer

    from napari_memseg.widgets.workbench import Workbench

ZOOM = 4
"""Pixels of the screen per voxel."""
BRUSH = 20
"""Voxels; napari dabs four times per width of the brush."""
STEP = BRUSH // 4
SNAKE = [
    (y, x if row % 2 == 0 else -x) for row, y in enumerate((-37, -12, 13, 38)) for x in range(-50, 51, 25)
]
"""A stroke of 96 dabs: 19 moves of the mouse, each by 25 voxels."""


class Call(NamedTuple):
    """One call of something that is timed, in milliseconds."""

    name: str
    total: float
    own: float
    """Without what is timed inside it."""
    without_napari: float
    """Without what is napari's inside it."""
    outermost: bool
    """Ours, and called by nothing of ours."""
    root: str
    """What is timed and was called first: a dab, or a slot."""


class Stopwatch:
    """Times chosen functions of the GUI thread, and who called whom."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._stack: list[list[Any]] = []
        self._main = threading.get_ident()

    def watch(self, owner: Any, name: str, label: str, *, ours: bool = True) -> None:
        """Replace a method by one that is timed."""
        method = vars(owner)[name]
        kinds = [p.kind for p in inspect.signature(method).parameters.values()]
        most = None if inspect.Parameter.VAR_POSITIONAL in kinds else len(kinds) - 1

        @wraps(method)
        def timed(self_: Any, *args: Any, **kwargs: Any) -> Any:
            with_as_many = args[:most]  # Qt gives a slot as many arguments as it takes
            if threading.get_ident() != self._main:
                return method(self_, *with_as_many, **kwargs)
            return self._time(label, ours, lambda: method(self_, *with_as_many, **kwargs))

        @wraps(method)
        def timed_steps(self_: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            steps, end = method(self_, *args, **kwargs), object()
            while (value := self._time(label, ours, lambda: next(steps, end))) is not end:
                yield value

        setattr(owner, name, timed_steps if inspect.isgeneratorfunction(method) else timed)

    def watch_dock(self) -> None:
        """Time every method of every class of the dock."""
        package = napari_memseg.widgets
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for owner in vars(module).values():
                if inspect.isclass(owner) and owner.__module__ == module.__name__:
                    for name, method in list(vars(owner).items()):
                        if (
                            inspect.isfunction(method)
                            and not hasattr(method, "__wrapped__")
                            and name[:2] != "__"
                        ):
                            self.watch(owner, name, f"{owner.__name__}.{name}")

    def _time(self, name: str, ours: bool, call: Callable[[], Any]) -> Any:
        outermost = ours and not any(frame[1] for frame in self._stack)
        frame = [name, ours, 0.0, 0.0]  # ..., inside it, napari's inside it
        self._stack.append(frame)
        start = time.perf_counter()
        try:
            return call()
        finally:
            total = (time.perf_counter() - start) * 1000
            self._stack.pop()
            if self._stack:
                self._stack[-1][2] += total
                self._stack[-1][3] += frame[3] if ours else total
            root = self._stack[0][0] if self._stack else name
            self.calls.append(Call(name, total, total - frame[2], total - frame[3], outermost, root))


def outer(calls: Sequence[Call]) -> list[Call]:
    """Return the calls of ours that nothing of ours made: what holds the event loop."""
    return [call for call in calls if call.outermost]


# The viewer


def run_until(done: Callable[[], Any], seconds: float) -> bool:
    """Let the event loop run; return whether it came true."""
    loop, check, end = QEventLoop(), QTimer(interval=20), time.perf_counter() + seconds
    came = []

    def look() -> None:
        came[:] = [True] if done() else []
        if came or time.perf_counter() > end:
            loop.quit()

    check.timeout.connect(look)
    check.start()
    loop.exec()
    check.stop()
    return bool(came)


def expect(done: Callable[[], Any], what: str, seconds: float = 120) -> None:
    """Let the event loop run until something is so."""
    if not run_until(done, seconds):
        raise TimeoutError(f"{what}: not after {seconds} s.")


def begin(viewer: Viewer, workbench: Workbench, source: Path, folder: Path) -> None:
    """Open a volume and begin a session on it, as a person does."""
    viewer.open(str(source), plugin="napari-memseg")
    expect(lambda: workbench.open.start.isEnabled(), "the volume is known")
    workbench.open.place.setText(str(folder))
    workbench.open.start.click()
    expect(lambda: workbench.desk.session is not None, "the session is open")


def zoom_to(viewer: Viewer, z: int, y: float, x: float) -> None:
    """Look at a voxel of the corrections, ``ZOOM`` pixels to a voxel."""
    layer = viewer.layers["corrections"]
    viewer.dims.set_current_step(0, z)
    viewer.scene.camera.center = tuple(layer.data_to_world((z, y, x)))
    viewer.scene.camera.zoom = ZOOM / layer.scale[-1]


def mouse(viewer: Viewer, path: Sequence[tuple[float, float]]) -> Iterator[None]:
    """Draw a stroke with the mouse, an event at a step; the path is in voxels (y, x) from the middle."""
    canvas = viewer.window._qt_viewer.canvas.native
    middle = canvas.rect().center()
    points = [QPoint(round(middle.x() + ZOOM * x), round(middle.y() + ZOOM * y)) for y, x in path]
    button, no_key = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QTest.mouseMove(canvas, points[0])
    yield
    QTest.mousePress(canvas, button, no_key, points[0])
    yield
    for point in points[1:]:
        QTest.mouseMove(canvas, point)
        yield
    QTest.mouseRelease(canvas, button, no_key, points[-1])


# Tables


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return n, median, 99th percentile and maximum."""
    if not values:
        return {"n": 0, "median": 0.0, "p99": 0.0, "max": 0.0}
    p99 = float(np.percentile(values, 99))
    return {"n": len(values), "median": statistics.median(values), "p99": p99, "max": max(values)}


def print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print rows that have the same columns, as Markdown."""
    columns = list(next(iter(rows.values()), {}))
    print(f"\n| {title} | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(_text(row[column]) for column in columns)} |")


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def by_name(calls: Sequence[Call], most: int = 8) -> dict[str, dict[str, Any]]:
    """Return the names that the longest time of their own was spent in."""
    own: dict[str, list[float]] = {}
    for call in calls:
        own.setdefault(call.name, []).append(call.own)
    names = sorted(own, key=lambda name: -sum(own[name]))[:most]
    return {name: {**quantiles(own[name]), "in all": sum(own[name])} for name in names}
