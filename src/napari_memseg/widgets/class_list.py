"""The classes of a session as a table: choose one to paint with, rename, recolour, see how much there is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QAction, QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHeaderView,
    QMenu,
    QTableWidget,
    QTableWidgetItem,
)

from napari_memseg.errors import MemsegError
from napari_memseg.models.classes import ClassTable, LabelClass
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.keys import TOOL_KEYS, class_key, shown
from napari_memseg.widgets.layers import BACKGROUND_TINT, value_of

COLOR, NAME, ID, KEY, PAINTED, SEEN, LOCKED = range(7)
HEADS = ("", "class", "id", "key", "painted", "see", "lock")
TIPS = {
    SEEN: "Show this class in result and corrections",
    LOCKED: "Let neither brush nor tool paint over strokes of this class; what is only predicted stays open",
}


class ClassList(QTableWidget):
    """Classes, background among them; a click takes the brush of one."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(0, len(HEADS))
        self._desk = desk
        self._filling = False
        self.setHorizontalHeaderLabels(HEADS)
        self.verticalHeader().hide()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        for column in range(len(HEADS)):
            stretch = (
                QHeaderView.ResizeMode.Stretch if column == NAME else QHeaderView.ResizeMode.ResizeToContents
            )
            self.horizontalHeader().setSectionResizeMode(column, stretch)
        self.setToolTip(
            "Click to paint with a class; double-click to change its name or colour; right-click to merge "
            "or split classes"
        )
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(self._on_right_click)
        self.cellClicked.connect(self._on_click)
        self.cellDoubleClicked.connect(self._on_double_click)
        self.itemChanged.connect(self._on_edit)
        desk.session_changed.connect(self.fill)
        desk.classes_changed.connect(self.fill)
        desk.counted.connect(self._show_counts)
        desk.chosen.connect(self._show_chosen)
        self.fill()

    def fill(self) -> None:
        """Show the classes of the session."""
        session = self._desk.session
        classes = list(session.classes) if session else []
        self._filling = True
        self.setRowCount(len(classes))
        for row, one in enumerate(classes):
            self._fill_row(row, one)
        self._filling = False
        self._show_counts(self._desk.counting.voxels if self._desk.counting else {})
        corrections = self._desk.shown.corrections if self._desk.shown else None
        if corrections is not None:
            self._show_chosen(int(corrections.selected_label))
        height = self.horizontalHeader().height() + sum(self.rowHeight(row) for row in range(len(classes)))
        self.setFixedHeight(min(height + 4, 260))

    def _fill_row(self, row: int, one: LabelClass) -> None:
        color, name, number, key, painted, seen, locked = (self._cell(row, c) for c in range(len(HEADS)))
        color.setIcon(_swatch(one.color if one.id else BACKGROUND_TINT))
        color.setToolTip("Double-click to choose another colour" if one.id else "Background shows as a tint")
        name.setText(one.name)
        number.setText(str(one.id))
        key.setText(shown(class_key(row)))
        self._check(one, seen, locked)
        for column, item in enumerate((color, name, number, key, painted, seen, locked)):
            flags = Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled
            if column == NAME and one.id:
                flags |= Qt.ItemFlag.ItemIsEditable
            if column in TIPS:
                flags |= Qt.ItemFlag.ItemIsUserCheckable
                item.setToolTip(TIPS[column])
            item.setFlags(flags)

    def _cell(self, row: int, column: int) -> QTableWidgetItem:
        """Return the item of a cell; one that is there stays, since somebody may be typing in it."""
        item = self.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            self.setItem(row, column, item)
        return item

    def _check(self, one: LabelClass, seen: QTableWidgetItem, locked: QTableWidgetItem) -> None:
        """Say whether a class is shown, and whether it is locked."""
        session, layers = self._desk.session, self._desk.shown
        hidden = layers is not None and one.id in layers.hidden
        held = session is not None and session.classes.opinions(one.id) <= session.overlay.locked
        seen.setCheckState(Qt.CheckState.Unchecked if hidden else Qt.CheckState.Checked)
        locked.setCheckState(Qt.CheckState.Checked if held else Qt.CheckState.Unchecked)

    def _class(self, row: int) -> LabelClass | None:
        session = self._desk.session
        classes = list(session.classes) if session else []
        return classes[row] if 0 <= row < len(classes) else None

    def _show_counts(self, voxels: dict[int, int]) -> None:
        self._filling = True
        for row in range(self.rowCount()):
            one, item = self._class(row), self.item(row, PAINTED)
            if one is not None and item is not None:
                item.setText(f"{voxels.get(one.id, 0):,}")
        self._filling = False

    def _show_chosen(self, value: int) -> None:
        """Mark the class whose brush is taken, however it was."""
        session = self._desk.session
        for row, one in enumerate(session.classes if session else ()):
            if session is not None and value_of(session.classes, one.id) == value:
                self.selectRow(row)
                return
        self.clearSelection()

    def _on_click(self, row: int, column: int) -> None:
        if column in TIPS:
            return
        if (one := self._class(row)) is not None:
            self._desk.choose(one.id)

    def _on_double_click(self, row: int, column: int) -> None:
        one = self._class(row)
        if column == COLOR and one is not None and one.id:
            color = QColorDialog.getColor(QColor(one.color), self, f"Colour of {one.name}")
            if color.isValid():
                self._rename(one, one.name, color.name())

    def _on_edit(self, item: QTableWidgetItem) -> None:
        one = self._class(item.row())
        checked = item.checkState() == Qt.CheckState.Checked
        if self._filling or one is None:
            return
        if item.column() == SEEN:
            self._desk.hide_class(one.id, not checked)
        elif item.column() == LOCKED:
            self._desk.lock_class(one.id, checked)
        elif item.column() == NAME and item.text() != one.name:
            self._rename(one, item.text(), one.color)

    def _on_right_click(self, place: QPoint) -> None:
        one = self._class(self.rowAt(place.y()))
        if one is not None:
            self.menu_of(one).popup(self.viewport().mapToGlobal(place))

    def menu_of(self, one: LabelClass) -> QMenu:
        """Return a menu of what can be done with a class as a whole."""
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        menu.aboutToHide.connect(menu.deleteLater)
        classes = self._desk.session.classes if self._desk.session else None
        if classes is None:
            return menu
        into = menu.addMenu("Merge into")
        into.setToolTip("Count it as another class, wherever it was painted or predicted; can be taken back")
        for other in classes:
            if other.id != one.id:
                self._offer(into, other.name, self._desk.merge_class, one.id, other.id)
        for merged in (c for c in classes.merged if c.merged_into == one.id):
            self._offer(menu, f"Take {merged.name} out again", self._desk.part_class, merged.id)
        split = self._offer(menu, "Split: give objects of it a new class", self._split, one.id)
        into.setEnabled(bool(one.id) and not self._read_only)
        split.setEnabled(bool(one.id) and not self._read_only)
        return menu

    @property
    def _read_only(self) -> bool:
        return self._desk.session is None or self._desk.session.read_only

    def _split(self, class_id: int) -> None:
        """Add a class beside another one, take its brush, and say how objects come to it."""
        session = self._desk.session
        if session is None:
            return
        number, (old, new) = max(session.classes.known_ids) + 1, names_of_split(session.classes, class_id)
        self._desk.add_class(number, new)
        self._desk.choose(number)
        show_info(f"Point at an object of {old} that is {new}, and press {shown(TOOL_KEYS['object'])}.")

    def _offer(self, menu: QMenu, text: str, change: Callable[..., None], *ids: int) -> QAction:
        """Add to a menu what changes classes."""
        action = menu.addAction(text)
        action.setEnabled(not self._read_only)
        action.triggered.connect(lambda *_: self._do(change, *ids))
        return action

    def _do(self, change: Callable[..., None], *ids: int) -> None:
        try:
            change(*ids)
        except MemsegError as error:
            show_error(str(error))

    def _rename(self, one: LabelClass, name: str, color: str) -> None:
        try:
            self._desk.rename_class(one.id, name, color)
        except MemsegError as error:
            show_error(str(error))
        self.fill()


def names_of_split(classes: ClassTable, class_id: int) -> tuple[str, str]:
    """Return the name of a class, and one for what is split off it: the same with the first free number."""
    (old,) = (c.name for c in classes if c.id == class_id)
    taken = {c.name for c in (*classes, *classes.merged)}
    return old, next(name for n in count(2) if (name := f"{old} {n}") not in taken)


def _swatch(color: str) -> QIcon:
    pixels = QPixmap(16, 16)
    pixels.fill(QColor(color))
    icon = QIcon(pixels)
    icon.addPixmap(pixels, QIcon.Mode.Selected)
    return icon
