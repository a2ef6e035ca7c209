"""One session in one viewer: what the pages of the dock talk to.

The desk outlives the dock, which may be closed and opened again, and it never waits:
jobs run in child processes, and only its slots, on the GUI thread, touch layers::

    pages ──ask──> Desk ──> Session (strokes, SQLite)
                    │└────> SessionLayers: image, result, corrections
                    └─────> JobRelay: train, segment, export, pyramid ──> child processes
"""

from __future__ import annotations

from pathlib import Path

from napari import Viewer
from napari.layers import Labels, Layer
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QObject, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.io.volume import Volume
from napari_memseg.widgets.counting import Counting
from napari_memseg.widgets.forecasting import Forecasting
from napari_memseg.widgets.guards import Guard3D
from napari_memseg.widgets.importing import Importing
from napari_memseg.widgets.layers import value_of
from napari_memseg.widgets.napari_compat import canvas_of, free_in_own_context, main_window, unwrapped
from napari_memseg.widgets.networks import Networks
from napari_memseg.widgets.painting import PAINTING
from napari_memseg.widgets.previewing import Previewing
from napari_memseg.widgets.reader import VOLUME
from napari_memseg.widgets.relay import JobRelay, Outcome
from napari_memseg.widgets.reviewing import Reviewing
from napari_memseg.widgets.segmenting import Segmenting
from napari_memseg.widgets.session_layers import SessionLayers
from napari_memseg.widgets.settings import setting
from napari_memseg.widgets.view import visible_box, window
from napari_memseg.workflows.child_process import close_children
from napari_memseg.workflows.train_job import TrainJob

_NAME = "napari-memseg desk"
ASKED_MS = 100
"""Time between two looks whether a question about closing is still open."""


def desk_of(viewer: Viewer) -> Desk:
    """Return the desk of a viewer; there is one, from the first time that somebody asks."""
    viewer = unwrapped(viewer)
    found = main_window(viewer).findChild(Desk, _NAME)
    return found if isinstance(found, Desk) else Desk(viewer)


