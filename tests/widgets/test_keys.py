"""Keys: whatever is bound is listed, nothing is bound twice, and nothing of napari's is taken from it."""

import pytest
from napari.utils.key_bindings import KeymapProvider, coerce_keybinding
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtWidgets import QLabel

from napari_memseg.widgets import keys
from napari_memseg.widgets.orthogonal import OrthogonalViews, toggle
from widgets.hands import close

pytestmark = pytest.mark.qt

UNDOES = ("Ctrl+Z", "Ctrl+Shift+Z")
"""Keys that napari has too, for the very same thing."""
BY_NAPARI = {"[", "]", "1", "2", "3", "4", "Space", "Shift+click", "…", "9"}
"""What is listed, and not bound by us: some of it is no key."""

KEPT = (
    "toggle_",
    "reset_",
    "increase_",
    "decrease_",
    "increment_",
    "focus_",
    "roll_",
    "transpose_axes",
    "hold_",
    "select_layer",
    "activate_labels",
    "new_label",
    "swap_",
    "complete_",
)
"""How actions of napari begin that keys do over labels, or whatever layer is chosen."""


def words():
    """Everything that the list names as a key, a row of classes spelled out."""
    named = {word for key, _ in keys.listed() for word in key.split()}
    return named | {keys.shown(keys.class_key(row)) for row in range(keys.MOST_KEYS)}


def name_of(key):
    return keys.shown(str(coerce_keybinding(key)))


@pytest.fixture
def bound(monkeypatch):
    """Note which key is bound in which keymap, by its id, from now on: one pair for each time."""
    noted, method = [], KeymapProvider.__dict__["bind_key"]
    bind = method.__func__

    def note(keymap, key, *function, **kwargs):
        if function and callable(function[0]):
            noted.append((id(keymap), name_of(key)))
        return bind(keymap, key, *function, **kwargs)

    monkeypatch.setattr(method, "__func__", note)
    return noted


@pytest.fixture
def opened(bound, open_dock, folder):
    """A viewer with a session and the dock."""
    return lambda: open_dock(folder)


def test_every_key_that_is_bound_is_listed_and_none_is_bound_twice(opened, bound, until):
    viewer, dock = opened()
    toggle(viewer)
    (views,) = [w for w in viewer.window.dock_widgets.values() if isinstance(w, OrthogonalViews)]
    until(lambda: all(layer.loaded for plane in views.planes for layer in plane.viewer.layers))
    viewers = [viewer, *(plane.viewer for plane in views.planes)]
    corrections = [dock.desk.shown.corrections, *(plane.corrections for plane in views.planes)]
    keymaps = [one.keymap for one in (*viewers, *corrections)]
    times = [(n, name) for n, keymap in enumerate(keymaps) for known, name in bound if known == id(keymap)]
    assert {name for _, name in times} == words() - BY_NAPARI
    assert len(times) == len({*times})
    close(viewer)


def test_no_key_of_a_viewer_or_of_labels_is_taken_from_napari(opened):
    viewer, dock = opened()
    kept = [action for action in default_shortcuts if action.removeprefix("napari:").startswith(KEPT)]
    theirs = {name_of(key) for action in kept for key in default_shortcuts[action]}
    assert "Space" in theirs
    assert "[" in theirs
    ours = {name_of(key) for there in (viewer, dock.desk.shown.corrections) for key in there.keymap}
    assert not ours & theirs - {*UNDOES}
    close(viewer)


def test_a_key_is_listed_once_and_for_something():
    known = [key for key, _ in keys.listed()]
    assert len(known) == len({*known})
    assert all(does for _, does in keys.listed())


def test_what_is_told_of_tools_and_review_is_told_of_each():
    assert keys.TOOLS_DO.keys() == keys.TOOL_KEYS.keys()
    assert keys.REVIEW_DOES.keys() == keys.REVIEW_KEYS.keys()


def test_the_page_annotate_shows_every_group_and_key(opened):
    viewer, dock = opened()
    text = " ".join(label.text() for label in dock.annotate.keys_group.findChildren(QLabel))
    for group, rows in keys.grouped().items():
        assert group in text
        assert all(key in text and does in text for key, does in rows)
    close(viewer)
