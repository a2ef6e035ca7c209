import json

import numpy as np
import pytest
import tifffile

from napari_memseg.cli import run
from napari_memseg.console import join_halo, words_of_halo
from napari_memseg.errors import InputError
from running import noise

SHAPE = (20, 24, 28)


@pytest.fixture
def image(tmp_path):
    """Return a scan of bright bone in noise, 20 x 24 x 28 voxels of 2 µm."""
    grey = noise(SHAPE) * 60
    grey[:, 6:18, 7:21] += 120
    path = tmp_path / "scan.ome.tif"
    size = dict.fromkeys(("PhysicalSizeZ", "PhysicalSizeY", "PhysicalSizeX"), 2.0)
    units = dict.fromkeys(("PhysicalSizeZUnit", "PhysicalSizeYUnit", "PhysicalSizeXUnit"), "µm")
    tifffile.imwrite(path, grey.astype(np.uint8), metadata={"axes": "ZYX", **size, **units})
    return path


@pytest.fixture
def labels(tmp_path):
    truth = np.zeros(SHAPE, np.uint8)
    truth[:, 6:18, 7:21] = 3
    path = tmp_path / "labels.tif"
    tifffile.imwrite(path, truth, photometric="minisblack")
    return path


@pytest.fixture
def model(image, labels, tmp_path, capsys):
    path = tmp_path / "bone.safetensors"
    call = ["train", "--pair", image, labels, "--out", path, "--widths", "8,8", "--patch", 16, 16, 16]
    assert run([*map(str, call), "--steps", "25", "--learning-rate", "0.02", "--device", "cpu"]) == 0
    capsys.readouterr()
    return path


