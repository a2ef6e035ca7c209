"""The same workflows in a terminal.

A command asks for its arguments, follows one workflow, and prints what it came to::

    stdout   the result: lines for people, or with --json one object as the last line
    stderr   progress: a bar on a terminal, plain lines otherwise
    status   0 done · 1 our fault · 2 the call's or the input's · 130 interrupted, resumable
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from napari_memseg.console import follow, join_halo, say, settings_of, whole_numbers, words_of_halo
from napari_memseg.errors import Cancelled, DeviceLostError, InputError, MemsegError, SessionError
from napari_memseg.geometry import Zyx
from napari_memseg.inference.heap import keep_heap

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line of stdout.")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
LEVEL = click.option("--level", type=int, help="Pyramid level to work at; 0 is the finest.")

LEARNING = ("steps", "minutes", "patch", "batch", "learning_rate", "seed", "device")
"""Options of train that say how to learn, rather than what."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="napari-memseg")
def commands() -> None:
    """Segment microCT volumes larger than memory."""


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("napari-memseg-demo"))
@AS_JSON
def demo(folder: Path, as_json: bool) -> None:
    """Do the main job on a bundled microCT volume: train, segment, correct, evaluate, export."""
    from napari_memseg.workflows.demo import demo as workflow

    say(follow(workflow(folder)), as_json)


@commands.command()
@click.argument("source")
@AS_JSON
def info(source: str, as_json: bool) -> None:
    """Tell what SOURCE is: shape, dtype, axes, voxel size, levels, chunks, format; of labels, their run."""
    from napari_memseg.io.formats import open_volume
    from napari_memseg.workflows.info import describe, describe_run

    say(describe(open_volume(source)) | describe_run(Path(source)), as_json)


@commands.command()
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--chunk", type=int, default=64, show_default=True, help="Edge of a stored chunk, in voxels.")
@click.option("--voxel-size", type=float, nargs=3, metavar="Z Y X", help="Where the file does not say it.")
@click.option("--unit", help="Of the voxel size, as OME-Zarr names it: micrometer, millimeter.")
@click.option("--box", help="Z0:Z1,Y0:Y1,X0:X1: convert only this part.")
@AS_JSON
def convert(source: str, destination: Path, as_json: bool, **options: Any) -> None:
    """Convert any readable SOURCE to a multiscale OME-Zarr 0.5 at DESTINATION, streamed."""
    from napari_memseg.workflows.convert import ConvertConfig
    from napari_memseg.workflows.convert import convert as workflow

    say(follow(workflow(source, destination, ConvertConfig(**options))), as_json)


@commands.command()
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--shape", type=int, nargs=3, metavar="Z Y X", help="In voxels; the animal fills it.")
@click.option("--size", help="In place of --shape: tiny, small, medium, large or huge; small unless said.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed is another animal.")
@click.option("--difficulty", default="normal", show_default=True, help="easy, normal or hard.")
@click.option("--animal", default="fly", show_default=True, help="fly, beetle or larva.")
@click.option("--voxel-size", "voxel_um", type=float, metavar="UM", help="Edge of a voxel in micrometres.")
@click.option(
    "--mode", default="image", show_default=True, help="image, or projection: whole planes, up to 1024."
)
@click.option("--format", default="ome-zarr", show_default=True, help="ome-zarr, bigtiff, slices or raw.")
@click.option("--compression", default="none", show_default=True, help="Of TIFF: none, zlib, lzw or zstd.")
@click.option("--tile", type=int, help="Edge of a BigTIFF's tiles; it has none by default.")
@click.option("--chunk", type=int, default=64, show_default=True, help="Edge of a stored chunk, in voxels.")
@click.option("--instances", is_flag=True, help="Also store numbers of fibres, cells, facets, eggs, trees.")
@click.option("--workers", type=int, help="Threads; one per processor, at most 4, by default.")
@AS_JSON
def phantom(
    destination: Path, shape: Zyx | None, size: str | None, difficulty: str, animal: str, seed: int,
    voxel_um: float | None, mode: Any, as_json: bool, **storage: Any,
) -> None:  # fmt: skip
    """Write a synthetic fly under microCT to DESTINATION, with exact labels/truth and a manifest."""
    from napari_memseg.phantom.parameters import PhantomParameters
    from napari_memseg.workflows.phantom import PhantomConfig
    from napari_memseg.workflows.phantom import phantom as workflow

    if shape and size:
        raise InputError("--shape and --size say the same. Give one of them.")
    which = {"animal": animal, "seed": seed, "voxel_um": voxel_um, "mode": mode}
    parameters = PhantomParameters.named(shape or size or "small", difficulty, **which)
    with closing(workflow(destination, parameters, PhantomConfig(**storage))) as steps:
        say(follow(steps), as_json)


