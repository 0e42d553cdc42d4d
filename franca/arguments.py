"""The arguments of the `franca` command: its stages, its other commands, and their options."""

import argparse
import os
from pathlib import Path

from franca import __version__, presets
from franca.formats import FORMATS
from franca.paths import MODEL, PARAMS

STAGES = {
    "prepare": ("franca.stages.prepare", "verify, split and pack the images"),
    "weights": ("franca.stages.weights", "record digests of the model folders that the parameters name"),
    "pretrain": ("franca.stages.pretrain", "train a vision transformer without labels"),
    "disentangle": ("franca.stages.disentangle", "remove position from patch features (RASA)"),
    "evaluate": ("franca.stages.evaluate", "measure the model beside its baselines"),
    "register": ("franca.stages.register", "track the run in MLflow and register the model"),
}
SOURCES = "folder, checkpoint, models:/NAME@ALIAS, models:/NAME/VERSION, run, or timm:NAME"
"""What `franca.load` takes."""
EXIT_CODES = "Exit codes: 0 done, 2 error, 3 the gates failed, 4 the gates hold and a person has to approve."
PARAMS_HELP = "parameters (default: params.yaml, which DVC and the flows always use)"


def _path(text: str) -> Path:
    """A path of the command line. An empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; name a file or folder")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the `franca` command."""
    main = argparse.ArgumentParser(prog="franca", description="Pretrain, measure and ship vision foundation models.")
    main.add_argument("--version", action="version", version=__version__)
    main.add_argument("--debug", action="store_true", help="show the traceback of an error")
    main.add_argument("--params", type=_path, default=PARAMS, metavar="FILE", help=PARAMS_HELP)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stages = {
        name: commands.add_parser(name, help=text, description=f"Pipeline stage: {text}.")
        for name, (_, text) in STAGES.items()
    }
    _add_dataset(stages["prepare"], "prepare this data set of evaluation (a key of the section datasets) instead")
    _add_evaluate(stages["evaluate"])
    _add_registry(commands)
    _add_reproduce(commands.add_parser("reproduce", help="repeat a run from its commit and compare the results"))
    _add_gc(commands.add_parser("gc", help="delete what earlier runs have left and nothing needs any more"))
    _add_doctor(
        commands.add_parser("doctor", help="check servers, disk, data, git and packages, and say how to fix them")
    )
    _add_submit(commands.add_parser("submit", help="start the pipeline on the Prefect server with changed values"))
    commands.add_parser("summary", help="what was trained, how good it is, where it is registered")
    _add_compare(commands.add_parser("compare", help="show evaluations of several models next to each other"))
    _add_import(commands.add_parser("import-weights", help="make a model folder of released weights"))
    _add_export(commands.add_parser("export", help="write a model in a standard format"))
    _add_embed(commands.add_parser("embed", help="embed all images of a folder into a Parquet file"))
    _add_search(commands.add_parser("search", help="find the images that look most like a picture"))
    _add_serve(commands.add_parser("serve", help="answer HTTP requests with a model: embeddings, patches, neighbors"))
    _add_maps(commands.add_parser("maps", help="draw patch features and attention of images"))
    _add_inspect(commands.add_parser("inspect", help="write a page about the prepared images"))
    _add_drift(commands.add_parser("drift", help="test whether new images look like the training images"))
    _add_init(commands.add_parser("init", help="write a params.yaml for a folder of images and this machine"))
    _add_plan(commands.add_parser("plan", help="compute memory, speed and days of a pretraining run"))
    params = commands.add_parser("params", help="presets, updates and schema of params.yaml")
    actions = params.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="list the presets")
    actions.add_parser("check", help="validate the file")
    actions.add_parser("schema", help="print the JSON schema for editors")
    update = actions.add_parser("update", help="add the keys of newer versions to the file, and keep all else")
    update.add_argument(
        "--preset",
        choices=presets.names(),
        metavar="NAME",
        help="take missing values from this preset (default: values that change nothing)",
    )
    update.add_argument("--check", action="store_true", help="only print what would change; exit with 1 if anything")
    use = actions.add_parser("use", help="write a preset, with every value and its meaning, into params.yaml")
    use.add_argument("preset", choices=presets.names(), metavar="PRESET", help=", ".join(presets.names()))
    return main


