"""What a person chooses in napari's Preferences begins with what the code would take anyway."""

from dataclasses import fields
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from napari.plugins import _initialize_plugins
from napari.settings import get_plugin_settings
from npe2 import PluginManifest

from napari_memseg.inference.config import SegmentConfig
from napari_memseg.training.config import TrainConfig
from napari_memseg.widgets.settings import sessions_folder, setting
from napari_memseg.workflows.machine import describe_machine

pytestmark = pytest.mark.qt

MANIFEST = PluginManifest.from_distribution("napari-memseg")
OURS = MANIFEST.contributions.configurations["workbench"]
NAMES = sorted(OURS.properties)


@pytest.fixture(autouse=True)
def fresh(mock_app_model, monkeypatch, tmp_path):
    """Settings of nobody, stored in a folder of their own."""
    _initialize_plugins.cache_clear()
    _initialize_plugins()
    monkeypatch.setattr("napari.settings._PLUGIN_SETTINGS", {})
    get_plugin_settings(path_dir=tmp_path / "settings")


def choose(name, value):
    setattr(get_plugin_settings("napari-memseg").workbench, name, value)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_what_the_manifest_says_until_it_is_changed(name):
    assert setting(name) == OURS.properties[name].default
    assert setting.__doc__.count(name) == 1


def defaults(config):
    return {field.name: field.default for field in fields(config)}


def test_defaults_are_those_of_the_code():
    assert setting("device") == defaults(SegmentConfig)["device"] == defaults(TrainConfig)["device"]
    assert setting("device") == signature(describe_machine).parameters["device"].default
    assert setting("confidence"), "the page Review ranks by it"


def test_what_was_chosen_counts():
    choose("brush_size", 3)
    assert setting("brush_size") == 3


@pytest.mark.parametrize(("name", "value"), [("brush_size", 0), ("steps", 0), ("steps", "many")])
def test_what_is_impossible_cannot_be_chosen(name, value):
    with pytest.raises(ValueError, match=name):
        choose(name, value)


@pytest.mark.parametrize("text", ["", "   "])
def test_without_a_folder_of_sessions_each_lies_beside_its_image(text):
    choose("sessions_folder", text)
    assert sessions_folder() is None


@pytest.mark.parametrize("text", ["~/sessions", " ~/sessions "])
def test_the_folder_of_sessions_may_begin_at_home(text, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    choose("sessions_folder", text)
    assert sessions_folder() == tmp_path / "sessions"


def test_a_folder_of_sessions_is_taken_as_it_is():
    choose("sessions_folder", "/data/sessions")
    assert sessions_folder() == Path("/data/sessions")


@pytest.mark.parametrize("command", MANIFEST.contributions.commands, ids=lambda command: command.id)
def test_every_command_of_the_manifest_can_be_called(command):
    module, name = command.python_name.split(":")
    assert callable(getattr(import_module(module), name))


def test_every_contribution_of_the_manifest_names_a_command():
    known = {command.id for command in MANIFEST.contributions.commands}
    contributed = MANIFEST.contributions
    asked = [*contributed.widgets, *contributed.readers, *contributed.writers, *contributed.sample_data]
    asked += [item for menu in contributed.menus.values() for item in menu]
    assert {item.command for item in asked} == known
