"""One bit of a session flips on the disk, in whatever file: it is told, or all is as it was before."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import toys
from napari_memseg.annotation.session import Session
from napari_memseg.errors import MemsegError, SessionError
from napari_memseg.files import from_checked_json, to_checked_json
from napari_memseg.geometry import Box
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.io.formats import open_volume
from napari_memseg.io.pyramid import create_image
from napari_memseg.models.checkpoint import load_checkpoint, load_training_state, save_training_state
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows.segment import segment_session
from running import checkpoint_of, noise, plan_of, run, stored_bytes

FLIPS = 240
SHAPE, CHUNK = (40, 24, 20), (16, 16, 16)
WHOLE = Box.whole(SHAPE)
LEVELS_OF_THE_IMAGE = ("image.ome.zarr/1/zarr.json", "image.ome.zarr/zarr.json")
"""What says how its coarse level looks; nothing else does, see docs/faults.md."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an image and its session: two runs, strokes, a confirmed box, checkpoints."""
    toys.register()
    folder = tmp_path_factory.mktemp("flipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        make_image(folder / "image.ome.zarr")
        make_session(folder)
        yield folder


def make_image(path: Path) -> None:
    grey = np.full(SHAPE, 0.1, np.float32)
    grey[:, :, 10:] = 0.9
    grey[3:9, 4:12, 2:7] = 0.5
    size = {"voxel_size": (2.0, 1.0, 1.0), "unit": "micrometer"}
    image = create_image(path, shape=SHAPE, dtype="float32", chunk=CHUNK, **size)
    list(image.fill(lambda box: grey[box.slices], CHUNK))


def make_session(folder: Path) -> None:
    classes = ClassTable.from_ids([1, 2, 15], {1: "bone", 2: "marrow"})
    with Session.create(folder / "session", open_volume(folder / "image.ome.zarr"), classes) as session:
        models = session.path / "models"
        for threshold in (0.6, 0.3):
            model = checkpoint_of(toys.null(threshold=threshold), models)
            how = SegmentConfig(chunk=16, tile=CHUNK, device="cpu", confidence=True)
            list(segment_session(session.path, model, how))
        session.overlay[5, 2:9, 3:8] = 15
        session.overlay[6, 2:9, 3:8] = classes.background_opinion
        session.confirm(Box((10, 2, 3), (20, 9, 11)))
        session.put_back("0001")
        save_training_state(models / "null.state", {"step": 7, "moments": torch.arange(50.0)})


def seen_in(folder: Path) -> dict[str, object]:
    """Return all that somebody sees who opens the session, its runs and its models."""
    seen: dict[str, object] = {}
    with Session.open(folder / "session") as session, session.snapshot() as snapshot:
        if any("is not the file that was closed" in note for note in session.notes):
            raise SessionError("a person is told")
        seen |= {"image": session.image.read(WHOLE), "size": session.image.voxel_size_at(0)}
        seen |= {"classes": session.classes, "shown": snapshot.composite.read(WHOLE)}
        seen |= {"taught": snapshot.read(WHOLE), "steps": list(session.corrections.steps())}
        for run in session.runs():
            frozen = session.snapshot(run=run.id)
            seen |= {run.id: frozen.composite.read(WHOLE), f"{run.id}, parent": run.parent}
            seen[f"{run.id}, confidence"] = open_volume(run.path / "confidence").read(WHOLE)
            frozen.close()
    for path in (folder / "session").rglob("*.safetensors"):
        model, card = load_checkpoint(path)
        seen |= {f"{path.name}: {name}": t.numpy() for name, t in model.state_dict().items()}
        seen[f"{path.name}, card"] = card.to_json()
    state = load_training_state(folder / "session" / "models" / "null.state")
    return seen | {"step": state["step"], "moments": state["moments"].numpy()}


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def same(one: object, other: object) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def differences(before: dict[str, object], folder: Path) -> list[str]:
    """Return what is seen to differ now; nothing where that is refused, or told."""
    try:
        now = seen_in(folder)
    except MemsegError:
        return []
    return [name for name in before | now if not same(before.get(name), now.get(name))]


def test_a_flipped_bit_in_any_file_is_refused_or_changes_nothing(place):
    before, chance = seen_in(place), random.Random(0)
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.stat().st_size)
    files = [path for path in files if path.relative_to(place).as_posix() not in LEVELS_OF_THE_IMAGE]
    wrong = []
    for path in (files * FLIPS)[:FLIPS]:
        whole = path.read_bytes()
        bit = chance.randrange(8 * len(whole))
        path.write_bytes(flipped(whole, bit))
        wrong += [f"bit {bit} of {path}: {name}" for name in differences(before, place)]
        path.write_bytes(whole)
    assert not wrong
    assert differences(before, place) == []


def test_every_bit_of_checked_json_is_checked():
    row = {"level": 0, "classes": [{"id": 1, "name": "bone"}], "voxel_size": [2.5, 0.5, None]}
    text = to_checked_json(row)
    for bit in range(8 * len(text)):
        try:
            found = from_checked_json(flipped(text, bit))
        except ValueError:
            continue
        assert {name: found[name] for name in row} == row


def test_a_run_whose_ledger_has_a_flipped_bit_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    toys.register()
    monkeypatch.setattr("os.fsync", lambda _: None)
    data, chance = noise((32, 32, 16)), random.Random(2)
    plan = plan_of(toys.null(), data, tmp_path, tile=CHUNK)
    run(plan, data)
    before, (ledger,) = stored_bytes(plan), plan.folder.glob("ledger-*.sqlite")
    whole = ledger.read_bytes()
    text = range(8 * whole.index(b"network"), 8 * len(whole))
    for bit in chance.sample(text, 40):
        for other in set(plan.folder.glob("ledger-*.sqlite")) - {ledger}:
            other.unlink()
        ledger.write_bytes(flipped(whole, bit))
        run(plan, data)
        assert stored_bytes(plan) == before
