"""The `franca` command: call what the arguments name, and turn errors into one line and an exit code.

Heavy imports wait until a command needs them.
"""

import argparse
import errno
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from franca import presets
from franca.arguments import STAGES, parser
from franca.errors import FrancaError
from franca.params import Params, load_params
from franca.paths import RESULTS, runs_root
from franca.process import terminate_with_parent

_CURES = {
    # By name, since torch is not imported before a command needs it.
    "OutOfMemoryError": "lower runtime.microbatch, or set runtime.activation_checkpointing",
}


_FULL = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "the file is larger than allowed",
}


def run(arguments: argparse.Namespace) -> None:
    """Run the command that the arguments name."""
    if arguments.command == "params":
        return _params(arguments)
    if arguments.command == "import-weights":
        from franca.formats.import_weights import import_weights

        return import_weights(
            arguments.files,
            arguments.output,
            rasa=arguments.rasa,
            timm_name=arguments.timm,
            num_heads=arguments.num_heads,
            mean=arguments.mean,
            std=arguments.std,
            force=arguments.force,
        )
    if arguments.command == "export":
        from franca import hub
        from franca.formats.export import export

        return export(
            hub.load(arguments.model),
            arguments.format,
            arguments.output,
            dim=arguments.dim,
            image_size=arguments.image_size,
            keep_position=arguments.keep_position,
        )
    if arguments.command == "embed":
        from franca.inference import embed

        return embed.run(
            arguments.folder,
            arguments.output,
            arguments.model,
            dim=arguments.dim,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            device=arguments.device,
        )
    if arguments.command == "drift":
        from franca.drift import drift

        return drift.run(
            arguments.folder,
            arguments.model,
            arguments.output,
            alpha=arguments.alpha,
            limit=arguments.images,
            as_json=arguments.json,
        )
    if arguments.command == "search":
        from franca.inference import search

        return search.run(
            arguments.place,
            arguments.image,
            arguments.model,
            count=arguments.k,
            device=arguments.device,
            as_json=arguments.json,
        )
    if arguments.command == "serve":
        from franca.serving import server
        from franca.serving.limits import Limits

        return server.run(
            arguments.model,
            host=arguments.host,
            port=arguments.port,
            index=arguments.index,
            batch_size=arguments.batch_size,
            limits=Limits(body_bytes=arguments.max_bytes, pixels=arguments.max_pixels, images=arguments.max_images),
            device=arguments.device,
        )
    if arguments.command == "maps":
        from franca.inference import maps

        return maps.run(
            arguments.images, arguments.output, arguments.model, block=arguments.block, size=arguments.size
        )
    if arguments.command == "compare":
        from franca import compare

        return compare.run(arguments.sources, as_json=arguments.json, output=arguments.output)
    if arguments.command == "reproduce":
        from franca.reproduction import reproduce

        return reproduce.run(arguments.run_id, arguments.output)
    if arguments.command == "submit":
        from franca import submit

        return submit.run(arguments.preset, arguments.set)
    if arguments.command == "doctor":
        from franca.doctor import doctor

        return doctor.run(arguments.params, arguments.json)
    if arguments.command == "init":
        from franca.plan import starting_params

        return starting_params.run(
            arguments.folder, arguments.kind, arguments.masks, arguments.minutes, arguments.params
        )
    params = load_params(arguments.params)
    if arguments.command == "evaluate" and (arguments.model or arguments.output):
        return _evaluate_model(arguments, params)
    if arguments.command in STAGES:
        if "DVC_ROOT" in os.environ:
            terminate_with_parent()
        # Of several training processes the first one speaks for all. The weights stage runs every time, for nothing.
        recorded = os.environ.get("RANK", "0") == "0" and arguments.command != "weights"
        dataset = getattr(arguments, "dataset", None)
        name = f"{arguments.command}_dataset@{dataset}" if dataset else arguments.command
        with _recorded(name) if recorded else nullcontext():
            stage = importlib.import_module(STAGES[arguments.command][0])
            if dataset:
                stage.run(params, dataset)
            elif arguments.command == "pretrain":
                from franca.tracking import mirror

                stage.run(params, on_start=lambda folder: mirror.start(folder, params))
            else:
                stage.run(params)
    elif arguments.command == "plan":
        from franca.plan import report

        report.run(params, gpus=arguments.gpus, memory=arguments.gpu_memory, tflops=arguments.tflops)
    elif arguments.command == "inspect":
        from franca.inspection import inspect

        inspect.run(params, arguments.output)
    elif arguments.command == "gc":
        from franca.retention import gc

        gc.run(params, arguments.keep, apply=arguments.apply, as_json=arguments.json)
    elif arguments.command in ("promote", "approve", "reject", "rollback", "history"):
        _registry(arguments, params)
    else:
        from franca import summary

        summary.run(params)


