"""The dock as a whole: its pages are found, and a dock that is opened again knows what the first did."""

import pytest
from qtpy.QtCore import QTimer

from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.orthogonal import OrthogonalViews
from napari_memseg.widgets.page_tabs import PageTabs
from napari_memseg.widgets.pages.page import Page
from napari_memseg.widgets.workbench import WIDTH
from napari_memseg.workflows.progress import Progress
from widgets.hands import click, close

pytestmark = pytest.mark.qt


def test_every_page_has_a_button_whose_title_is_not_cut(open_dock):
    viewer, dock = open_dock()
    for index, page in enumerate(dock.pages):
        button = dock.tabs.button(index)
        click(button)
        assert dock.tabs.currentIndex() == index
        assert page.isVisible()
        assert button.text() == page.title
        assert button.fontMetrics().horizontalAdvance(page.title) < button.width()
    close(viewer)


def test_eight_pages_fit_into_the_dock(qtbot):
    class Blank(Page):
        def __init__(self):
            super(Page, self).__init__()

    tabs = PageTabs()
    qtbot.addWidget(tabs)
    for name in ("Open", "Annotate", "Models", "Train", "Segment", "Review", "Correct", "Export"):
        tabs.addTab(Blank(), name)
    tabs.resize(WIDTH, 600)
    tabs.show()
    assert tabs.width() == WIDTH
    for index in range(8):
        button = tabs.button(index)
        assert button.fontMetrics().horizontalAdvance(button.text()) < button.width()
    tabs.setCurrentIndex(5)
    assert [tabs.button(n).isChecked() for n in range(8)] == [n == 5 for n in range(8)]


def test_a_button_shows_and_hides_the_orthogonal_views(open_dock, folder):
    viewer, dock = open_dock(folder)

    def views():
        return [w for w in viewer.window.dock_widgets.values() if isinstance(w, OrthogonalViews)]

    click(dock.planes)
    assert len(views()) == 1
    click(dock.planes)
    assert not views()
    close(viewer)


def test_a_dock_that_is_opened_again_knows_what_there_is_to_compute_on(open_dock, folder, monkeypatch, until):
    def answer(desk):
        step = Progress(stage="machine", done=1, total=1, result={"device": "an abacus", "models": []})
        QTimer.singleShot(0, lambda: desk.machine.stepped.emit(step))

    monkeypatch.setattr(Desk, "describe_machine", answer)
    viewer, dock = open_dock(folder)
    until(lambda: "abacus" in dock.train.device.text())
    viewer.window.remove_dock_widget(dock)
    _, again = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    until(lambda: "abacus" in again.train.device.text())
    close(viewer)