def _add_dataset(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--dataset", metavar="NAME", help=text)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    _add_dataset(command, "measure on this data set (a key of the section datasets) instead of the training source")
    command.add_argument("--model", metavar="SOURCE", help=f"another model, outside the pipeline: {SOURCES}")
    command.add_argument(
        "-o", "--output", type=_path, metavar="FOLDER", help="where the results of --model go; not in results/"
    )


def _add_compare(command: argparse.ArgumentParser) -> None:
    sources = "folder with results.json, models:/NAME@ALIAS, models:/NAME/VERSION, or runs:/ID"
    command.add_argument("sources", nargs="+", metavar="EVALUATION", help=f"{sources}; differences are to the first")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "-o", "--output", type=_path, metavar="FOLDER", help="write the comparison as JSON, CSV and HTML, too"
    )


def _add_registry(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands about versions of the registered model."""
    promote = commands.add_parser("promote", help="make the challenger champion if its gates hold", epilog=EXIT_CODES)
    promote.add_argument("--apply", action="store_true", help="do it; without this, only say what would happen")
    approve = commands.add_parser("approve", help="make a version champion that waits for approval, or any other")
    reject = commands.add_parser("reject", help="keep a version from becoming champion by its gates")
    for command in (approve, reject):
        command.add_argument(
            "version", nargs="?", metavar="VERSION", help="its number (default: the version that waits for approval)"
        )
    rollback = commands.add_parser("rollback", help="return to an earlier champion and reject the present one")
    rollback.add_argument("--to", metavar="VERSION", help="an earlier champion (default: the one before)")
    for command in (approve, reject, rollback):
        command.add_argument("--reason", required=True, metavar="TEXT", help="why; it is kept in the history")
    history = commands.add_parser("history", help="who decided what about which version, when and why")
    for command in (promote, approve, reject, rollback, history):
        command.add_argument("--json", action="store_true", help="print JSON")


def _add_reproduce(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_id", metavar="RUN_ID", help="ID of a registered run in MLflow")
    command.add_argument("-o", "--output", type=_path, metavar="FILE", help="write the verdict as JSON, too")
    command.epilog = "Exit codes: 0 same bytes, 3 other results, 2 not possible."


def _add_gc(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--keep",
        type=int,
        default=5,
        metavar="N",
        help="newest pretraining runs, experiments and MLflow runs that stay complete (default: 5)",
    )
    command.add_argument("--apply", action="store_true", help="do it; without this, only list it")
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")
    command.epilog = "Exit codes: 0 no problem, 1 a problem."


def _add_submit(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-S",
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a value, for example pretrain.epochs=0.2; may be repeated",
    )
    command.add_argument(
        "--preset",
        choices=presets.names(),
        metavar="NAME",
        help="what the values are changed in (default: params.yaml of the worker)",
    )


def _add_import(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "files",
        nargs="*",
        type=_path,
        metavar="FILE",
        help="official checkpoint of Franca or DINOv2 (safetensors, pth), or the parts of its tar.gz in order",
    )
    command.add_argument("-o", "--output", type=_path, required=True, metavar="FOLDER", help="model folder to write")
    command.add_argument("--rasa", type=_path, metavar="FILE", help="official RASA head that goes with it")
    command.add_argument("--timm", metavar="NAME", help="a model of timm; its weights from FILE, or from timm's hub")
    command.add_argument("--num-heads", type=int, metavar="N", help="attention heads (default: embedding / 64)")
    for name, text in (("--mean", "means"), ("--std", "standard deviations")):
        command.add_argument(
            name, nargs=3, type=float, metavar="X", help=f"channel {text}, of 0..1 (default: ImageNet's, or timm's)"
        )
    command.add_argument("--force", action="store_true", help="replace the model that FOLDER holds")


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help=SOURCES)
    formats = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    command.add_argument("--format", required=True, choices=FORMATS, metavar="FORMAT", help=formats)
    command.add_argument("-o", "--output", type=_path, required=True, metavar="FOLDER", help="new folder to write")
    command.add_argument("--dim", type=int, metavar="N", help="dimensions to keep, from the first (default: all)")
    command.add_argument("--image-size", type=int, metavar="S", help="native size, in pixels (default: the model's)")
    command.add_argument("--keep-position", action="store_true", help="leave RASA out")


def _add_embed(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=_path, metavar="FOLDER", help="images and tars of images, however nested")
    command.add_argument("-o", "--output", type=_path, required=True, metavar="FILE", help="file.parquet to write")
    _add_model(command)
    command.add_argument("--dim", type=int, metavar="N", help="keep the first N dimensions (default: all)")
    command.add_argument("--batch-size", type=int, default=128, metavar="N", help="images a step (default: 128)")
    threads = os.cpu_count() or 1
    command.add_argument(
        "--workers", type=int, default=threads, metavar="N", help="threads that decode (default: one a core)"
    )
    _add_device(command)


def _add_search(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "place",
        type=_path,
        metavar="INDEX",
        help="file.parquet of `franca embed`, or a folder of images",
    )
    command.add_argument(
        "--image", type=_path, required=True, action="append", metavar="FILE", help="picture to search for; repeatable"
    )
    _add_model(command)
    command.add_argument("-k", type=int, default=10, metavar="N", help="matches for each picture (default: 10)")
    command.add_argument("--json", action="store_true", help="print JSON")
    _add_device(command)


def _add_serve(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help=f"{SOURCES}; an alias is followed when it moves")
    command.add_argument("--host", default="127.0.0.1", metavar="HOST", help="default: 127.0.0.1")
    command.add_argument("--port", type=int, default=8000, metavar="PORT", help="port (default: 8000)")
    command.add_argument("--index", type=_path, metavar="FILE", help="file.parquet of `franca embed` for /neighbors")
    command.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="images that the model gets at once (default: 32)"
    )
    command.add_argument(
        "--max-bytes", type=int, default=16 << 20, metavar="N", help="longest body of a request (default: 16 MiB)"
    )
    command.add_argument(
        "--max-pixels",
        type=int,
        default=32_000_000,
        metavar="N",
        help="largest image (default: 32 million pixels)",
    )
    command.add_argument("--max-images", type=int, default=64, metavar="N", help="images of a request (default: 64)")
    _add_device(command)


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )


def _add_maps(command: argparse.ArgumentParser) -> None:
    command.add_argument("images", nargs="+", type=_path, metavar="IMAGE", help="images, or folders of them")
    command.add_argument("-o", "--output", type=_path, required=True, metavar="FOLDER", help="where the PNGs go")
    _add_model(command)
    command.add_argument("--block", type=int, metavar="I", help="block to look at, 0 the first (default: the last)")
    command.add_argument(
        "--size", type=int, metavar="S", help="short side in pixels (default: 4 times the model's image size)"
    )


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", type=_path, required=True, metavar="FILE", help="file.html to write")


def _add_drift(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=_path, metavar="FOLDER", help="new images and tars of images, however nested")
    command.add_argument(
        "-o", "--output", type=_path, metavar="FOLDER", help="write drift.json and drift.html, with pictures, to it"
    )
    _add_model(command)
    command.add_argument(
        "--alpha", type=float, default=0.01, metavar="A", help="rate of false alarms that is accepted (default: 0.01)"
    )
    command.add_argument(
        "--images", type=int, default=2000, metavar="N", help="images of each side, at most (default: 2000)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.epilog = "Exit codes: 0 no drift, 4 drift, 2 not possible."


def _add_init(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="FOLDER", help="folder or URL of images, which becomes prepare.source")
    kinds = "; ".join(f"{name}: {text}" for name, text in presets.KINDS.items())
    command.add_argument(
        "--kind", choices=presets.KINDS, default="photos", metavar="KIND", help=f"{kinds} (default: photos)"
    )
    command.add_argument(
        "--masks",
        metavar="FOLDER",
        help="folder of images with segmentation masks, which becomes prepare.dense_source",
    )
    command.add_argument(
        "--minutes", type=float, default=30, metavar="M", help="time for pretraining on this machine (default: 30)"
    )


def _add_plan(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs of all nodes; runtime.processes of them a node (default: one node)"
    )
    command.add_argument(
        "--gpu-memory", type=float, metavar="GIB", help="memory of each (default: of the GPU here, else an H100's)"
    )
    command.add_argument(
        "--tflops",
        type=float,
        metavar="T",
        help="dense bfloat16 peak of each (default: of the GPU here, else an H100's)",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        default=str(MODEL),
        metavar="SOURCE",
        help=f"{SOURCES} (default: {MODEL})",
    )
