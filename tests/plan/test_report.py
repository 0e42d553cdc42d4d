"""`franca plan`, and the refusal of a run that does not fit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from franca import presets
from franca.cli import main
from franca.errors import FrancaError
from franca.plan import report
from franca.plan.estimate import make_plan
from franca.plan.hardware import ASSUMED, Gpu
from franca.pretrain.parallel import Ranks
from tests.conftest import MakeParams, MakeStore, MakeValues

GUIDE = Path(__file__).parents[2] / "docs/scaling.md"
PAPER = [name for name in presets.names() if name.startswith(("vitb", "vitl", "vitg"))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Presets for LAION differ from those for ImageNet-21k in data and length only.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name.endswith("-laion") else name for name in presets.names()],
)
def test_every_preset_fits_on_one_node_of_80_gb(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    presets.use(name, folder / "params.yaml")
    assert main(["plan"]) == 0
    out = capsys.readouterr().out
    assert "computed and not measured" in out and re.search(r"total +\d+\.\d of 79\.1\n", out)
    assert re.search(r"^Run: [\d,]+ steps, [\d.]+ (days|hours)$|set pretrain.epoch_length$", out, re.MULTILINE)
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


def row(name: str, gpus: int) -> str:
    """Return the row of the table in docs/scaling.md."""
    params = presets.load(name)
    plan = make_plan(params, gpus, params.runtime.processes, ASSUMED, True, None)
    cut = f"{plan.microbatches} x {plan.images // plan.microbatches}"
    seconds, days = plan.step_seconds, plan.days
    assert seconds is not None and days is not None and plan.needed < plan.gpu.memory
    return f"| {name} | {gpus} | {cut} | {plan.needed / 2**30:.0f} | {plan.images / seconds:.0f} | {days:.1f} |"


def cells(line: str) -> list[Any]:
    return [float(cell) if re.fullmatch(r"[\d.]+", cell) else cell for cell in re.split(r" *\| *", line.strip("| \n"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_the_table_in_the_docs(name: str) -> None:
    lines = [line for line in GUIDE.read_text().splitlines() if line.startswith(f"| {name} |")]
    most = 64 if name.startswith("vitb") else 96
    assert [cells(line)[1] for line in lines] == [8, most]
    for line, gpus in zip(lines, (8, most), strict=True):
        for shown, computed in zip(cells(line), cells(row(name, gpus)), strict=True):
            assert shown == (pytest.approx(computed, rel=0.05, abs=0.1) if isinstance(computed, float) else computed)


def write(folder: Path, values: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("arguments", "changes", "line"),
    [
        (["--gpus", "0"], {}, "number of GPUs: 0 is not above 0 and finite; give another number"),
        (["--gpu-memory", "nan"], {}, "GPU memory: nan is not above 0 and finite; give another number"),
        (["--tflops", "-1"], {}, "TFLOPS: -1 is not above 0 and finite; give another number"),
        (
            ["--gpus", "3"],
            {},
            "pretrain.batch_size: 8 images on 3 processes are 2.66667 each, which is no multiple of"
            " pretrain.losses.koleo_images 8; use 1 processes",
        ),
        (
            [],
            {"pretrain.epochs": 0, "pretrain.init": "models/x", "pretrain.losses.teacher_warmup_epochs": 0},
            "pretrain.epochs: 0 trains nothing; set the epochs of the run to plan it",
        ),
    ],
    ids=["gpus", "memory", "tflops", "share", "no epochs"],
)
def test_bad_input_is_one_line(
    folder: Path,
    tiny_values: MakeValues,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    changes: dict[str, Any],
    line: str,
) -> None:
    write(folder, tiny_values(changes))
    assert main(["plan", *arguments]) == 2
    assert capsys.readouterr() == ("", f"franca: {line}\n")


def test_what_does_not_fit_is_printed_and_refused(
    folder: Path, tiny_values: MakeValues, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, tiny_values({"pretrain.batch_size": 32, "pretrain.precision": "auto"}))
    assert main(["plan", "--gpu-memory", "3"]) == 2
    printed = capsys.readouterr()
    assert "Speed: unknown (the GPU's peak is unknown, give --tflops)" in printed.out
    assert printed.err == (
        "franca: runtime: a step needs 4.0 GiB of memory on each GPU (computed), a GPU of 3 GiB has 3.0; use a smaller"
        " runtime.microbatch (at least 8), runtime.activation_checkpointing: true or more processes\n"
    )
    assert main(["plan", "--gpu-memory", "5", "--tflops", "165", "--gpus", "2"]) == 0
    assert "of 165 TFLOPS" in capsys.readouterr().out


def test_the_number_of_images_comes_from_the_store(
    folder: Path, tiny_values: MakeValues, make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, tiny_values())
    assert main(["plan"]) == 0
    assert (
        "Run: 2 epochs of unknown length; run `franca prepare` or set pretrain.epoch_length" in capsys.readouterr().out
    )
    make_store(folder / "prepared")
    assert main(["plan"]) == 0
    assert "Run: 6 steps\n" in capsys.readouterr().out


def test_a_run_on_gpus_is_checked_by_the_card_at_hand(
    tiny_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Gpu("NVIDIA L4", 4 * 2**30, None)
    monkeypatch.setattr(report, "current_gpu", lambda: small)
    said: list[str] = []
    with pytest.raises(FrancaError, match=r"a step needs 4.0 GiB .*, NVIDIA L4 has 4.0; use runtime.activation_ch"):
        report.check_memory(tiny_params(), Ranks(), "bf16", 24, said.append)
    assert len(said) == 1 and "1 GPU (NVIDIA L4)" in said[0]
    monkeypatch.setattr(report, "current_gpu", lambda: small._replace(memory=5 * 2**30))
    report.check_memory(tiny_params(), Ranks(), "bf16", 24, said.append)
    state = torch.get_rng_state()
    report.check_memory(tiny_params({"pretrain.batch_size": 16}), Ranks(1, 2), "fp32", 24, said.append)
    assert len(said) == 2 and torch.equal(torch.get_rng_state(), state)