@pytest.fixture
def ask(capsys):
    """Return a call of one command with --json, whose last line of stdout is parsed."""

    def ask(*words):
        assert run([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        *others, last = capsys.readouterr().out.strip().splitlines()
        assert not any(line.startswith(("{", "[")) for line in others)
        return json.loads(last)

    return ask


def files(folder):
    """Return all that is in a folder, but for what SQLite keeps beside a database while somebody reads it."""
    return sorted(path for path in folder.rglob("*") if not path.name.endswith(("-shm", "-wal")))


@pytest.fixture
def refuse(capsys, tmp_path):
    """Return a call of one command that must be refused in a paragraph, with nothing written."""

    def refuse(*words):
        before = files(tmp_path)
        assert run([str(word) for word in words]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert "Traceback" not in told.err
        assert files(tmp_path) == before
        return told.err

    return refuse


def test_info_tells_what_a_source_is(ask, image):
    assert ask("info", image) == {
        "shape": [20, 24, 28],
        "dtype": "uint8",
        "axes": "zyx",
        "voxel_size": [2.0, 2.0, 2.0],
        "unit": "micrometer",
        "levels": [[20, 24, 28]],
        "chunks": [1, 24, 28],
        "format": "ome-tiff",
    }


def test_models_lists_every_network_with_what_it_costs(ask):
    rows = {row["name"]: row for row in ask("models")}
    assert rows["unet3d"]["parameters"] == 2_512_515
    keys = {"name", "ndim", "parameters", "stages", "halo_exact", "halo_recommended", "multiple", "paper"}
    assert all(keys <= row.keys() for row in rows.values())


def test_models_measures_what_they_cost_here_where_that_is_asked_for(ask, refuse, monkeypatch):
    from napari_memseg.models import registry
    from napari_memseg.workflows import costs

    few = {name: registry._BUILT_IN[name] for name in ("pixels", "small")}
    monkeypatch.setattr(registry, "_BUILT_IN", few)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.setitem(costs.EDGES, "cpu", 8)
    plain, measured = ask("models"), ask("models", "--costs", "--device", "cpu")
    assert [row["name"] for row in measured] == ["pixels", "small"]
    numbers = {"train_memory_gib", "train_seconds_per_step", "segment_seconds_per_megavoxel"}
    for row, before in zip(measured, plain, strict=True):
        assert row.keys() - before.keys() == {*numbers, "device"}
        assert row["device"] == "cpu"
        assert all(row[name] > 0 for name in numbers)
    assert "Possible are" in refuse("models", "--costs", "--device", "tpu")


def test_convert_keeps_voxels_and_their_size(ask, image, tmp_path):
    told = ask("convert", image, tmp_path / "scan.ome.zarr", "--chunk", 16)
    assert told["shape"] == list(SHAPE)
    assert ask("info", tmp_path / "scan.ome.zarr")["voxel_size"] == [2.0, 2.0, 2.0]


def test_train_tells_what_it_came_to(ask, image, labels, tmp_path):
    pair = ("--pair", image, labels)
    told = ask("train", *pair, "--out", tmp_path / "a.safetensors", "--steps", 2, "--patch", 16, 16, 16)
    known = {"steps", "seconds", "final_loss", "best_val_dice", "parameters", "checkpoint"}
    assert told.keys() == known | {"training_memory_gib", "val_dice_before"}
    assert told["steps"] == 2


def test_segment_and_evaluate_go_on_from_there(ask, image, labels, model, tmp_path):
    out = tmp_path / "labels.ome.zarr"
    told = ask("segment", image, out, "--model", model, "--chunk", 16, "--halo", 4, 4, 4, "--device", "cpu")
    keys = (
        "voxels tiles tiles_done tiles_skipped seconds voxels_per_second tile halo halo_exact device "
        "precision forecast_memory_gib peak_memory_gib peak_rss_gib out_of_memory_retries resumed"
    )
    assert set(keys.split()) <= told.keys()
    assert told["halo"] == [4, 4, 4]
    assert told["resumed"] is False
    assert (
        ask("segment", image, out, "--model", model, "--chunk", 16, "--halo", 4, 4, 4, "--device", "cpu")[
            "resumed"
        ]
        is True
    )
    scores = ask("evaluate", out, labels)
    assert scores["classes"].keys() == {"0", "3"}
    assert scores["mean"]["dice"] == scores["classes"]["3"]["dice"] > 0.5


def test_another_halo_is_another_run_and_is_refused(image, model, refuse, ask, tmp_path):
    call = ("segment", image, tmp_path / "labels.ome.zarr", "--model", model, "--chunk", 16)
    ask(*call)
    assert "halo" in refuse(*call, "--halo", "exact")


def test_a_session_is_painted_segmented_and_exported(ask, image, model, tmp_path):
    from napari_memseg.annotation.session import Session

    folder = tmp_path / "session"
    ask("session", folder, "new", image, "--class", 3, "bone")
    with Session.open(folder) as session:
        session.overlay[5, 2:9, 3:8] = 3
    assert ask("session", folder, "info")["read_only"] is True
    ask("segment", "--session", folder, "--model", model, "--chunk", 16, "--device", "cpu")
    assert len(ask("session", folder, "log")) == 1
    ask("session", folder, "verify")
    assert ask("export", folder, tmp_path / "export", "--run", "0001")["run"] == "0001"
    labels = f"{tmp_path / 'export' / 'image.ome.zarr'}::labels/corrected"
    assert ask("info", labels)["dtype"] == "uint8"
    with Session.open(folder, read_only=True) as session:
        composite = session.composite()[...]
    from napari_memseg.io.formats import open_volume

    assert (np.asarray(open_volume(labels).levels[0]) == composite).all()
    assert (composite[5, 2:9, 3:8] == 3).all()
    ask("session", folder, "backup", tmp_path / "copy.sqlite")
    assert (tmp_path / "copy.sqlite").exists()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("info", "no-such.tif"), "no-such.tif"),
        (("train", "--out", "m.safetensors"), "one of the two"),
        (("train", "--pair", "a.tif", "b.tif", "--out", "m.pt"), "safetensors"),
        (("segment", "--model", "m.safetensors"), "IMAGE and DESTINATION"),
        (("segment", "a.tif", "b.ome.zarr", "--model", "m.safetensors", "--halo", "wide"), "wide"),
        (("segment", "a.tif", "b.ome.zarr", "--model", "m", "--workers", "0"), "0 workers compute nothing"),
        (("train", "--pair", "a.tif"), "2 arguments"),
        (("nonsense",), "No such command"),
    ],
)
def test_a_call_that_cannot_be_done_is_refused_in_words(refuse, call, says):
    assert says in refuse(*call)


