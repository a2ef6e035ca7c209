"""Pictures of a result, and one page that holds them.

Drawn with matplotlib's Agg backend, so that no display is needed. A picture shows
one slice, never a volume.
"""

from __future__ import annotations

from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from napari_memseg.io.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Slice = NDArray[Any]
"""One (y, x) plane."""

_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; color: #222 }
img { max-width: 100%; border: 1px solid #ddd } td, th { padding: .2rem 1rem .2rem 0; text-align: left }
figure { margin: 2rem 0 } figcaption { color: #555 }
</style>
<h1>$title</h1><p>$lead</p>
<table>$rows</table>
$figures
</html>
""")

_FIGURE = '<figure><img src="{0}" alt="{1}"><figcaption>{1}</figcaption></figure>'


def draw_contours(path: Path, image: Slice, outlines: Mapping[str, tuple[Slice, str]], title: str) -> None:
    """Draw a slice with the outline of each mask: name -> (bool (y, x), colour)."""
    figure, axes = _plane(image, title)
    for name, (mask, color) in outlines.items():
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=[color], linewidths=0.9)
        axes.plot([], [], color=color, label=name)
    axes.legend(loc="upper right", framealpha=0.9)
    _save(path, figure)


def draw_errors(path: Path, image: Slice, labels: Slice, truth: Slice, title: str) -> None:
    """Draw where labels and truth disagree: found too much in red, missed in blue."""
    figure, axes = _plane(image, title)
    for wrong, color in (
        ((labels > 0) & (truth == 0), (1.0, 0.2, 0.2)),
        ((labels == 0) & (truth > 0), (0.2, 0.5, 1.0)),
    ):
        axes.imshow(
            np.dstack([np.full(wrong.shape, c) for c in color] + [wrong * 0.9]), interpolation="nearest"
        )
    for name, color in (("too much", (1.0, 0.2, 0.2)), ("missed", (0.2, 0.5, 1.0))):
        axes.plot([], [], color=color, label=name, linewidth=4)
    axes.legend(loc="upper right", framealpha=0.9)
    _save(path, figure)


def draw_learning(
    path: Path, losses: Sequence[tuple[int, float]], scores: Sequence[tuple[int, float]]
) -> None:
    """Draw the loss of each step, and the Dice of each validation: (step, value) pairs."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title="Learning")
    axes.plot(*np.asarray(losses, float).reshape(-1, 2).T, color="#4477aa", linewidth=0.8, label="loss")
    right = axes.twinx()
    right.plot(
        *np.asarray(scores, float).reshape(-1, 2).T, color="#ee6677", marker="o", label="Dice, held back"
    )
    right.set(ylabel="Dice", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=2)
    _save(path, figure)


def write_report(
    path: Path, *, title: str, lead: str, facts: Mapping[str, Any], pictures: Mapping[str, str]
) -> None:
    """Write one page: facts as a table, then each picture (file name beside the page -> caption)."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(_text(value))}</td></tr>" for name, value in facts.items()
    )
    figures = "".join(_FIGURE.format(escape(name), escape(caption)) for name, caption in pictures.items())
    page = _PAGE.substitute(title=escape(title), lead=escape(lead), rows=rows, figures=figures)
    atomic_write(path, page.encode())


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plane(image: Slice, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, 7 * image.shape[0] / image.shape[1] + 0.4), layout="constrained")
    axes = figure.add_subplot(title=title)
    low, high = np.percentile(image, (0.5, 99.5))
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_axis_off()
    return figure, axes


def _save(path: Path, figure: Figure) -> None:
    FigureCanvasAgg(figure).print_png(path)
