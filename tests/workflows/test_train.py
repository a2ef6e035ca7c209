import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import toys
from napari_memseg.cli import run
from napari_memseg.errors import Cancelled, CheckpointError, InputError, RunMismatchError, TrainingError
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.control import Control
from napari_memseg.io.formats import open_volume
from napari_memseg.models.checkpoint import load_checkpoint, read_card
from napari_memseg.models.intensity import Window
from napari_memseg.training.config import TrainConfig
from napari_memseg.training.optimisation import Stepper
from napari_memseg.training.sources import VolumeLabels
from napari_memseg.workflows.segment import segment
from napari_memseg.workflows.train import train
from napari_memseg.workflows.train_job import TrainJob
from running import checkpoint_of, noise

SHAPE = (40, 44, 36)
IDS = (0, 3, 15)


@pytest.fixture(scope="module", autouse=True)
def _toys_are_known():
    toys.register()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[str, str]:
    """Return an image of three grey bands, and which band a voxel is in, with ids that are not contiguous."""
    folder = tmp_path_factory.mktemp("pair")
    band = np.arange(SHAPE[0]) * 3 // SHAPE[0]
    grey = (0.1 * noise(SHAPE) + 0.3 * band[:, None, None]).astype(np.float32)
    labels = np.broadcast_to(np.array(IDS, np.uint8)[band][:, None, None], SHAPE)
    for name, data in (("image", grey), ("labels", labels)):
        tifffile.imwrite(folder / f"{name}.tif", data, photometric="minisblack")
    return str(folder / "image.tif"), str(folder / "labels.tif")


def learning(**settings) -> TrainConfig:
    return TrainConfig(
        **{"steps": 4, "batch": 1, "threads": 1, "device": "cpu", "patch": (16, 16, 16), **settings}
    )


def job(pair, out: Path, **settings) -> TrainJob:
    return TrainJob(
        **{"pairs": [pair], "out": out, "architecture": "toy", "learning": learning(), **settings}
    )


def begun(pair, out: Path, init: Path, **settings) -> TrainJob:
    """Return the job that starts from another model."""
    return job(pair, out, architecture=None, init=init, **settings)


@pytest.mark.slow
def test_a_plain_network_learns_ids_that_are_not_contiguous_and_segments(pair, tmp_path):
    settings = {"architecture": "small", "arguments": {"widths": [8, 8]}}
    steps = learning(steps=60, learning_rate=2e-2)
    *_, last = train(job(pair, tmp_path / "small.safetensors", learning=steps, **settings))
    assert last.result["best_val_dice"] > 0.8
    destination = tmp_path / "labels.ome.zarr"
    *_, done = segment(pair[0], destination, tmp_path / "small.safetensors", SegmentConfig(device="cpu"))
    assert done.result["tiles_done"] == done.result["tiles"]
    model, card = load_checkpoint(tmp_path / "small.safetensors")
    assert card.classes.ids == IDS
    assert last.result["parameters"] == model.parameter_count


def test_a_model_of_two_phases_trains_the_second_on_what_the_first_made(pair, tmp_path):
    out = tmp_path / "toy.safetensors"
    stages = [step.stage for step in train(job(pair, out))]
    assert list(dict.fromkeys(stages)) == ["train first", "prepare second", "train second", "train"]
    assert set(read_card(out).training) == {"first", "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["toy.safetensors"]


def test_the_same_seed_gives_the_same_weights(pair, tmp_path):
    made = []
    for name in ("one", "two"):
        list(train(job(pair, tmp_path / f"{name}.safetensors")))
        made.append(read_card(tmp_path / f"{name}.safetensors").sha256)
    assert made[0] == made[1]


def test_training_goes_on_from_another_checkpoint(pair, tmp_path):
    list(train(job(pair, tmp_path / "first.safetensors")))
    *_, last = train(begun(pair, tmp_path / "next.safetensors", tmp_path / "first.safetensors"))
    assert last.result["steps"] == 8  # both phases


def test_a_checkpoint_of_other_classes_is_no_start(pair, tmp_path):
    list(train(job(pair, tmp_path / "first.safetensors")))
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, np.eye(40, 44, dtype=np.uint8)[..., None].repeat(36, 2), photometric="minisblack")
    wrong = begun((pair[0], str(other)), tmp_path / "next.safetensors", tmp_path / "first.safetensors")
    with pytest.raises(InputError, match=r"classes \[0, 3, 15\], but these labels hold \[0, 1\]"):
        list(train(wrong))


