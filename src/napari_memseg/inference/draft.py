"""Decide everything about a run before it starts.

What nobody says is chosen: from the image and the model (``choices.py``), from a run that is
there already, or by a measurement (``fit.py``)::

    checkpoint + image + SegmentConfig ──> Draft ──┬─ a run is there ──> its tile, arithmetic, batch ──> Plan
                                                   └─ none ──> fit ──────────────────────────────────> Plan
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.arithmetic import Arithmetic, usual
from napari_memseg.inference.choices import (
    choose_level,
    choose_skip_level,
    choose_stages,
    choose_threads,
    choose_tile,
    choose_window,
    core_unit,
)
from napari_memseg.inference.fit import fit
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.run_card import has_run_card, read_run_card
from napari_memseg.inference.stages import plan_stages
from napari_memseg.models.checkpoint import load_checkpoint
from napari_memseg.models.device import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_memseg.inference.config import SegmentConfig
    from napari_memseg.inference.control import Control
    from napari_memseg.io.volume import Volume
    from napari_memseg.models.base import Stage

SMALL = 2**21
"""Voxels of a region that is one tile, and not worth a measurement."""


def make_plan(
    checkpoint: str | Path,
    image: Volume,
    destination: str | Path,
    config: SegmentConfig,
    *,
    until: Sequence[str] | None = None,
    fresh: bool = False,
    control: Control | None = None,
    sharers: int = 1,
) -> Plan:
    """Freeze a run; where one of the same kind is at the destination, what nobody asks for is taken from it.

    Parameters
    ----------
    checkpoint : path
        A trained model.
    image : Volume
        What to segment.
    destination : path
        Of the label group.
    config : SegmentConfig
        How.
    until : sequence of str, optional
        Names of the stages to run, with those they need; by default all.
    fresh : bool
        Whether a run at the destination is to be discarded, so that it tells nothing.
    control : Control, optional
        Whoever cancels need not wait for a measurement.
    sharers : int
        So many processes of this machine are to do the run at once, and share its free memory and cores. A
        run that is there keeps the tile and the threads that it began with.

    Raises
    ------
    InputError
        If image and model do not fit, or the level, box, tile or device is impossible.
    DeviceMemoryError
        If no tile fits into memory, or not the one that is asked for.
    Cancelled
        If somebody asked for it.
    """
    draft = _draft(checkpoint, image, Path(destination), config, until, sharers)
    begun = None if fresh else _begun(draft)
    if begun is not None:
        return draft.like(begun)
    plain = draft.plan(batch=config.batch or 1)
    chosen = config.tile is not None and config.batch is not None and config.precision == "float32"
    if config.max_memory_gib is None and (chosen or plain.region.size <= SMALL):
        return plain
    return fit(draft, control)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A plan but for what can be measured: tile, arithmetic, batch."""

    facts: Mapping[str, Any]
    """The rest of a plan, by name."""
    image: Volume
    stages: Sequence[Stage]
    config: SegmentConfig
    core: Zyx
    """Of the tile that is asked for, or a usual one."""
    unit: Zyx
    """Cores are multiples of it."""
    sharers: int = 1
    """Processes among which this machine's memory is shared."""

    def plan(self, *, core: Zyx | None = None, arithmetic: Arithmetic | None = None, batch: int = 1) -> Plan:
        """Return a plan with these, or with what is usual."""
        facts, core = self.facts, core or self.core
        how = arithmetic or usual(self.config.precision)
        grid = {"core": core, "halo": self.config.halo, "region": facts["region"]}
        return Plan(
            **facts,
            stages=plan_stages(self.stages, self.image, facts["level"], facts["shape"], **grid),
            core=core,
            batch=batch,
            **asdict(how),
        )

    def like(self, begun: Plan) -> Plan:
        """Return a plan that goes on with one that was begun, as far as nothing else is asked for."""
        config = self.config
        how = begun.arithmetic if config.precision in ("auto", begun.precision) else None
        core = begun.core if config.tile is None else self.core
        plan = self.plan(core=core, arithmetic=how, batch=config.batch or begun.batch)
        return replace(plan, threads=plan.threads and (config.threads or begun.threads))


def _draft(
    checkpoint: str | Path,
    image: Volume,
    destination: Path,
    config: SegmentConfig,
    until: Sequence[str] | None,
    sharers: int,
) -> Draft:
    image.check()
    model, card = load_checkpoint(checkpoint)
    level = choose_level(image, card, config.level)
    shape, chunk = zyx(image.arrays[level].shape), zyx([config.chunk] * 3)
    planned = choose_stages(model, until)
    region = (Box.parse(config.box, shape) if config.box else Box.whole(shape)).snap(chunk).clip(shape)
    device = choose_device(config.device)
    facts = {
        "image": image.source,
        "fingerprint": image.fingerprint,
        "level": level,
        "shape": shape,
        "voxel_size": image.voxel_size_at(level),
        "unit": image.unit,
        "model": str(checkpoint),
        "sha256": card.sha256,
        "network": card.network,
        "destination": str(destination),
        "classes": card.classes,
        "window": choose_window(image, level, card, config.window),
        "chunk": chunk,
        "region": region,
        "segments": len(planned) == len(model.stages),
        "confidence": config.confidence,
        "device": device,
        "threads": choose_threads(config.threads, device, sharers),
        "skip_below": config.skip_below,
        "skip_level": choose_skip_level(image, level, config.skip_below),
    }
    core, unit = choose_tile(model, config, shape, chunk, region), core_unit(model, chunk)
    known: dict[str, Any] = {"facts": facts, "image": image, "stages": planned, "config": config}
    return Draft(**known, core=core, unit=unit, sharers=sharers)


def _begun(draft: Draft) -> Plan | None:
    """Return the plan of a run at the destination that this may go on with; None if there is none."""
    destination = Path(draft.facts["destination"])
    if not has_run_card(destination):
        return None
    try:
        begun = Plan.from_json(read_run_card(destination)["plan"])
    except (KeyError, TypeError, ValueError):
        return None
    kept = ("fingerprint", "sha256", "network", "level", "shape", "chunk")
    same = all(getattr(begun, name) == draft.facts[name] for name in kept)
    kind = begun.device.partition(":")[0]
    return begun if same and kind == draft.facts["device"].partition(":")[0] else None
