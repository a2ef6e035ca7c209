"""Models: what each network is, when to choose it, what it costs on this machine, its paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, ClassVar

from qtpy.QtCore import Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_memseg.models.registry import names
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.pages.page import ACCENT, NO_SESSION, Page
from napari_memseg.widgets.parts import Button, Hint, JobBar, form, group, row, shape_text
from napari_memseg.workflows.train_job import DEFAULT_ARCHITECTURE

ASKING = "Asking what the networks are…"
TO_TRAIN = "To train one, start or open a session, on the page Open."
IDENTIFIER = re.compile(r"(?P<arxiv>arXiv:\d{4}\.\d{4,5})|(?P<doi>doi:10\.\d{4,9}/[^\s;,]+)")
"""Of a paper, in a citation."""


class ModelsPage(Page):
    """From all networks to the one that is to be trained."""

    title: ClassVar[str] = "Models"

    def __init__(self, desk: Desk, use: Callable[[str], object]) -> None:
        super().__init__(desk)
        self._use_for_training = use
        self._build_list()
        self._build_choice()
        self.column.addStretch()
        desk.networks.changed.connect(self.refresh)
        for relay in (desk.training, desk.segmenting.relay, desk.exporting, desk.building):
            relay.ended.connect(self._allow)
        self.refresh()

    def _build_list(self) -> None:
        self.networks = NetworkList()
        self.networks.currentItemChanged.connect(self.refresh)
        self.add(self.networks)

    def _build_choice(self) -> None:
        self.about, self.advice, self.costs = Hint(), Hint(), Hint()
        self.weights, self.halo, self.phases, self.paper = Hint(), Hint(), Hint(), Hint()
        for fact in (self.weights, self.halo, self.phases):
            fact.setWordWrap(False)  # or a form gives it too little room
        self.paper.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.paper.setOpenExternalLinks(True)
        self.halo.setToolTip(
            "Context that a tile reads around itself, in voxels: what a run takes by default"
        )
        self.measure = Button(
            "Measure on this machine",
            self._measure,
            "Train and segment a little that is made up, and time it",
        )
        self.use = Button("Use for training", self._use, "Choose this network on the page Train")
        self.bar = JobBar()
        self.choice = group(
            "",
            self.about,
            self.advice,
            form(Weights=self.weights, Halo=self.halo, Trainings=self.phases),
            self.paper,
            row(self.measure, self.use),
            self.measure.reason,
            self.bar,
            self.costs,
        )
        self.add(self.choice)

    # What is there

    def refresh(self) -> None:
        """Describe the chosen network, and say what to do next."""
        networks, name = self.desk.networks, self.networks.chosen
        self.networks.describe(networks.about)
        found = networks.about.get(name)
        self.choice.setVisible(found is not None)
        self.hint.say(self._next())
        if found is not None:
            self._describe(found)
        if networks.relay.busy:
            self.bar.wait(f"Measuring {networks.measured}: a moment, or a minute for the slowest…")
        else:
            self.bar.clear()
        self.costs.say(networks.costs_of(name))
        self._allow()

    def showEvent(self, event: QShowEvent) -> None:
        """Ask again where the Preferences name another device, and look what goes on meanwhile."""
        self.desk.describe_again()
        super().showEvent(event)
        self.refresh()

    def _next(self) -> str:
        networks = self.desk.networks
        there = "Choose by what a network is made for, and by what it costs here."
        first = there if networks.about else networks.why_unknown or ASKING
        return f"{first} {TO_TRAIN}" if self.desk.session is None else first

    def _describe(self, found: Mapping[str, Any]) -> None:
        self.choice.setTitle(found["name"])
        self.about.say(found["title"])
        self.advice.say(found["advice"])
        self.weights.say(f"{found['parameters']:,}")
        halo = tuple(found["halo_recommended"])
        self.halo.say(f"{shape_text(halo)} voxels" if any(halo) else "none")
        self.phases.say("one" if found["phases"] == 1 else f"{found['phases']}, one after the other")
        self.paper.say(f"Paper: {linked(found['paper'])}")

    def _allow(self) -> None:
        busy = "A training is going on: choose for the next one after it." if self.desk.training.busy else ""
        self.use.allow(NO_SESSION if self.desk.session is None else busy, quiet=True)
        networks = self.desk.networks
        self.measure.allow(networks.why_not_measure(), quiet=networks.relay.busy)

    # What is done

    def _measure(self) -> None:
        self.desk.networks.measure(self.networks.chosen)

    def _use(self) -> None:
        self._use_for_training(self.networks.chosen)


class NetworkList(QListWidget):
    """All networks by name; with their titles, as soon as these are known."""

    def __init__(self) -> None:
        super().__init__()
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        for name in names():
            item = QListWidgetItem(name)
            item.setData(Qt.ItemDataRole.UserRole, name)
            self.addItem(item)
        self.setSpacing(1)
        self.choose(DEFAULT_ARCHITECTURE)
        self.setFixedHeight((self.sizeHintForRow(0) + 2 * self.spacing()) * self.count() + 8)

    @property
    def chosen(self) -> str:
        """Name of the network that is chosen."""
        item = self.currentItem()
        return "" if item is None else str(item.data(Qt.ItemDataRole.UserRole))

    def choose(self, name: str) -> None:
        """Choose a network."""
        for item in self._items():
            if item.data(Qt.ItemDataRole.UserRole) == name:
                self.setCurrentItem(item)

    def describe(self, about: Mapping[str, Mapping[str, Any]]) -> None:
        """Put its title behind each name."""
        for item in self._items():
            name = item.data(Qt.ItemDataRole.UserRole)
            if found := about.get(name):
                item.setText(f"{name}: {found['title']}")
                item.setToolTip(found["title"])

    def _items(self) -> list[QListWidgetItem]:
        return [self.item(n) for n in range(self.count())]


def linked(citation: str) -> str:
    """Return a citation as rich text, whose arXiv number and DOI are links."""
    parts, end = [], 0
    for found in IDENTIFIER.finditer(citation):
        number = found[0].partition(":")[2]
        place = f"https://arxiv.org/abs/{number}" if found["arxiv"] else f"https://doi.org/{number}"
        link = f'<a href="{escape(place)}" style="color: {ACCENT}">{escape(found[0])}</a>'
        parts += [escape(citation[end : found.start()]), link]
        end = found.end()
    return "".join([*parts, escape(citation[end:])])
