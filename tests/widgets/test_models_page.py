"""The page Models tells what each network is and costs here, and chooses one to train."""

import threading

import pytest
from qtpy.QtWidgets import QApplication

from napari_memseg.models.registry import names
from napari_memseg.widgets.networks import costs_text
from napari_memseg.widgets.pages.models import linked
from widgets.hands import click, close, line, stroke, type_into

pytestmark = pytest.mark.qt

COSTS = (
    "On cpu, in float32: a training step of its own patches keeps 3.1 GiB and takes 4 s; a million voxels "
    "are segmented in 0.25 s, without halos."
)


@pytest.fixture
def open_page(until, open_dock):
    """Open the page Models, perhaps on a session, and let a stand-in say what the networks are."""

    def make(folder=None):
        viewer, dock = open_dock(folder)
        dock.show_page(dock.models)
        until(dock.models.isVisible)
        return viewer, dock

    return make


@pytest.fixture
def describe(until):
    """Let a child say what the networks are."""

    def make(dock):
        dock.desk.machine.start("asking", "widgets.standins:describe")
        until(lambda: bool(dock.desk.networks.about))

    return make


@pytest.fixture
def hold(tmp_path, monkeypatch):
    """A file that keeps the child measuring until it is deleted."""
    path = tmp_path / "measuring"
    path.touch()
    monkeypatch.setenv("MEMSEG_MEASURING", str(path))
    return path


def rows_of(page):
    return [page.networks.item(n).text() for n in range(page.networks.count())]


def test_names_are_listed_at_once_and_titles_come_from_a_child(open_page, describe, monkeypatch):
    from napari_memseg.widgets import relay

    threads, start = [], relay.child_process
    monkeypatch.setattr(
        relay, "child_process", lambda *a, **k: threads.append(threading.current_thread()) or start(*a, **k)
    )
    viewer, dock = open_page()
    page = dock.models
    assert rows_of(page) == names()
    assert "Asking what the networks are" in page.hint.text()
    assert page.choice.isHidden()
    describe(dock)
    assert rows_of(page) == [f"{name}: The title of {name}" for name in names()]
    assert page.networks.chosen == "small"
    assert "Choose by what a network is made for" in page.hint.text()
    assert threading.main_thread() not in threads
    close(viewer)


def test_the_chosen_network_is_described(open_page, describe):
    viewer, dock = open_page()
    describe(dock)
    page = dock.models
    page.networks.choose("cascade")
    QApplication.processEvents()
    assert page.choice.isVisible()
    assert page.choice.title() == "cascade"
    assert page.about.text() == "The title of cascade"
    assert page.advice.text() == "Take it at leisure."
    assert page.weights.text() == "1,234,567"
    assert page.halo.text() == "16 × 16 × 8 voxels"
    assert page.phases.text() == "3, one after the other"
    assert "https://arxiv.org/abs/2205.15941" in page.paper.text()
    page.networks.choose("pixels")
    assert page.phases.text() == "one"
    close(viewer)


def test_another_dock_of_the_viewer_knows_the_networks_already(open_page, describe):
    viewer, dock = open_page()
    describe(dock)
    viewer.window.remove_dock_widget(dock)
    _, again = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    again.show_page(again.models)
    assert again is not dock
    assert not again.models.choice.isHidden()
    assert again.models.weights.text() == "1,234,567"
    close(viewer)


def test_a_child_that_fails_says_why_nothing_is_known(until, open_page):
    viewer, dock = open_page()
    dock.desk.machine.start("asking", "widgets.standins:describe_in_vain")
    until(lambda: "There is no device 'tpu' here." in dock.models.hint.text())
    close(viewer)


def test_costs_are_measured_in_a_child_and_told_in_words(until, open_page, describe, hold):
    viewer, dock = open_page()
    describe(dock)
    page = dock.models
    click(page.measure)
    assert "Measuring small" in page.bar.text
    assert not page.measure.isEnabled()
    page.networks.choose("cascade")
    assert page.costs.isHidden()
    hold.unlink()
    until(lambda: not dock.desk.networks.relay.busy)
    assert page.costs.isHidden()
    page.networks.choose("small")
    assert page.costs.text() == COSTS
    assert page.costs.isVisible()
    assert page.bar.text == ""
    assert page.measure.isEnabled()
    close(viewer)


