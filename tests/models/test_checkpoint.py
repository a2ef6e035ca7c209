"""Checkpoints: what is written comes back, and nothing else is believed."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import toys
from napari_memseg.errors import CheckpointError
from napari_memseg.files import from_checked_json
from napari_memseg.models.checkpoint import (
    CARD,
    VERSION,
    Card,
    load_checkpoint,
    load_training_state,
    read_card,
    save_checkpoint,
    save_training_state,
)
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window

MODEL = toys.random_unet(0, 2, ids=(3, 15))
FULL = Card(
    architecture="unet3d",
    arguments=MODEL.arguments,
    classes=ClassTable.from_ids([3, 15], {15: "trachea"}),
    window=Window(12.5, 3000, "uint16"),
    voxel_size=(0.006, 0.003, 0.003),
    unit="millimeter",
    training={"steps": 40, "volumes": ["a.tif"]},
    scores={"dice": {"3": 0.91, "15": None}},
)


def parts(path):
    """Split a safetensors file into its header and the bytes of its tensors."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def assemble(path, header, body):
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, MODEL, FULL)
    return path


def change_card(path, **changes):
    header, body = parts(path)
    card = from_checked_json(header["__metadata__"][CARD]) | changes
    header["__metadata__"][CARD] = json.dumps(card)
    assemble(path, header, body)


def test_the_card_comes_back(good):
    model, card = load_checkpoint(good)
    assert card == replace(FULL, sha256=card.sha256)
    assert len(card.sha256) == 64
    assert read_card(good) == card
    assert not model.training
    for name, tensor in MODEL.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_the_same_weights_make_the_same_file(good, tmp_path):
    save_checkpoint(tmp_path / "again.safetensors", MODEL, FULL)
    assert (tmp_path / "again.safetensors").read_bytes() == good.read_bytes()


def test_a_score_that_is_no_number_becomes_null(tmp_path):
    save_checkpoint(tmp_path / "net.safetensors", MODEL, replace(FULL, scores={"dice": [float("nan"), 1.0]}))
    assert read_card(tmp_path / "net.safetensors").scores == {"dice": [None, 1.0]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        b"not a model at all",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{}",
        struct.pack("<Q", 4) + b"[[[[",
        struct.pack("<Q", 2) + b"{}",
    ],
)
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_checkpoint(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load_checkpoint(path)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("write", [pickle.dump, torch.save])
@pytest.mark.parametrize("load", [load_checkpoint, load_training_state])
def test_nothing_is_unpickled(tmp_path, write, load):
    path, sprung = tmp_path / "trap.safetensors", tmp_path / "sprung"
    with path.open("wb") as file:
        write({"state": Trap(sprung)}, file)
    with pytest.raises(CheckpointError):
        load(path)
    assert not sprung.exists()


def test_weights_without_a_card_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(save(dict(MODEL.state_dict())))
    with pytest.raises(CheckpointError, match="no napari-memseg card"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": VERSION + 1}, "Update napari-memseg"),
        ({"version": "1"}, "version '1'"),
        ({"architecture": "resnet"}, "no network named 'resnet'"),
        ({"architecture": "builtins:eval"}, "no network named"),
        ({"architecture": 3}, "architecture"),
        ({"arguments": {"widths": [4, 8]}}, "does not hold the weights"),
        ({"arguments": {"widths": [4096] * 8}}, "does not hold the weights"),
        ({"arguments": {"widths": [10**6, 10**30]}}, "cannot be built"),
        ({"arguments": {"width": 3}}, "does not take"),
        ({"arguments": [1]}, "arguments"),
        ({"classes": [{"id": 0, "name": "background", "color": "#000000"}]}, "does not hold the weights"),
        ({"classes": "all"}, "damaged"),
        ({"window": {"low": 1, "high": 1, "dtype": "uint8"}}, "damaged"),
        ({"voxel_size": [1, 2]}, "damaged"),
        ({"voxel_size": [1, 2, 0]}, "damaged"),
        ({"axis": 3}, "axis"),
        ({"unit": 1}, "unit"),
        ({"sha256": "0" * 64}, "sha256"),
    ],
)
def test_a_card_that_lies_is_refused(good, changes, says):
    change_card(good, **changes)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(good)


