"""The table of benchmarks agrees with the modules, the gates and the pipeline that are made from it."""

import subprocess
import sys
import typing
from pathlib import Path

import pytest

from franca.benchmarks import BENCHMARKS, COLUMNS, LABEL_FREE, LABELED, LOWER_IS_BETTER, MODELS, MODULES
from franca.evaluation.suite import module_of
from franca.params import Gate, read_yaml

ROOT = Path(__file__).parents[2]


def test_each_benchmark_has_a_module_and_each_module_a_benchmark() -> None:
    files = {path.stem for path in (ROOT / "franca/evaluation/benchmarks").glob("*.py")} - {"__init__"}
    assert files == {benchmark.name for benchmark in MODULES} == {benchmark.module for benchmark in BENCHMARKS}


@pytest.mark.parametrize("benchmark", MODULES, ids=lambda benchmark: benchmark.name)
def test_a_module_measures_and_draws_what_the_table_says(benchmark: typing.Any) -> None:
    module = module_of(benchmark)
    assert callable(module.run)
    assert hasattr(module, "draw") == bool(benchmark.pictures)


def test_the_pipeline_shows_all_pictures() -> None:
    plots = read_yaml(ROOT / "dvc.yaml")["plots"]
    shown = {Path(name).name for plot in plots for name in ([plot] if isinstance(plot, str) else plot)}
    assert {name for benchmark in BENCHMARKS for name in benchmark.pictures if name.endswith(".png")} <= shown


def test_a_gate_compares_with_the_champion_and_the_baselines_of_the_table() -> None:
    against = typing.get_args(Gate.model_fields["against"].annotation)
    assert set(against) == {"champion", *(model.against for model in MODELS if model.against)}


def test_gates_know_direction_and_labels() -> None:
    assert LOWER_IS_BETTER == ("position", "novelty_misses")
    assert {"knn", "knn_levels", "linear"} <= set(LABELED)
    assert LABEL_FREE == ("position", "views", "rank", "lidar")


@pytest.mark.parametrize("benchmark", [benchmark for benchmark in BENCHMARKS if benchmark.metric])
def test_a_gate_may_name_the_main_metric_of_each_column(benchmark: typing.Any) -> None:
    Gate(metric=f"{benchmark.name}/val/{benchmark.metric}", against="random", min_improvement=0, floor=None)
    assert (benchmark.name, benchmark.metric, benchmark.title) in COLUMNS


def test_the_table_imports_no_torch() -> None:
    code = "import sys, franca.benchmarks, franca.evaluation.report, franca.tracking.gates; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "torch" not in done.stdout.split()


def test_the_full_suite_contains_the_fast_one() -> None:
    fast, full = (
        {benchmark.name for benchmark in MODULES if benchmark.belongs_to(suite)} for suite in ("fast", "full")
    )
    assert {"knn", "linear", "segmentation", "position", "views", "rank"} == fast < full == {b.name for b in MODULES}