def test_what_cannot_be_measured_says_why(until, open_page, describe):
    viewer, dock = open_page()
    describe(dock)
    page = dock.models
    page.networks.choose("oss_net")
    click(page.measure)
    until(lambda: "Memory does not suffice" in page.costs.text())
    assert page.measure.isEnabled()
    close(viewer)


def test_a_child_that_dies_of_measuring_says_so_and_another_may_be_measured(until, open_page, describe):
    viewer, dock = open_page()
    describe(dock)
    page = dock.models
    page.networks.choose("o_net")
    click(page.measure)
    until(lambda: "SIGKILL" in page.costs.text())
    page.networks.choose("small")
    click(page.measure)
    until(lambda: page.costs.text() == COSTS)
    close(viewer)


def test_a_window_that_is_closed_while_it_measures_does_not_wait(open_page, describe, hold):
    viewer, dock = open_page()
    describe(dock)
    click(dock.models.measure)
    close(viewer)
    hold.unlink()


def test_use_for_training_chooses_the_network_on_the_page_train(open_page, describe, folder):
    (folder / "models" / "small-1.safetensors").write_text("small-1")
    viewer, dock = open_page(folder)
    describe(dock)
    dock.train.origin.setCurrentText("small-1")
    assert not dock.train.network.isEnabled()
    dock.models.networks.choose("meunet")
    click(dock.models.use)
    assert dock.train.isVisible()
    assert dock.train.network.currentData() == "meunet"
    assert dock.train.network.isEnabled()
    close(viewer)


def test_without_a_session_there_is_nothing_to_train_but_all_to_read_and_measure(open_page, describe):
    viewer, dock = open_page()
    describe(dock)
    assert dock.models.measure.isEnabled()
    assert not dock.models.use.isEnabled()
    assert "on the page Open" in dock.models.use.toolTip()
    assert "on the page Open" in dock.models.hint.text()
    close(viewer)


def test_nothing_is_measured_while_a_training_goes_on(until, open_page, describe, folder):
    viewer, dock = open_page(folder)
    describe(dock)
    for class_id, y in ((0, 0.5), (1, 0.7)):
        dock.desk.choose(class_id)
        stroke(viewer, line(0.4, y, 0.6, y))
    until(dock.train.train.isEnabled)
    dock.show_page(dock.train)
    type_into(dock.train.steps, "20")
    click(dock.train.train)
    until(lambda: len(dock.train.curve.losses) == 5)
    page = dock.models
    dock.show_page(page)
    assert "A training is going on" in page.measure.reason.text()
    assert not page.use.isEnabled()
    dock.desk.training.cancel()
    until(page.measure.isEnabled)
    assert page.measure.reason.isHidden()
    assert page.use.isEnabled()
    close(viewer)


def test_little_is_told_as_little():
    row = {"device": "cuda", "train_memory_gib": 0.01, "train_seconds_per_step": 0.123}
    said = costs_text({**row, "segment_seconds_per_megavoxel": 0.001})
    assert "keeps less than 0.1 GiB and takes 0.12 s" in said
    assert "segmented in less than 0.01 s" in said


@pytest.mark.parametrize(
    ("citation", "links"),
    [
        ("Wang et al., MIDL 2022, arXiv:2205.15941", ["https://arxiv.org/abs/2205.15941"]),
        (
            "Ronneberger et al., doi:10.1007/978-3-319-24574-4_28; as in Maheshwari et al., 2021",
            ["https://doi.org/10.1007/978-3-319-24574-4_28"],
        ),
        ("Zhang & al., <MIDL> 2020, PMLR 121:903-913", []),
    ],
)
def test_a_citation_links_to_its_paper_where_it_says_which(citation, links):
    text = linked(citation)
    assert text.count("<a ") == len(links)
    assert all(f'href="{link}"' in text for link in links)
    assert ("&lt;MIDL&gt;" in text) == ("<MIDL>" in citation)


@pytest.mark.slow
def test_a_real_network_is_measured_while_the_viewer_lives(qtbot, open_real_dock):
    viewer, dock = open_real_dock()
    page = dock.models
    dock.show_page(page)
    qtbot.waitUntil(lambda: bool(dock.desk.networks.about), timeout=120_000)
    page.networks.choose("pixels")
    assert page.weights.text() == "2,105"
    click(page.measure)
    qtbot.waitUntil(lambda: page.costs.text().startswith("On "), timeout=120_000)
    assert "a million voxels are segmented in" in page.costs.text()
    close(viewer)