def test_no_labels_are_a_clear_end_and_leave_the_old_model(pair, tmp_path):
    out, empty = tmp_path / "model.safetensors", tmp_path / "empty.tif"
    out.write_bytes(b"the old model")
    tifffile.imwrite(empty, np.zeros(SHAPE, np.uint8), photometric="minisblack")
    with pytest.raises(TrainingError, match="label"):
        list(train(job((pair[0], str(empty)), out, unlabelled=0)))
    assert out.read_bytes() == b"the old model"


def test_a_job_needs_pairs_or_a_session_and_a_name_that_says_what_it_is(pair, tmp_path):
    with pytest.raises(InputError, match="one of the two"):
        job(pair, tmp_path / "model.safetensors", session=tmp_path)
    with pytest.raises(InputError, match="safetensors"):
        job(pair, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"resume.*or restart"):
        job(pair, tmp_path / "model.safetensors", resume=True, restart=True)


def test_a_start_that_is_no_checkpoint_is_refused(pair, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        list(train(begun(pair, tmp_path / "next.safetensors", tmp_path / "bad.safetensors")))


def test_a_start_from_another_dtype_is_refused_with_both_named(pair, tmp_path):
    model = toys.toy(ids=IDS[1:])
    first = checkpoint_of(model, tmp_path, Window(0, 255, "uint8"))
    with pytest.raises(InputError, match=r"toy\.safetensors was trained on uint8.*image\.tif holds float32"):
        list(train(begun(pair, tmp_path / "next.safetensors", first)))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"init": Path("a.safetensors"), "architecture": "small"}, "--init"),
        ({"init": Path("a.safetensors"), "arguments": {"widths": [8]}}, "--init"),
        ({"pairs": (), "session": Path("s"), "level": 0}, "session.*--level"),
        ({"pairs": (), "session": Path("s"), "unlabelled": 0}, "session.*--unlabelled"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, match):
    with pytest.raises(InputError, match=match):
        TrainJob(**{"pairs": [("a.tif", "b.tif")], "out": Path("m.safetensors"), **settings})


def test_a_level_or_folder_that_cannot_be_is_refused_before_labels_are_read(
    pair, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(VolumeLabels, "read", lambda *_: pytest.fail("labels were read"))
    (tmp_path / "file").touch()
    for words, says in (
        (
            ["--out", tmp_path / "m.safetensors", "--level", 1],
            "no level 1. Its levels are 0, the finest, to 0",
        ),
        (["--out", tmp_path / "file" / "deep" / "m.safetensors"], f"{tmp_path / 'file'} is no folder"),
    ):
        assert run(["train", "--pair", *pair, *map(str, words)]) == 2
        assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def stopped_after_one_step(job: TrainJob) -> None:
    """Leave an unfinished training behind."""
    control = Control()
    with pytest.raises(Cancelled):  # noqa: PT012 - the first step must be seen to be stopped after
        for _ in train(job, control=control):
            control.cancel()


def test_an_unfinished_training_is_discarded_only_when_asked_to(pair, tmp_path):
    out = tmp_path / "toy.safetensors"
    stopped_after_one_step(job(pair, out))
    left = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"toy\.first\.training.*--resume.*--restart"):
        list(train(job(pair, out)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == left
    (tmp_path / "toy.first.training.0123abcd.part").touch()
    *_, last = train(job(pair, out, restart=True))
    assert last.result["steps"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["toy.safetensors"]


def test_files_of_other_models_are_left_alone(pair, tmp_path):
    others = {"toy2.first.training", "toy.v2.first.training", "toy.v2.safetensors", "toy.first.png"}
    for name in others:
        (tmp_path / name).write_text("not yours")
    list(train(job(pair, tmp_path / "toy.safetensors")))
    assert {path.name for path in tmp_path.iterdir()} == {"toy.safetensors", *others}


def test_another_start_is_another_training(pair, tmp_path):
    starts = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for seed, start in enumerate(starts):
        list(train(job(pair, start, learning=learning(seed=seed))))
    out = tmp_path / "next.safetensors"
    stopped_after_one_step(begun(pair, out, starts[0]))
    with pytest.raises(RunMismatchError, match="init was"):
        list(train(begun(pair, out, starts[1], resume=True)))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_that_goes_on_learning_is_compared_with_what_it_was_whatever_the_seed(pair, tmp_path, seed):
    small = {"architecture": "small", "arguments": {"widths": [2, 3]}}
    start, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first = list(train(job(pair, start, **small)))[-1].result
    again = list(train(begun(pair, out, start, learning=learning(seed=seed))))[-1].result
    assert first["val_dice_before"] is None
    assert again["val_dice_before"] == pytest.approx(first["best_val_dice"])
    card = read_card(tmp_path / "b.safetensors")
    assert card.training["network"]["mean_dice_before"] == again["val_dice_before"]


def test_ctrl_c_in_a_terminal_is_status_130_and_resume_goes_on(pair, tmp_path, monkeypatch, capsys):
    out, steps = tmp_path / "small.safetensors", iter(range(1, 99))
    words = ["train", "--pair", *pair, "--out", str(out), "--widths", "8,8", "--device", "cpu"]
    words += ["--steps", "4", "--batch", "1", "--patch", "16", "16", "16"]
    take = Stepper._descend

    def pressed(stepper, batch, rate):
        take(stepper, batch, rate)
        if next(steps) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Stepper, "_descend", pressed)
    assert run([*words, "--restart"]) == 130
    assert "the same command with --resume in place of --restart" in capsys.readouterr().err
    assert not out.exists()
    assert run(words) == 2
    assert run([*words, "--resume", "--json"]) == 0
    assert next(steps) == 5
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 4


def start(pair, out: Path) -> subprocess.Popen:
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, here / "killed_training.py", *pair, out],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"},
        text=True,
    )


