"""How far a network looks, computed from its architecture.

A network of convolutions, poolings and repetitions treats its three axes alike, so
one line of voxels tells its reach. The architecture is followed twice, by the same
function, on two kinds of line::

    Span     every voxel knows the first and the last input voxel that it saw
    Weights  every voxel knows the share of each input voxel in it, as if all
             weights of the network were even

Spans give the exact halo: with that much context, and tiles that begin on the
network's multiple, a tile equals the whole-volume pass. Weights give the
recommended one, which leaves out a hundredth of the influence: most of the exact
halo sees little, because only the deepest path reaches that far (the effective
receptive field, Luo et al. 2016, https://arxiv.org/abs/1701.04128).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEFT_OUT = 0.01
"""Share of the influence that the recommended halo leaves out, half of it on each side."""


class Line(Protocol):
    """One axis of a feature map, on its way through a network."""

    def conv(self, kernel: int) -> Self:
        """Pass a convolution of odd ``kernel``, padded to the same length."""

    def pool(self) -> Self:
        """Halve the length, rounded down."""

    def every_second(self) -> Self:
        """Keep the voxels 0, 2, 4, ...: what a stride of 2 does."""

    def average(self) -> Self:
        """Halve the length, rounded up: a last single voxel is its own mean."""

    def repeat(self, skip: Self) -> Self:
        """Repeat twice, then crop, or replicate the last voxel, to the length of ``skip``."""

    def interpolate(self, skip: Self) -> Self:
        """Double linearly, half-pixel centres and ends repeated, then crop to the length of ``skip``."""

    def join(self, other: Self) -> Self:
        """Stand beside another map of the same length (concatenation, sum)."""


L = TypeVar("L", bound=Line)
"""One kind of line: an architecture gives back the kind it was given."""
Trace = Callable[[Any], Any]
"""An architecture as a function from the line that goes in to the line that comes out."""


@dataclass(frozen=True, slots=True)
class Span:
    """A line on which every voxel knows the first and the last input voxel it saw."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]

    @classmethod
    def image(cls, length: int) -> Span:
        """Return the input itself."""
        return cls(np.arange(length), np.arange(length))

    def conv(self, kernel: int) -> Span:
        """Look ``kernel // 2`` voxels to both sides, as far as there are any."""
        here, radius = np.arange(len(self.low)), kernel // 2
        return Span(self.low[(here - radius).clip(0)], self.high[(here + radius).clip(max=len(here) - 1)])

    def pool(self) -> Span:
        """Look at pairs; a last single voxel is dropped."""
        return Span(self.low[:-1:2], self.high[1::2])

    def every_second(self) -> Span:
        """See what was seen."""
        return Span(self.low[::2], self.high[::2])

    def average(self) -> Span:
        """Look at pairs, or at a last single voxel."""
        last = np.arange(1, len(self.high) + 1, 2).clip(max=len(self.high) - 1)
        return Span(self.low[::2], self.high[last])

    def repeat(self, skip: Span) -> Span:
        """Look at the cell one lies in, or at the last one."""
        cell = (np.arange(len(skip.low)) // 2).clip(max=len(self.low) - 1)
        return Span(self.low[cell], self.high[cell])

    def interpolate(self, skip: Span) -> Span:
        """Look at the cell one lies in and at the nearer neighbour."""
        cell, neighbour = _nearest_cells(len(skip.low), len(self.low))
        first, second = np.minimum(cell, neighbour), np.maximum(cell, neighbour)
        return Span(self.low[first], self.high[second])

    def join(self, other: Span) -> Span:
        """See what either saw."""
        return Span(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Weights:
    """A line on which every voxel (row) knows the share of each input voxel (column) in it."""

    share: NDArray[np.floating[Any]]

    @classmethod
    def image(cls, length: int) -> Weights:
        """Return the input itself."""
        return cls(np.eye(length, dtype=np.float32))

    def conv(self, kernel: int) -> Weights:
        """Average over ``kernel`` voxels, zeros behind the ends."""
        radius = kernel // 2
        padded = np.pad(self.share, ((radius, radius), (0, 0)))
        shifted = (padded[i : i + len(self.share)] for i in range(kernel))
        return Weights(sum(shifted, np.zeros_like(self.share)) / kernel)

    def pool(self) -> Weights:
        """Average pairs, as good as their maximum where nothing is known of them."""
        return Weights((self.share[:-1:2] + self.share[1::2]) / 2)

    def every_second(self) -> Weights:
        """Keep every second row."""
        return Weights(self.share[::2])

    def average(self) -> Weights:
        """Average pairs; a last single voxel stays."""
        last = np.arange(1, len(self.share) + 1, 2).clip(max=len(self.share) - 1)
        return Weights((self.share[::2] + self.share[last]) / 2)

    def repeat(self, skip: Weights) -> Weights:
        """Take the cell one lies in, or the last one."""
        return Weights(self.share[(np.arange(len(skip.share)) // 2).clip(max=len(self.share) - 1)])

    def interpolate(self, skip: Weights) -> Weights:
        """Take three quarters of the cell one lies in and one of the nearer neighbour."""
        cell, neighbour = _nearest_cells(len(skip.share), len(self.share))
        return Weights(0.75 * self.share[cell] + 0.25 * self.share[neighbour])

    def join(self, other: Weights) -> Weights:
        """Listen to both alike."""
        return Weights((self.share + other.share) / 2)


def exact_reach(trace: Trace, multiple: int) -> tuple[int, int]:
    """Return how many voxels a voxel sees before and behind it, at the worst alignment.

    Parameters
    ----------
    trace : function of a Line
        The architecture.
    multiple : int
        Product of its poolings, in voxels.

    Returns
    -------
    low, high : int
        In voxels; over lines of every remainder, for a last incomplete cell is seen otherwise.
    """
    length = _long_enough(trace, multiple)
    spans = [trace(Span.image(n)) for n in range(length, length + multiple)]
    low = max(int((np.arange(len(s.low)) - s.low).max()) for s in spans)
    high = max(int((s.high - np.arange(len(s.high))).max()) for s in spans)
    return low, high


def effective_reach(trace: Trace, multiple: int) -> tuple[int, int]:
    """Return the reach before and behind a voxel that holds all but ``LEFT_OUT`` of its influence.

    Parameters and returns are those of ``exact_reach``.
    """
    length = _long_enough(trace, multiple)
    share = trace(Weights.image(length)).share
    middle = length // 2 // multiple * multiple
    rows = [(p, np.cumsum(share[p]), np.cumsum(share[p, ::-1])) for p in range(middle, middle + multiple)]
    low = max(p - int(np.searchsorted(left, LEFT_OUT / 2)) for p, left, _ in rows)
    high = max(length - 1 - int(np.searchsorted(right, LEFT_OUT / 2)) - p for p, _, right in rows)
    return max(low, 0), max(high, 0)


def round_up(reach: int, multiple: int) -> int:
    """Return the smallest multiple that holds ``reach``: a tile must begin on the network's grid."""
    return -(-reach // multiple) * multiple


def _nearest_cells(length: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each voxel of a doubled line its cell, and the neighbour that is nearer, or the last one."""
    voxel = np.arange(length)
    cell = voxel // 2
    return cell, (cell + np.where(voxel % 2, 1, -1)).clip(0, cells - 1)


def _long_enough(trace: Trace, multiple: int) -> int:
    """Find a length, a multiple, on which no voxel of the middle cell sees an end."""
    length = 4 * multiple
    while True:
        span, middle = trace(Span.image(length)), length // 2 // multiple * multiple
        cell = slice(middle, middle + multiple)
        if multiple <= span.low[cell].min() and span.high[cell].max() < length - multiple:
            return length
        length *= 2