def _evaluate_model(arguments: argparse.Namespace, params: Params) -> None:
    """Measure a model outside the pipeline."""
    if not (arguments.model and arguments.output):
        missing = "--output" if arguments.model else "--model"
        raise FrancaError(f"evaluate: {missing} is missing; --model and --output go together")
    if RESULTS.resolve() in (arguments.output.resolve(), *arguments.output.resolve().parents):
        raise FrancaError(f"{arguments.output}: is for the pipeline's results; give another folder")
    from franca import hub
    from franca.stages.evaluate import evaluate

    evaluate(params, hub.load(arguments.model), arguments.dataset, arguments.output)


def _registry(arguments: argparse.Namespace, params: Params) -> None:
    from franca.tracking import promote, review

    match arguments.command:
        case "promote":
            promote.run(params, apply=arguments.apply, as_json=arguments.json)
        case "approve":
            review.approve(params, arguments.version, arguments.reason, arguments.json)
        case "reject":
            review.reject(params, arguments.version, arguments.reason, arguments.json)
        case "rollback":
            review.rollback(params, arguments.to, arguments.reason, arguments.json)
        case "history":
            review.show(params, arguments.json)


def _params(arguments: argparse.Namespace) -> None:
    match arguments.action:
        case "list":
            for name in presets.names():
                print(f"{name:24}{presets.about(name)}")
        case "check":
            load_params(arguments.params)
            print(f"{arguments.params}: valid")
        case "schema":
            print(json.dumps(Params.model_json_schema(), indent=2))
        case "update":
            from franca.params import update

            preset = presets.values(arguments.preset) if arguments.preset else None
            update.run(arguments.params, preset, arguments.check)
        case "use":
            presets.use(arguments.preset, arguments.params)
            print(f"{arguments.params}: written from preset {arguments.preset}")


@contextmanager
def _recorded(stage: str) -> Iterator[None]:
    """Note in `runs/stages.jsonl` when a stage ran, how long, and whether it finished."""
    started, status = time.time(), "failed"
    try:
        yield
        status = "done"
    finally:
        line = {
            "stage": stage,
            "started": round(started, 3),
            "seconds": round(time.time() - started, 3),
            "status": status,
        }
        path = runs_root() / "stages.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `franca` command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        run(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        if isinstance(error, FrancaError):
            print(f"franca: {error}", file=sys.stderr)
            return error.exit_code
        if isinstance(error, OSError) and error.errno in _FULL:
            print(f"franca: {_FULL[error.errno]}{_at(error)}; free space and run again", file=sys.stderr)
            return 2
        if isinstance(error, OSError) and error.filename:
            print(f"franca: {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        reason = " ".join(str(error).split())
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError):
            print(f"franca: {reason}", file=sys.stderr)
            return 2
        cure = _CURES.get(type(error).__name__, "franca --debug shows the traceback")
        print(f"franca: {type(error).__name__}: {reason} ({cure})", file=sys.stderr)
        return 1
    return 0


def _at(error: OSError) -> str:
    return f" writing {error.filename}" if error.filename else ""