SYSTEMS = {
    "cascade": ("cascade", {"widths": [4, 4], "standard": 8}),
    "scn, tiled": ("scn", {"widths": [3, 2]}),
    "scn, crop": ("scn", {"widths": [3, 2], "mode": "crop"}),
    "oss_net": ("oss_net", {"width": 16, "encoder_widths": [4, 4], "training_points": 64}),
    "distill_dsm": ("distill_dsm", {"widths": [8, 8], "axes": "zyx"}),
    "sau_net": ("sau_net", {"width": 4}),
}
"""The published systems, narrow."""


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "arguments"), SYSTEMS.values(), ids=SYSTEMS)
def test_a_published_system_is_trained_in_all_its_phases_and_goes_on_where_it_stopped(
    pair, tmp_path, architecture, arguments
):
    how = {"architecture": architecture, "arguments": arguments, "learning": learning(patch=(32, 32, 32))}
    at_once, twice = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    told = [step.stage for step in train(job(pair, at_once, **how))]
    last = [stage for stage in told if stage.startswith("train ")][-1]
    steps = train(job(pair, twice, **how))
    for step in steps:
        if (step.stage, step.done) == (last, 2):
            steps.close()
            break
    again = [step.stage for step in train(job(pair, twice, resume=True, **how))]
    assert again.count(last) == 2
    assert set(again) <= {last, last.replace("train", "prepare"), "train"}
    one, two = read_card(at_once), read_card(twice)
    assert one.sha256 == two.sha256
    assert len(one.training) == len(load_checkpoint(at_once)[0].training_plan())


@pytest.mark.slow
def test_a_training_killed_in_each_phase_and_between_ends_with_the_same_weights(pair, tmp_path):
    undisturbed, disturbed = tmp_path / "a" / "toy.safetensors", tmp_path / "b" / "toy.safetensors"
    with start(pair, undisturbed) as process:
        process.communicate()
    for moment in ("train first 3", "prepare second 2", "train second 3"):
        with start(pair, disturbed) as process:
            for line in process.stdout:
                if line.strip() == moment:
                    process.kill()
                    break
        assert not disturbed.exists()
    with start(pair, disturbed) as process:
        told = process.communicate()[0]
    assert "train first" not in told
    assert read_card(disturbed).sha256 == read_card(undisturbed).sha256


@pytest.mark.slow
def test_images_on_other_grey_scales_are_each_seen_in_a_window_of_their_own(pair, tmp_path):
    dark = tmp_path / "dark.tif"
    tifffile.imwrite(dark, tifffile.imread(pair[0]) * 0.2 + 3, photometric="minisblack")
    settings = {
        "pairs": [pair, (str(dark), pair[1])],
        "architecture": "small",
        "arguments": {"widths": [8, 8]},
    }
    steps = learning(steps=60, batch=2, learning_rate=2e-2)
    list(train(job(pair, tmp_path / "both.safetensors", learning=steps, **settings)))
    assert read_card(tmp_path / "both.safetensors").own_window
    found = []
    for n, image in enumerate((pair[0], dark)):
        out = tmp_path / f"{n}.ome.zarr"
        list(segment(image, out, tmp_path / "both.safetensors", SegmentConfig(device="cpu")))
        found.append(np.asarray(open_volume(out).levels[0]))
    assert np.mean(found[0] == found[1]) > 0.99


def test_images_on_one_grey_scale_share_a_window(pair, tmp_path):
    list(train(job(pair, tmp_path / "one.safetensors", pairs=[pair, pair])))
    assert not read_card(tmp_path / "one.safetensors").own_window
