"""The networks that there are, and what they cost on this machine: asked once, known as long as the viewer.

Describing a network builds it, and measuring trains it for a moment, so a child process does both. What there
is comes with the description of the machine, costs when somebody asks for them::

    desk.machine ──> about: title, advice, paper of each ──┐
    measure(name) ──> relay ──> child ──> costs ───────────┴──> changed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_memseg.widgets.relay import JobRelay, Outcome
from napari_memseg.widgets.settings import setting
from napari_memseg.workflows.words import gib_text, moment

if TYPE_CHECKING:
    from napari_memseg.widgets.desk import Desk
    from napari_memseg.workflows.progress import Progress


class Networks(QObject):
    """What is known of each network.

    Attributes
    ----------
    about : dict
        Rows as ``napari-memseg models`` prints them, by name; empty until the child has answered.
    why_unknown : str
        Why there are none; nothing as long as they may come.
    measured : str
        Name of the network that is measured, or was the last.
    relay : JobRelay
        Who has it measured.

    Signals
    -------
    changed
        More is known, or something is asked.
    """

    changed = Signal()

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self.about: dict[str, Mapping[str, Any]] = {}
        self.why_unknown = self.measured = ""
        self._said: dict[tuple[str, str], str] = {}
        self._device = ""
        self.relay = JobRelay(self, after=desk.machine)
        self.relay.ended.connect(self._on_end)
        desk.machine.stepped.connect(self._on_machine)
        desk.machine.ended.connect(self._on_machine_end)

    def measure(self, name: str) -> None:
        """Measure what a network costs, on the device of the Preferences, if nothing hinders it."""
        if self.why_not_measure():
            return
        self.measured, self._device = name, setting("device")
        self._said.pop((name, self._device), None)
        workflow = "napari_memseg.workflows.costs:costs"
        self.relay.start(f"measuring what {name} costs", workflow, [name], self._device)
        self.changed.emit()

    def why_not_measure(self) -> str:
        """Say why nothing can be measured now; nothing where it can."""
        if self.relay.busy:
            return f"{self.measured} is being measured."
        work = self._desk.at_work
        return (
            f"A {work} is going on, which would slow the measurement down: measure after it." if work else ""
        )

    def costs_of(self, name: str) -> str:
        """Say what a network costs, or why that is not known; nothing where nobody has asked."""
        return self._said.get((name, setting("device")), "")

    def _on_end(self, outcome: Outcome) -> None:
        said = ""
        if outcome.error is not None:
            said = str(outcome.error)
        elif outcome.result:
            said = costs_text(outcome.result["costs"][0])
            if work := self._desk.at_work:
                said += f" But a {work} went on beside it: measure again after that."
        self._said[self.measured, self._device] = said
        self.changed.emit()

    def _on_machine(self, step: Progress) -> None:
        if step.result:
            self.about = {row["name"]: row for row in step.result["models"]}
            self.why_unknown = ""
            self.changed.emit()

    def _on_machine_end(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.why_unknown = str(outcome.error)
            self.changed.emit()


def costs_text(row: Mapping[str, Any]) -> str:
    """Say what a network costs, from a row of the workflow ``costs``."""
    return (
        f"On {row['device']}, in float32: a training step of its own patches keeps "
        f"{gib_text(row['train_memory_gib'])} and takes {moment(row['train_seconds_per_step'])}; a million "
        f"voxels are segmented in {moment(row['segment_seconds_per_megavoxel'])}, without halos."
    )