@commands.command()
@click.option(
    "--costs", "measure", is_flag=True,
    help="Measure what each takes on this machine: minutes, most of them for oss_net and o_net.",
)  # fmt: skip
@DEVICE
@AS_JSON
def models(measure: bool, device: str, as_json: bool) -> None:
    """List every architecture, with its parameters, halo and paper; with --costs also what it takes here."""
    from napari_memseg.models.registry import architectures

    rows = [asdict(row) for row in architectures()]
    if measure:
        from napari_memseg.workflows.costs import costs

        found = follow(costs(device=device))["costs"]
        rows = [row | cost for row, cost in zip(rows, found, strict=True)]
    say(rows, as_json)


@commands.command()
@DEVICE
@AS_JSON
def device(device: str, as_json: bool) -> None:
    """Say which device networks run on here, and why."""
    from napari_memseg.models.device import choose_device, describe_device

    say({"device": choose_device(device), "why": describe_device(device)}, as_json)


@commands.command()
@click.option("--pair", "pairs", type=str, nargs=2, multiple=True, metavar="IMAGE LABELS", help="Repeatable.")
@click.option(
    "--session", type=click.Path(path_type=Path), help="Learn from a session's corrections instead."
)
@click.option(
    "--model",
    "architecture",
    help="A network, see napari-memseg models; small unless said, or that of --init.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.safetensors")
@click.option("--widths", help="Channels per level of a new network, for example 16,32,64.")
@click.option(
    "--set",
    "words",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument of a new network, see napari-memseg models; repeatable.",
)
@click.option("--patch", type=int, nargs=3, metavar="Z Y X", help="Size of a training patch, in voxels.")
@click.option("--batch", type=int, help="Patches a step; by default as the network's recipe says.")
@click.option("--learning-rate", type=float, help="At its highest; by default as the recipe says.")
@click.option("--steps", type=int, help="How many steps to learn.")
@click.option("--minutes", type=float, help="How long to learn, in place of --steps.")
@click.option("--init", type=click.Path(path_type=Path), help="Checkpoint to start from.")
@click.option("--unlabelled", type=int, help="Voxels of this value are ignored.")
@LEVEL
@click.option(
    "--mirror", default="", metavar="AXES", help="Axes that augmentation may flip, e.g. zyx; none by default."
)
@click.option(
    "--val-pair", "val_pairs", type=str, nargs=2, multiple=True, metavar="IMAGE LABELS", help="To score on."
)
@click.option("--seed", type=int, default=0, show_default=True)
@DEVICE
@click.option("--resume", is_flag=True, help="Go on with an unfinished training of the same kind.")
@click.option("--restart", is_flag=True, help="Discard an unfinished training and begin again.")
@AS_JSON
def train(as_json: bool, mirror: str, widths: str | None, words: tuple[str, ...], **options: Any) -> None:
    """Train a network on pairs of image and labels, or on a session's corrections."""
    from napari_memseg.workflows.train import train as workflow
    from napari_memseg.workflows.train_job import TrainJob, learning

    settings = {name: options.pop(name) for name in LEARNING}
    arguments = settings_of(words) | ({"widths": whole_numbers(widths)} if widths else {})
    job = TrainJob(learning=learning(**settings, mirror=frozenset(mirror)), arguments=arguments, **options)
    with closing(workflow(job)) as steps:
        say(follow(steps), as_json)