def test_arguments_that_a_network_chokes_on_are_refused(good, monkeypatch):
    monkeypatch.setattr("napari_memseg.models.registry._REGISTERED", {})
    toys.register()
    change_card(good, architecture="toy", arguments={"patch": ["a", 1, 2]})
    with pytest.raises(CheckpointError, match="does not take the arguments"):
        load_checkpoint(good)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 100_000])
def test_a_card_that_is_none_is_refused(good, text):
    header, body = parts(good)
    header["__metadata__"][CARD] = text
    assemble(good, header, body)
    with pytest.raises(CheckpointError, match=re.escape(str(good))):
        load_checkpoint(good)


def test_a_changed_weight_is_noticed(good):
    header, body = parts(good)
    first, _ = header["head.bias"]["data_offsets"]
    changed = body[:first] + struct.pack("<f", 0.5) + body[first + 4 :]
    assemble(good, header, changed)
    with pytest.raises(CheckpointError, match="sha256"):
        load_checkpoint(good)


def test_overlapping_tensors_are_refused(good):
    header, body = parts(good)
    header["head.bias"]["data_offsets"] = header["head.weight"]["data_offsets"]
    assemble(good, header, body)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(good)


def test_missing_and_foreign_tensors_are_refused(good):
    header, body = parts(good)
    header["heart.bias"] = header.pop("head.bias")
    assemble(good, header, body)
    with pytest.raises(CheckpointError, match=r"2 tensors differ, first 'head.bias' \(missing"):
        load_checkpoint(good)


def test_a_network_that_diverged_is_neither_read_nor_written(good):
    broken = toys.random_unet(0, 2, ids=(3, 15))
    with torch.no_grad():
        broken.head.weight[0] = float("nan")
    before = good.read_bytes()
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        save_checkpoint(good, broken, FULL)
    assert good.read_bytes() == before
    header, body = parts(good)
    first, _ = header["head.bias"]["data_offsets"]
    assemble(good, header, body[:first] + struct.pack("<f", float("nan")) + body[first + 4 :])
    with pytest.raises(CheckpointError, match="NaN"):
        load_checkpoint(good)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(good, keep):
    data = good.read_bytes()
    good.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointError):
        load_checkpoint(good)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255), early=st.booleans())
def test_whatever_byte_flips_the_weights_are_whole_or_refused(tmp_path, where, bits, early):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, MODEL, FULL)
    data = bytearray(path.read_bytes())
    data[int(where * (2000 if early else len(data)))] ^= bits
    path.write_bytes(data)
    try:
        model, _ = load_checkpoint(path)
    except CheckpointError:
        return
    assert all(torch.equal(model.state_dict()[name], t) for name, t in MODEL.state_dict().items())


@pytest.mark.parametrize("kind", ["checkpoint", "state"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, kind):
    path = tmp_path / "file"
    write = {
        "checkpoint": lambda: save_checkpoint(path, MODEL, FULL),
        "state": lambda: save_training_state(path, {"step": 2}),
    }[kind]
    path.write_bytes(b"old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_training_state_comes_back(tmp_path):
    weights = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(weights.parameters())
    weights(torch.rand(4, 3)).sum().backward()
    optimiser.step()
    path = tmp_path / "net.state"
    save_training_state(
        path, {"step": 7, "optimiser": optimiser.state_dict(), "random": torch.get_rng_state()}
    )
    state = load_training_state(path)
    assert state["step"] == 7
    assert torch.equal(state["random"], torch.get_rng_state())
    again = torch.optim.AdamW(weights.parameters())
    again.load_state_dict(state["optimiser"])
    moments = [s["exp_avg"] for s in again.state.values()]
    assert all(torch.equal(a, s["exp_avg"]) for a, s in zip(moments, optimiser.state.values(), strict=True))


def test_a_damaged_training_state_is_refused(tmp_path):
    path = tmp_path / "net.state"
    save_training_state(path, {"step": 7, "weights": torch.rand(100)})
    data = path.read_bytes()
    for bad in (b"", b"text", data[: len(data) // 2], b"PK\x03\x04" + data[50:]):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="without resuming"):
            load_training_state(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_training_state(path)
