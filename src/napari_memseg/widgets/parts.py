"""Small pieces that the pages are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QVBoxLayout,
    QWidget,
)

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx
from napari_memseg.io.formats import ENDINGS
from napari_memseg.io.volume import Volume
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.words import duration

VOLUMES = f"Volumes ({' '.join(f'*{ending}' for ending in ENDINGS)});;All files (*)"
"""What a file dialog offers."""
MARGIN = 4
"""Around the text of a choice, in pixels."""
DRAW_MS = 200
"""Time between two drawings of a progress bar."""


class Hint(QLabel):
    """A sentence that says what to do next; takes no room when there is nothing to say."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.say(text)

    def say(self, text: str) -> None:
        """Show a sentence, or nothing."""
        if text != self.text():
            self.setText(text)
        if self.isHidden() == bool(text):
            self.setVisible(bool(text))


class Button(QPushButton):
    """A button that says why it cannot be pressed: in its tool tip, and in a line below it."""

    def __init__(self, text: str, action: Callable[[], object], tip: str = "") -> None:
        super().__init__(text)
        self.tip = tip
        self.reason = Hint()
        self.setToolTip(tip)
        self.clicked.connect(lambda: action())

    def allow(self, why_not: str = "", *, quiet: bool = False) -> None:
        """Make the button work, or say why it does not; ``quiet`` says it in the tool tip alone."""
        if self.isEnabled() == bool(why_not):
            self.setEnabled(not why_not)
        self.setToolTip(why_not or self.tip)
        self.reason.say("" if quiet else why_not)


class Choice(QComboBox):
    """A list to choose from that is no wider than there is room, however long its entries are."""

    def __init__(self, entries: Iterable[str] = (), tip: str = "") -> None:
        super().__init__()
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.addItems(list(entries))
        self.setToolTip(tip)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Show an entry that is wider than there is room with an ellipsis, not cut in a letter."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        style = self.style()
        field = style.subControlRect(
            QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, self
        )
        room = field.width() - 2 * MARGIN
        option.currentText = self.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideRight, room
        )
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def choose(self, data: object) -> None:
        """Choose the entry that stands for ``data``, or else the first.

        Qt's own ``findData`` takes two equal paths for different ones.
        """
        known = [self.itemData(n) for n in range(self.count())]
        self.setCurrentIndex(known.index(data) if data in known else 0)


class OptionalNumber(QLineEdit):
    """A number that may be left out; what that means is shown in its place."""

    def __init__(self, name: str, empty: str, tip: str) -> None:
        super().__init__()
        self.name, self._empty = name, empty
        self.setPlaceholderText(empty)
        self.setToolTip(tip)

    @property
    def number(self) -> float | None:
        """What was typed; None if nothing was.

        Raises
        ------
        InputError
            If it is no number.
        """
        text = self.text().strip()
        try:
            number = float(text.replace(",", ".")) if text else None
        except ValueError:
            number = float("nan")
        if number is not None and not isfinite(number):
            raise InputError(
                f"{self.name} is a number, or left empty ({self._empty}); it cannot be “{text}”."
            )
        return number


class JobBar(QWidget):
    """How far a job is, and how long it will take."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = QProgressBar()
        self._text = Hint()
        layout = column(self)
        layout.addWidget(self._bar)
        layout.addWidget(self._text)
        self._step: Progress | None = None
        self._note = ""
        self._timer = QTimer(self, interval=DRAW_MS, singleShot=True)
        self._timer.timeout.connect(self._draw)
        self.clear()

    @property
    def text(self) -> str:
        """What is said about the job."""
        return self._text.text()

    def show_step(self, step: Progress, note: str = "") -> None:
        """Show a step of a job, soon, and what else there is to say about it."""
        self._step, self._note = step, note
        if not self._timer.isActive():
            self._timer.start()

    def wait(self, text: str) -> None:
        """Say that something was begun, and nothing is known yet."""
        self._step = None
        self._show(0, 0)
        self._text.say(text)

    def clear(self, text: str = "") -> None:
        """Show no job, and perhaps what the last one came to."""
        self._step = None
        self._bar.setVisible(False)
        self._text.say(text)

    def _draw(self) -> None:
        if (step := self._step) is not None:
            self._show(max(step.total, 1), step.done)
            text = f"{step.stage}: {step.done} of {step.total}{_left(step.seconds_left)}"
            self._text.say(f"{text}; {self._note}" if self._note else text)

    def _show(self, total: int, done: int) -> None:
        """Set the bar without its habit of painting the window at once, which takes tens of milliseconds."""
        self._bar.setUpdatesEnabled(False)
        self._bar.setVisible(True)
        self._bar.setRange(0, total)
        self._bar.setValue(done)
        self._bar.setUpdatesEnabled(True)


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f", about {duration(seconds)} left"


def size_text(count: float) -> str:
    """Say how many bytes, as people do."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def shape_text(shape: Zyx) -> str:
    """Say how many voxels an array has along each axis."""
    return " × ".join(map(str, shape))


def size_of(volume: Volume, level: int) -> str:
    """Say how large the voxels of a level are."""
    size = volume.voxel_size_at(level)
    if size is None and (pixel := volume.pixel_size) is not None:
        return f"pixels of {pixel.y:.4g} × {pixel.x:.4g} {pixel.unit}, distance of slices unknown"
    if size is None:
        return "voxel size unknown"
    numbers = " × ".join(f"{length:.4g}" for length in size)
    return f"{f'{size[0]:.4g}' if len({*size}) == 1 else numbers} {volume.unit or 'of no known unit'}"


def fills(widget: QWidget) -> None:
    """Let a widget have all the height of its dock, where napari would push it to the top."""
    widget.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)


def column(owner: QWidget) -> QVBoxLayout:
    """Lay out a widget from top to bottom, without a margin."""
    layout = QVBoxLayout(owner)
    layout.setContentsMargins(0, 0, 0, 0)
    return layout


def row(*widgets: QWidget) -> QWidget:
    """Put widgets side by side."""
    line = QWidget()
    layout = QHBoxLayout(line)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return line


def group(title: str, *widgets: QWidget) -> QGroupBox:
    """Put widgets that belong together under a title."""
    box = QGroupBox(title)
    layout = QVBoxLayout(box)
    for widget in widgets:
        layout.addWidget(widget)
    return box


def form(**fields: QWidget) -> QWidget:
    """Put named fields below each other; underscores of a name are shown as spaces."""
    widget = QWidget()
    layout = QFormLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    for name, field in fields.items():
        layout.addRow(name.replace("_", " "), field)
    return widget