class Desk(QObject):
    """A session, its layers and its jobs in a viewer.

    Attributes
    ----------
    session : Session or None
        The one that is open.
    shown : SessionLayers or None
        Its layers.
    training, exporting, building, machine : JobRelay
        Jobs in child processes: to train, to export, to build a pyramid, to describe this machine.
    importing : Importing
        Labels from elsewhere, while they become corrections.
    segmenting : Segmenting
        Runs, shown while they come in.
    previewing : Previewing
        What a network that is still learning says of what is looked at.
    reviewing : Reviewing
        Places that are worth a look.
    forecasting : Forecasting
        What the run that is chosen would take.
    networks : Networks
        What is known of each network, and what it costs here.
    ended : bool
        The viewer is being closed: nothing is begun any more.

    Signals
    -------
    session_changed
        Another session is open, or none.
    classes_changed
        Names, colours or classes are others.
    models_changed
        There may be another model.
    layers_changed
        One of the session's layers came or went.
    viewer_layers_changed
        Any layer of the viewer came or went.
    counted : dict
        Painted voxels by class id.
    chosen : int
        The value that the brush paints.
    stored : str
        The state of the overlay.
    """

    session_changed = Signal()
    classes_changed = Signal()
    models_changed = Signal()
    layers_changed = Signal()
    viewer_layers_changed = Signal()
    counted = Signal(object)
    chosen = Signal(int)
    stored = Signal(str)

    def __init__(self, viewer: Viewer) -> None:
        window = main_window(viewer)
        super().__init__(window)
        self.setObjectName(_NAME)
        self.viewer = viewer
        self.session: Session | None = None
        self.shown: SessionLayers | None = None
        self.counting: Counting | None = None
        self.exporting, self.building, self.machine = (JobRelay(self) for _ in range(3))
        self.importing = Importing(self)
        self.forecasting = Forecasting(self)
        self.networks = Networks(self)
        self.training = JobRelay(self, after=self.forecasting.relay)
        self.segmenting = Segmenting(self)
        self.previewing = Previewing(self)
        self.reviewing = Reviewing(self)
        self.segmenting.moved.connect(self.look)
        for relay in self._jobs.values():
            relay.ended.connect(self.forecasting.go_on)
        self.training.ended.connect(self._on_trained)
        self.building.ended.connect(self._on_built)
        self._guard = Guard3D(viewer, self)
        free_in_own_context(viewer, canvas_of(viewer))
        viewer.layers.events.inserted.connect(self._on_viewer_layers)
        viewer.layers.events.removed.connect(self._on_viewer_layers)
        self._closing = self.ended = False
        self._device = ""
        self._window = window
        window.installEventFilter(self)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self._quit)
        self.describe_machine()

    # The session

    def open_session(self, folder: Path, *, image: Volume | None = None, layer: Layer | None = None) -> bool:
        """Open a session folder, for editing if nobody else does, and show it.

        Parameters
        ----------
        folder : Path
            Of the session.
        image : Volume, optional
            Its image, if it is open already.
        layer : Layer, optional
            A layer that shows the image already.

        Returns
        -------
        bool
            Whether it is open; if not, the user was told why.
        """
        if why := self.why_not_close():
            show_error(why)
            return False
        try:
            session = Session.open(folder, read_only=None, image=image)
            session.image  # noqa: B018 - fails here if it is gone, not when it is to be shown
        except InputError as error:
            show_error(str(error))
            return False
        self.close_session()
        try:
            self._take(session, layer or self._layer_of(session))
        except InputError as error:
            self.close_session()
            show_error(str(error))
            return False
        for note in session.notes:
            show_info(note[:1].upper() + note[1:])
        return True

    def _layer_of(self, session: Session) -> Layer | None:
        """Return a layer that shows a session's image already, from an earlier time that it was open."""
        for layer in self.viewer.layers:
            known = layer.metadata.get(VOLUME)
            if isinstance(known, Volume) and known.source == session.image.source:
                return layer
        return None

    def _take(self, session: Session, layer: Layer | None) -> None:
        self.session = session
        self.shown = SessionLayers(self.viewer, session, layer, self)
        self.shown.changed.connect(self.layers_changed)
        self.shown.stored.connect(self.stored)
        self.shown.chosen.connect(self.chosen)
        self.counting = Counting(session, self)
        self.counting.counted.connect(self.counted)
        self.shown.painted.connect(self.counting.changed)
        self.viewer.dims.axis_labels = ("z", "y", "x")[-self.viewer.dims.ndim :]
        self.session_changed.emit()
        self.stored.emit(session.overlay.state)

    @property
    def at_work(self) -> str:
        """What is being made of the session: training, run, export, labels import or pyramid; or nothing."""
        return next((name for name, relay in self._jobs.items() if relay.busy), "")

    @property
    def _jobs(self) -> dict[str, JobRelay]:
        return {
            "training": self.training,
            "run": self.segmenting.relay,
            "export": self.exporting,
            "labels import": self.importing.relay,
            "pyramid": self.building,
        }

    def why_not_close(self) -> str:
        """Say why the session cannot be closed now; nothing where it can."""
        work = self.at_work
        return f"A {work} of this session is going on. Stop it first; it can be continued." if work else ""

    def close_session(self, *, remove_layers: bool = True) -> None:
        """Store what is pending, let others edit, and take the session's layers away."""
        if self.session is None:
            return
        session, self.session = self.session, None
        if self.shown is not None:
            self.shown.close(remove=remove_layers)
            self.shown = None
        if self.counting is not None:
            self.counting.close()
            self.counting = None
        try:
            session.close()
        except InputError as error:
            show_error(str(error))
        self.session_changed.emit()

    def save(self) -> None:
        """Store what is painted and not stored yet."""
        if self.shown is not None and self.shown.painter is not None:
            self.shown.painter.save()

    def show_layers(self) -> None:
        """Show the session's layers that somebody deleted."""
        if self.shown is not None:
            self.shown.show()

    # Classes

    def choose(self, class_id: int) -> None:
        """Take the brush of a class: whatever layer was chosen before, strokes go to the corrections."""
        if self.session is None or self.shown is None:
            return
        if self.shown.corrections is None:
            self.shown.show()
        layer = self.shown.corrections
        assert isinstance(layer, Labels)
        self.viewer.dims.ndisplay = 2  # where a slice is painted on
        layer.visible = True
        self.viewer.layers.selection.active = layer
        layer.selected_label = value_of(self.session.classes, class_id)
        if str(layer.mode) not in PAINTING or str(layer.mode) == "erase":
            layer.mode = "paint"

    def add_class(self, class_id: int, name: str) -> None:
        """Add a class to the session."""
        if self.session is not None:
            before = self.session.overlay
            self.session.add_class(class_id, name)
            if self.session.overlay is not before:  # ids of a wider dtype: another array
                self._reopen()
            self._on_classes()

    def rename_class(self, class_id: int, name: str, color: str | None = None) -> None:
        """Give a class another name or colour."""
        if self.session is not None:
            self.session.rename_class(class_id, name, color)
            self._on_classes()

    def merge_class(self, class_id: int, into: int) -> None:
        """Count a class as another one, and take the brush of that."""
        if self.session is not None:
            classes, overlay = self.session.classes, self.session.overlay
            was_locked = classes.opinions(into) <= overlay.locked
            self.session.merge_class(class_id, into)
            overlay.locked -= classes.opinions(class_id)
            if was_locked:
                self.lock_class(into, True)
            self._on_merged(into)

    def part_class(self, class_id: int) -> None:
        """Make a merged class one of its own again, and take its brush."""
        if self.session is not None:
            self.session.part_class(class_id)
            self._on_merged(class_id)

    def _on_merged(self, chosen: int) -> None:
        """Show and count everything anew: what it means is another thing now."""
        session = self.session
        if session is None or self.shown is None or self.counting is None:
            return
        self.shown.show_runs()
        self._on_classes()
        self.segmenting.runs_changed.emit()
        self.counting.changed(Box.whole(session.shape))
        self.choose(chosen)

    def hide_class(self, class_id: int, hidden: bool) -> None:
        """Show a class no more in result and corrections, or again."""
        if self.shown is not None:
            (self.shown.hidden.add if hidden else self.shown.hidden.discard)(class_id)
            self._on_classes()

    def lock_class(self, class_id: int, locked: bool) -> None:
        """Let neither brush nor tool paint over opinions of a class, or let them again."""
        if self.session is not None:
            values = self.session.classes.opinions(class_id)
            overlay = self.session.overlay
            overlay.locked = overlay.locked | values if locked else overlay.locked - values
            self.classes_changed.emit()

    def _on_classes(self) -> None:
        if self.shown is not None:
            self.shown.recolor()
        self.classes_changed.emit()

    def _reopen(self) -> None:
        session = self.session
        if session is None or self.shown is None or self.counting is None:
            return
        image, hidden = self.shown.image, self.shown.hidden
        self.shown.close(remove=True)
        self.counting.close()
        self._take(session, image)
        self.shown.hidden |= hidden

    # The view

    def _on_viewer_layers(self) -> None:
        self.viewer_layers_changed.emit()

    def visible_box(self) -> Box | None:
        """Return what is on the screen, in voxels of the working level; None where nothing is shown."""
        if self.session is None or self.shown is None:
            return None
        layer = self.shown.corrections or self.shown.result
        return None if layer is None else visible_box(self.viewer, layer, self.session.shape)

    def look(self) -> None:
        """Tell a training what is looked at, to preview that."""
        layer = None if self.shown is None else self.shown.corrections or self.shown.result
        if self.session is not None and layer is not None and self.training.busy:
            self.training.look_at(window(self.viewer, layer, self.session.shape))

    # Jobs

    def train(self, job: TrainJob, *, live: bool = False) -> None:
        """Begin a training or go on with one, and preview what is looked at; ``live`` follows each stroke."""
        self.save()
        self.previewing.begin()
        workflow = "napari_memseg.workflows.live:live" if live else "napari_memseg.workflows.train:train"
        self.training.start(f"training {job.out.stem}: it can be continued later", workflow, job)
        self.look()

    def describe_machine(self) -> None:
        """Ask a child process what there is to compute on; it stays, so that the next job begins at once."""
        if not self.machine.busy:
            self._device = setting("device")
            workflow = "napari_memseg.workflows.machine:describe_machine"
            self.machine.start("asking what there is to compute on", workflow, self._device)

    def describe_again(self) -> None:
        """Ask once more, where somebody chose another device in the Preferences meanwhile."""
        if self._device != setting("device"):
            self.describe_machine()

    def _on_trained(self, outcome: Outcome) -> None:
        self.models_changed.emit()
        if outcome.error is not None:
            show_error(str(outcome.error))
            self.describe_machine()  # in a new child, where the last one died

    def _on_built(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            show_error(str(outcome.error))
        elif outcome.result and self.session is not None and self.shown is not None:
            try:
                self.session.reopen_image()
            except InputError as error:
                show_error(str(error))
            else:
                self.shown.replace_image()

    # The end

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Store strokes when the window loses focus or is to be closed; end when it is gone."""
        if event.type() == QEvent.Type.WindowDeactivate:
            self.save()
        elif event.type() == QEvent.Type.Close:
            self.save()
            self._closing = True
            QTimer.singleShot(0, self._stay)
            if not self._window.isVisible():
                self._end()
        elif event.type() == QEvent.Type.Hide and self._closing:
            self._end()
        return False

    def _stay(self) -> None:
        """Take note that the window was not closed, once whoever is asked about that has answered."""
        if QApplication.activeModalWidget() is not None:
            QTimer.singleShot(ASKED_MS, self._stay)
        else:
            self._closing = False

    def _end(self) -> None:
        """Stop jobs, so that they can be continued, and close the session; layers go with their viewer."""
        if self.ended:
            return
        self.ended = True
        for relay in (*self._jobs.values(), self.machine, self.forecasting.relay, self.networks.relay):
            relay.cancel()
        self.segmenting.close()
        self.previewing.close()
        self.reviewing.close()
        self._guard.close()
        self.viewer.layers.events.inserted.disconnect(self._on_viewer_layers)
        self.viewer.layers.events.removed.disconnect(self._on_viewer_layers)
        self.close_session(remove_layers=False)

    def _quit(self) -> None:
        self._end()
        close_children()