@commands.command()
@click.argument("image", required=False)
@click.argument("destination", type=click.Path(path_type=Path), required=False)
@click.option(
    "--session", type=click.Path(path_type=Path), help="A new run in this session, in place of both paths."
)
@click.option("--model", type=click.Path(path_type=Path), required=True, metavar="FILE", help="A checkpoint.")
@DEVICE
@click.option(
    "--tile", type=int, nargs=3, metavar="Z Y X", help="What a tile writes; a multiple of the chunk."
)
@click.option("--chunk", type=int, default=64, show_default=True, help="Edge of a stored chunk, in voxels.")
@click.option("--halo", default="recommended", metavar="Z Y X|exact", help="Context around a tile.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--batch", type=int, help="Tiles that are computed at once.")
@click.option(
    "--max-memory", "max_memory_gib", type=float, metavar="GIB",
    help="The most to take: of a GPU's memory, or else of the host's for the whole process.",
)  # fmt: skip
@click.option("--threads", type=int, help="CPU threads of the arithmetic.")
@LEVEL
@click.option("--box", help="Z0:Z1,Y0:Y1,X0:X1: segment only the chunks that this touches.")
@click.option(
    "--window", type=float, nargs=2, metavar="LOW HIGH", help="Grey values in place of the model's own."
)
@click.option("--confidence", is_flag=True, help="Also store one byte of confidence per voxel.")
@click.option(
    "--skip-below", type=float, metavar="VALUE",
    help="Tiles whose grey values lie below it, at a coarse level, are background without a look.",
)  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS", help="Of a dask cluster whose workers are to compute.")
@click.option("--workers", type=int, help="Compute in so many processes of this machine, one per GPU.")
@click.option("--restart", is_flag=True, help="Discard an unfinished run and begin again.")
@AS_JSON
def segment(
    image: str | None, destination: Path | None, session: Path | None, model: Path, halo: str, restart: bool,
    scheduler: str | None, workers: int | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Segment IMAGE into DESTINATION.ome.zarr, or a session's image into a new run."""
    from napari_memseg.inference.config import SegmentConfig
    from napari_memseg.workflows.segment import Cluster, segment_session
    from napari_memseg.workflows.segment import segment as into_path

    config = SegmentConfig(halo=words_of_halo(halo), **options)
    on_cluster = scheduler is not None or workers is not None
    cluster = Cluster(scheduler, workers) if on_cluster else None
    how: dict[str, Any] = {"restart": restart, "cluster": cluster}
    if session is not None and image is None:
        say(follow(segment_session(session, model, config, **how)), as_json)
    elif session is None and image is not None and destination is not None:
        say(follow(into_path(image, destination, model, config, **how)), as_json)
    else:
        raise InputError("Give IMAGE and DESTINATION, or --session DIR in place of both.")


@commands.command()
@click.argument("labels")
@click.argument("truth")
@click.option("--ignore", type=int, multiple=True, help="Value of TRUTH that is left out; repeatable.")
@click.option("--box", help="Z0:Z1,Y0:Y1,X0:X1: compare only this part.")
@AS_JSON
def evaluate(labels: str, truth: str, ignore: tuple[int, ...], box: str | None, as_json: bool) -> None:
    """Compare LABELS with TRUTH: Dice and IoU per class, and their means."""
    from napari_memseg.workflows.evaluate import evaluate as workflow

    say(follow(workflow(labels, truth, ignore=ignore, box=box)), as_json)


@commands.command()
@click.argument("session", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--format", "kind", type=click.Choice(["ome-zarr", "nnunet", "monai", "tiff"]), default="ome-zarr",
    show_default=True,
)  # fmt: skip
@click.option("--run", help="Over this run, for example 0001; by default the newest.")
@click.option("--box", help="Z0:Z1,Y0:Y1,X0:X1: export only this part.")
@click.option(
    "--labels", type=click.Choice(["shown", "confirmed"]), default="shown", show_default=True,
    help="All that is shown, or only what was painted or confirmed; the rest is ignored.",
)  # fmt: skip
@AS_JSON
def export(session: Path, destination: Path, kind: str, as_json: bool, **options: Any) -> None:
    """Export a session's corrected labels, with their provenance."""
    from napari_memseg.workflows.export import export as workflow

    say(follow(workflow(session, destination, kind, **options)), as_json)


@commands.group()
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_context
def session(context: click.Context, folder: Path) -> None:
    """Make or inspect the session in FOLDER."""
    context.obj = folder


@session.command()
@click.argument("image")
@click.option("--class", "names", type=(int, str), multiple=True, metavar="ID NAME", help="Repeatable.")
@LEVEL
@click.option("--voxel-size", type=float, nargs=3, metavar="Z Y X", help="Where the image does not say it.")
@click.option("--unit", help="Of the voxel size: micrometer, millimeter.")
@AS_JSON
@click.pass_obj
def new(
    folder: Path, /, image: str, names: tuple[tuple[int, str], ...], level: int | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Begin a session on IMAGE."""
    from napari_memseg.workflows.session import new_session

    say(new_session(folder, image, dict(names), level or 0, **options), as_json)


@session.command()
@AS_JSON
@click.pass_obj
def pyramid(folder: Path, as_json: bool) -> None:
    """Build the pyramid of the session's image in the session, or go on with it."""
    from napari_memseg.workflows.session import build_pyramid

    say(follow(build_pyramid(folder)), as_json)


def _inspect(name: str, summary: str) -> None:
    """Add one command that asks the session something and changes nothing."""

    @AS_JSON
    @click.pass_obj
    def command(folder: Path, as_json: bool) -> None:
        from napari_memseg.workflows import session as workflow

        told = getattr(workflow, name)(folder)
        say(told, as_json)
        if name == "verify" and not told["ok"]:
            raise SessionError(
                f"The corrections in {folder} are not what their log says. Restore a backup, or ask for help "
                "with the lines above before you paint on."
            )

    session.command(name, help=summary)(command)


_inspect("info", "Tell what the session holds.")
_inspect("verify", "Check that the corrections agree with the log of their strokes.")
_inspect("log", "List the strokes, oldest first.")


@session.command()
@click.argument("destination", type=click.Path(path_type=Path))
@AS_JSON
@click.pass_obj
def backup(folder: Path, destination: Path, as_json: bool) -> None:
    """Copy the corrections, whole, to the file DESTINATION."""
    from napari_memseg.workflows.session import backup as workflow

    say(workflow(folder, destination), as_json)


@session.command()
@click.option("--most", type=click.IntRange(1, 1000), default=50, help="Places of the list.")
@click.option("--seed", type=int, default=0, help="Of the places that are drawn by lot.")
@AS_JSON
@click.pass_obj
def review(folder: Path, most: int, seed: int, as_json: bool) -> None:
    """List the places that are worth a look, the most worthwhile first."""
    from napari_memseg.workflows.review import find_places

    say(follow(find_places(folder, most=most, seed=seed)), as_json)


@session.command()
@AS_JSON
@click.pass_obj
def statistics(folder: Path, as_json: bool) -> None:
    """Tell how the review goes: minutes, voxels, and how far runs agree with what is known."""
    from napari_memseg.workflows.review_statistics import statistics as workflow

    say(follow(workflow(folder)), as_json)


@session.command("import")
@click.argument("labels")
@click.option("--box", help="Z0:Z1,Y0:Y1,X0:X1: only this part; LABELS may be as large as it.")
@click.option("--unlabelled", type=int, multiple=True, help="Value that means 'no opinion'; repeatable.")
@click.option("--map", "renamed", default="", metavar="THEIRS=OURS,…", help="Which value is which class.")
@click.option("--zero-is", type=click.Choice(["background", "no-opinion"]), default="background")
@click.option("--overwrite", is_flag=True, help="Also replace what is painted here already.")
@AS_JSON
@click.pass_obj
def import_(folder: Path, /, labels: str, renamed: str, as_json: bool, **options: Any) -> None:
    """Paint LABELS from elsewhere into the session, as one step that undo takes back."""
    from napari_memseg.workflows.corrections_import import import_corrections
    from napari_memseg.workflows.label_meaning import ImportConfig, renamed_of

    config = ImportConfig(renamed=renamed_of(renamed), **options)
    with closing(import_corrections(folder, labels, config)) as steps:
        say(follow(steps), as_json)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    try:
        commands.main(join_halo(arguments), prog_name="napari-memseg", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort, Cancelled, DeviceLostError) as error:
        reason = f" {error}" if isinstance(error, DeviceLostError) else ""
        click.echo(f"Interrupted.{reason} {_how_to_go_on(arguments)}", err=True)
        return 130
    except MemsegError as error:
        click.echo(" ".join(str(error).split()), err=True)
        return 2
    except OSError as error:
        click.echo(
            f"{error}. Check that the place exists, can be written and has room, and try again.", err=True
        )
        return 2
    except Exception:  # noqa: BLE001 - the last resort: ours, so say so
        traceback.print_exc()
        click.echo("This is a fault of napari-memseg. Please report it with the lines above.", err=True)
        return 1
    return 0


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """Say what to type after an interruption: not every command goes on by itself."""
    if arguments[:1] == ["demo"]:
        return "The demo starts anew each time: name another folder, or delete this one."
    if arguments[:1] == ["train"]:
        words = "with --resume in place of --restart" if "--restart" in arguments else "with --resume"
    else:
        words = "without --restart" if "--restart" in arguments else "again"
    return f"Run the same command {words} to go on from here."


def main() -> None:
    """Be the command ``napari-memseg``.

    Threads that wait for work sleep instead of spinning, unless the user chose otherwise: on a busy
    machine two that spin take more than twice the time of one. torch reads this when it is loaded.
    What a tile takes of the heap is kept for the next one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_heap()
    sys.exit(run(sys.argv[1:]))