def test_a_place_that_cannot_be_written_is_the_callers_to_mend(refuse, image, model):
    told = refuse("segment", image, "/proc/none/labels.ome.zarr", "--model", model, "--device", "cpu")
    assert "/proc/none" in told


def test_a_model_of_classes_that_a_session_does_not_have_is_refused(ask, refuse, image, model, tmp_path):
    ask("session", tmp_path / "session", "new", image, "--class", 1, "bone")
    call = ("segment", "--session", tmp_path / "session", "--model", model, "--device", "cpu")
    assert "no class 3" in refuse(*call)


def test_classes_that_only_the_labels_hold_count_against_them(ask, labels, tmp_path):
    invented = tifffile.imread(labels)
    invented[:2] = 7
    tifffile.imwrite(tmp_path / "invented.tif", invented, photometric="minisblack")
    scores = ask("evaluate", tmp_path / "invented.tif", labels)
    assert scores["classes"]["7"]["dice"] == 0
    assert scores["mean"]["dice"] < 0.5


def test_a_mask_of_0_and_255_is_scored_like_any_other(ask, tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, 6:18] = 255
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack")
    assert ask("evaluate", tmp_path / "mask.tif", tmp_path / "mask.tif")["classes"]["255"]["dice"] == 1


def test_a_session_that_is_none_is_refused(refuse, tmp_path):
    assert "session" in refuse("session", tmp_path / "none", "info").lower()


def test_a_fault_of_ours_is_status_1_with_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr("napari_memseg.io.formats.open_volume", lambda source: 1 / 0)
    assert run(["info", "x"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_ctrl_c_is_status_130_and_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(source):
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_memseg.io.formats.open_volume", interrupted)
    assert run(["info", "x"]) == 130
    assert "same command again" in capsys.readouterr().err


def test_three_numbers_or_a_word_make_a_halo():
    assert join_halo(["--halo", "1", "2", "3", "image.tif"]) == ["--halo", "1,2,3", "image.tif"]
    assert join_halo(["--halo", "exact", "image.tif"]) == ["--halo", "exact", "image.tif"]
    assert join_halo(["--halo=1", "2", "3"]) == ["--halo", "1,2,3"]
    assert words_of_halo("1,2,3") == (1, 2, 3)
    with pytest.raises(InputError, match="exact, recommended, or three numbers"):
        words_of_halo("1,2")


def test_a_phantom_is_written_with_its_truth(ask, tmp_path):
    out = tmp_path / "fly.ome.zarr"
    told = ask("phantom", out, "--shape", 20, 18, 33, "--seed", 7, "--difficulty", "easy", "--chunk", 16)
    assert told["shape"] == [20, 18, 33]
    assert sum(told["classes"].values()) == 20 * 18 * 33
    assert ask("info", f"{out}::labels/truth")["shape"] == [20, 18, 33]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("--size", "tiny", "--shape", "9", "9", "9"), "Give one of them"),
        (("--size", "vast"), "tiny, small, medium, large, huge"),
        (("--animal", "whale"), "fly, beetle, larva"),
        (("--shape", "0", "9", "9"), "three lengths"),
    ],
)
def test_a_phantom_that_cannot_be_is_refused_in_words(refuse, tmp_path, call, says):
    assert says in refuse("phantom", tmp_path / "fly", *call)
    assert not list(tmp_path.iterdir())
