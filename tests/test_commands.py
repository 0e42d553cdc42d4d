"""Every command of README.md and docs/*.md: typed in a fresh clone, or listed here with the reason why not."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from franca.arguments import parser
from tests.conftest import MakeValues, write_tar
from tests.documented import ROOT, all_commands

Check = Callable[[Path, str], bool]

NOT_TYPED = {
    # Servers, which run until they are stopped. Tests of tests/flows and tests/tracking start them.
    "make experiments": "`dvc exp show`, which is typed, with more columns left out",
    "make mlflow-ui": "a server",
    "make prefect-ui": "a server",
    "make worker": "needs Prefect's server",
    "mlflow ui --backend-store-uri sqlite:///mlflow.db": "a server",
    "mlflow server --port 5000 --workers 2": "a server, on PostgreSQL and S3",
    "prefect server start": "a server, on PostgreSQL",
    "mlflow models serve -m models:/franca@champion --env-manager local --port 5001": "a server",
    "franca serve models:/franca@champion": "a server; tests/serving starts it",
    "franca serve models/franca --index photos.parquet": "a server",
    "curl --data-binary @photo.jpg http://127.0.0.1:8000/embed": "needs that server",
    'curl -H "Content-Type: application/json" -d @body.json http://127.0.0.1:5001/invocations': "needs that server",
    "prefect deployment run pipeline/manual --watch": "needs Prefect's server",
    "prefect deployment run drift/check -p folder=photos/new -p retrain=true": "needs Prefect's server",
    "franca drift photos/new -o drift": "needs more than a few images; tests/drift and the tour have them",
    "franca submit -S pretrain.epochs=0.2 -S evaluate.knn_k=10": "needs Prefect's server; tests/flows submits a run",
    "franca submit -S pretrain.epochs=0.2": "needs Prefect's server",
    "franca submit --preset photos-cpu -S prepare.source=/data/photos": "needs Prefect's server",
    "python -m flows.pipeline": "starts Prefect's server for a minute; tests/flows runs the flow",
    "python -m flows.study studies/heads.yaml --set photos=PATH": "hours; tests/flows runs a small study",
    "python -m franca.study.processes studies/heads-long.yaml --set photos=PATH --parallel 12 --folder FOLDER": (
        "needs a GPU; tests/study runs a small study"
    ),
    # Docker, clusters and GPUs.
    "docker buildx imagetools inspect python:3.11.14-slim-bookworm": "needs Docker",
    "docker compose -f docker/compose.yaml up": "needs Docker; `make lint` validates the file",
    "docker compose -f docker/compose.yaml up --build --detach": "needs Docker",
    "docker compose -f docker/compose.yaml run --rm worker dvc repro": "needs Docker",
    "docker compose -f docker/compose.yaml run --rm worker python -m franca promote": "needs Docker",
    "sbatch --nodes=12 docs/examples/slurm.sh": "needs Slurm; tests/flows/test_examples.py runs the script",
    "make gpu-check": "needs a GPU; tests/benchmarks runs its parts",
    "python -m benchmarks.gpu_check": "needs a GPU",
    # The network.
    "pip install dvc-s3": "downloads",
    "pip install --no-deps --require-hashes -r docker/server.lock": "downloads",
    "franca evaluate --model timm:vit_small_patch14_dinov2.lvd142m --dataset imagenet -o dinov2": "downloads 90 MB",
    "pip install -e .": "downloads PyTorch's CPU build before",
    "pip install -e '.[onnx]'": "downloads",
    "pip install -e '.[heic]'": "downloads",
    "pip install -e '.[s3]'": "downloads",
    "make demo PYTHON=python3.12": "needs another Python",
    "make lock": "downloads",
    "dvc gc --workspace --all-commits": "deletes the cache of the demo that later commands need",
    "dvc push": "needs the bucket of the lines before",
    "dvc pull": "needs that bucket",
    "franca import-weights --timm vit_base_patch16_siglip_224.webli -o models/siglip": "downloads 370 MB",
    "franca import-weights open_clip_model.safetensors --timm vit_base_patch16_clip_224.laion2b -o models/clip": (
        "needs a file of 600 MB; tests/formats imports small ones"
    ),
    # Checks of the code, which a test should not start again.
    "make lint": "minutes of mypy",
    "make tour": "minutes; tests/test_tour.py runs it",
    "python -m benchmarks.quality": "hours, and the packages of requirements-bench.lock",
    "make docs": "part of `make lint`",
    "make bench": "minutes that need the machine alone",
    'make test ARGS="-m slow tests/flows"': "minutes, and servers",
    'make test ARGS="-m slow tests/serving"': "minutes, and servers",
    "pytest tests/conformance": "fast tests",
    "python -m benchmarks.loader": "minutes that need the machine alone",
    "python -m benchmarks.large_sets": "an hour that needs the machine alone",
    "python -m benchmarks.decoding": "needs the packages of requirements-bench.lock",
    'franca rollback --reason "blurs on water"': "needs an earlier champion; tests/tracking rolls back",
    'franca reject 5 --reason "too slow"': "needs several versions; tests/tracking has them",
    'franca approve 5 --reason "fast enough after all"': "needs several versions; tests/tracking has them",
    "mlflow db upgrade sqlite:///mlflow.db": "needs a database of an older MLflow",
    "python docs/results.py": "said in a comment of README.md; needs runs of two presets",
}
"""Commands that the test below does not type, and why. Their subcommands and options are checked all the same."""

MENTIONED = {
    "dvc exp show",
    "franca submit",
    "prefect deploy",
    "dvc add",
    "dvc exp apply",
    "dvc exp push",
    "dvc exp run --temp",
    "dvc exp save",
    "dvc repro --single-item",
    "franca embed",
    "franca export",
    "franca search",
    "franca serve",
    "franca maps",
    "franca params schema",
    "franca params use",
    "franca approve",
    "franca approve --reason TEXT",
    "franca reject",
    "franca reject --reason TEXT",
    "franca rollback",
    "franca import-weights",
    "franca init",
    "franca register",
    "franca summary",
    "franca import-weights --timm",
    "mlflow gc",
    "pip check",
    "mlflow models serve",
    "prefect flow-run execute",
}
"""Names of commands in sentences, without the arguments that they need."""


class Step(NamedTuple):
    """A command as the page has it; what is typed if that has a placeholder; and what the page promises."""

    command: str
    check: Check = lambda folder, output: True
    typed: str | None = None


def has(*paths: str) -> Check:
    return lambda folder, output: all((folder / path).exists() for path in paths)


def says(*texts: str) -> Check:
    return lambda folder, output: all(text in output for text in texts)


def rows(path: str, count: int, width: int) -> Check:
    def check(folder: Path, output: str) -> bool:
        table = parquet.read_table(folder / path)
        return len(table) == count and table.schema.field("embedding").type.list_size == width

    return check


FORMATS = ("safetensors", "timm", "official", "onnx", "huggingface", "torchhub")
DEMO = [
    Step("make demo", has(".venv/bin/franca", "models/franca/model.safetensors", "results/register/receipt.json")),
    Step("make test", says("passed"), "ARGS='-q tests/test_script.py' make test"),
    Step(". .venv/bin/activate"),
    Step("dvc pull data.dvc", says("up to date")),
    Step("dvc repro", says("Stage 'pretrain' didn't change, skipping")),
    Step(
        "franca reproduce RUN_ID",
        says("reproduced\n  weights   same bytes\n  scores    same bytes\n  pictures  same bytes"),
        "run=$(python -c \"import json; print(json.load(open('results/register/receipt.json'))['run_id'])\");"
        " franca reproduce $run",
    ),
    Step("dvc repro register", says("Stage 'evaluate' didn't change, skipping")),
    Step("dvc repro evaluate", says("Stage 'evaluate' didn't change, skipping")),
    Step("dvc repro prepare", says("Stage 'prepare' didn't change, skipping")),
    Step(
        "dvc repro prepare_dataset@imagenet",
        has("datasets/aerial/manifest.json", "results/datasets/aerial/results.json"),
        "sed -i 's#^datasets: {}#datasets: {aerial: {path: data/aerial, task: segmentation}}#' params.yaml;"
        " dvc repro prepare_dataset@aerial; dvc repro --single-item evaluate_dataset@aerial",
    ),
    Step(
        "franca evaluate --model models:/franca@champion -o champion",
        has("champion/results.json", "champion/plots/confusion.png"),
        "franca evaluate --model models:/franca/1 -o champion",
    ),
    Step(
        "franca compare results/evaluate champion -o comparison",
        has("comparison/comparison.json", "comparison/comparison.csv", "comparison/comparison.html"),
    ),
    Step("franca prepare", has("prepared/manifest.json")),
    Step("franca inspect -o images.html", has("images.html")),
    Step("franca doctor", says("params.yaml: valid")),
    Step("dvc metrics diff"),
    Step("dvc params diff"),
    Step("dvc plots diff", has("dvc_plots/index.html")),
    Step("dvc exp run --temp -S pretrain.epochs=2", says("Ran experiment(s): ")),
    Step("dvc exp show --only-changed --drop '.*top1_'", says("workspace", "pretrain.epochs", "linear.val.top1")),
    Step("dvc exp apply crimson-otter", says("Changes for experiment"), "dvc exp apply $(dvc exp list --name-only)"),
    Step("franca promote"),
    Step("franca promote --apply"),
    Step("franca history", says(" promoted by ")),
    Step("torchrun --nproc-per-node 1 -m franca pretrain", has("models/pretrained/model.safetensors")),
    Step("dvc commit pretrain"),
    Step("franca gc", says("would be deleted")),
    Step("franca gc --apply", has("models/franca/model.safetensors", "prepared/manifest.json", "mlflow.db")),
]
MODELS = [
    Step(
        "franca embed FOLDER -o embeddings.parquet",
        rows("embeddings.parquet", 6, 64),
        "franca embed photos -o embeddings.parquet",
    ),
    Step("franca maps IMAGE -o maps", has("maps/one.jpg.png"), "franca maps photos/one.jpg -o maps"),
    Step("franca embed photos -o embeddings.parquet", rows("embeddings.parquet", 6, 64)),
    Step(
        "franca embed photos -o short.parquet --model models/franca --dim 48 --batch-size 256 --workers 8"
        " --device auto",
        rows("short.parquet", 6, 48),
    ),
    Step("franca embed photos -o photos.parquet", rows("photos.parquet", 6, 64)),
    Step(
        "franca search photos --image query.jpg",
        says("1.0000  one.jpg"),
        "cp photos/one.jpg query.jpg; franca search photos --image query.jpg",
    ),
    Step("franca search FOLDER --image IMAGE", says("1.0000  one.jpg"), "franca search photos --image photos/one.jpg"),
    Step("franca search photos.parquet --image query.jpg -k 20", says("1.0000  one.jpg")),
    Step("franca maps photos/one.jpg photos/two.jpg -o maps", has("maps/one.jpg.png", "maps/two.jpg.png")),
    Step("franca maps photos -o maps --block 1 --size 96", has("maps/one.jpg.png", "maps/two.jpg.png")),
    Step("franca export models/franca --format timm -o exports/timm", has("exports/timm/README.md")),
    Step(
        "franca export models/franca -o OUT --format …",
        has(*(f"OUT-{name}/README.md" for name in FORMATS)),
        "; ".join(f"franca export models/franca -o OUT-{name} --format {name}" for name in FORMATS),
    ),
    Step(
        "franca import-weights franca_vitb14_In21K_224.pth -o models/franca-b14",
        has("models/franca-b14/model.safetensors"),
        "cp OUT-official/model.pth franca_vitb14_In21K_224.pth;"
        " franca import-weights franca_vitb14_In21K_224.pth -o models/franca-b14",
    ),
    Step(
        "franca import-weights franca_vitb14_In21K.pth --rasa franca_vitb14_In21K_rasa.pth -o models/franca-b14-518",
        says("planes of RASA"),
        "cp OUT-official/model.pth franca_vitb14_In21K.pth; cp OUT-official/rasa.pth franca_vitb14_In21K_rasa.pth;"
        " franca import-weights franca_vitb14_In21K.pth --rasa franca_vitb14_In21K_rasa.pth -o models/franca-b14-518",
    ),
    Step(
        "franca import-weights franca_vitg14_Laion600M_chunked.tar.gz.part_a? -o models/franca-g14",
        has("models/franca-g14/model.safetensors"),
        "tar -czf whole.tar.gz -C OUT-official model.pth;"
        " split -n 3 whole.tar.gz franca_vitg14_Laion600M_chunked.tar.gz.part_;"
        " franca import-weights franca_vitg14_Laion600M_chunked.tar.gz.part_a? -o models/franca-g14",
    ),
    Step(
        "franca import-weights dinov2_vits14_reg4_pretrain.pth -o models/dinov2-s14",
        has("models/dinov2-s14/model.safetensors"),
        "cp OUT-official/model.pth dinov2_vits14_reg4_pretrain.pth;"
        " franca import-weights dinov2_vits14_reg4_pretrain.pth -o models/dinov2-s14",
    ),
]
OWN_IMAGES = [
    Step("cp -r ~/photos data/photos && dvc add data", has("data/photos/one.jpg")),
    Step("dvc add data", has("data.dvc")),
    Step('git commit -m "data: our images" data.dvc', says("data: our images")),
    Step("dvc remote add -d storage s3://bucket/franca", says("default remote")),
    Step("dvc remote modify storage endpointurl https://minio.example.org"),
    Step(
        "dvc remote modify --local storage access_key_id …",
        has(".dvc/config.local"),
        "dvc remote modify --local storage access_key_id KEY",
    ),
    Step(
        "franca init data/photos --minutes 30",
        says("params.yaml: written from preset photos-"),
        "for i in $(seq 60); do cp data/photos/one.jpg data/photos/$i.jpg; done; franca init data/photos --minutes 30",
    ),
]
PLANS = [
    Step("franca params list", says("vitg14-laion")),
    Step("franca params use overhead-cpu", says("written")),
    Step("franca params schema > params.schema.json", has("params.schema.json")),
    Step("franca params check", says("params.yaml: valid")),
    Step("franca params update"),
    Step("franca params update --check"),
    Step("franca params update --preset overhead-cpu"),
    Step("franca params use photos-1gpu", says("written")),
    Step("franca params use vitb14-in21k", says("written")),
    Step("franca params use vitl14-in21k", says("written")),
    Step("franca plan", says("images/s")),
    Step("franca plan --gpus 96", says("96")),
    Step("franca plan --gpus 96 --gpu-memory 40 --tflops 312", says("96 GPUs", "a GPU of 40 GiB")),
]
SHELL = [
    Step("cp docker/.env.example docker/.env", has("docker/.env")),
    Step("pip install s3fs", says("already satisfied")),
    Step("pre-commit install", has(".git/hooks/pre-commit")),
    Step("python -m docs.pages", has("docs/parameters.md", "docs/cli.md")),
    *(Step(command) for command in all_commands() if command.startswith("export ")),
    Step("make clean", has(".venv/bin/franca", "models/franca")),
]


def test_every_command_is_typed_or_listed() -> None:
    typed = {step.command for step in (*DEMO, *MODELS, *OWN_IMAGES, *PLANS, *SHELL)}
    assert not typed & (NOT_TYPED.keys() | MENTIONED)
    documented = set(all_commands())
    assert documented == typed | NOT_TYPED.keys() | MENTIONED


def franca_arguments() -> list[list[str]]:
    """Arguments of every `franca` command in the pages, alone or behind another program."""
    found = []
    for command in all_commands():
        for part in re.split(r"&&|;|\||>", command):
            tokens = shlex.split(part.replace("…", "timm"))
            if "franca" in tokens and (tokens[0] == "franca" or tokens[tokens.index("franca") - 1] == "-m"):
                found.append(tokens[tokens.index("franca") + 1 :])
    return found


def test_franca_takes_every_command_of_the_pages(capsys: pytest.CaptureFixture[str]) -> None:
    mentioned = [shlex.split(command)[1:] for command in MENTIONED if command.startswith("franca ")]
    assert len(franca_arguments()) > 30
    for arguments in franca_arguments():
        if arguments in mentioned:
            with pytest.raises(SystemExit):
                parser().parse_args([arguments[0], "--help"])
            shown = capsys.readouterr().out
            assert all(option in shown for option in arguments[1:]), arguments
        else:
            parser().parse_args(arguments)


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {shlex.split(command)[1] for command in all_commands() if command.startswith("make ")}
    assert len(named) > 8 and named <= targets


def test_no_text_installs_the_package_of_that_name_on_pypi() -> None:
    """The name `franca` on PyPI is somebody else's."""
    pattern = re.compile(r"(pip|uv|pipx) (install|add)\s+(-\S+\s+)*['\"]?franca\b")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in listed:
        if name.endswith((".md", ".py", ".toml", ".yaml", "Dockerfile", "Makefile")) and (ROOT / name).is_file():
            assert not pattern.search((ROOT / name).read_text()), name


OFFICIAL_FILES = {
    "franca_vitb14_In21K_224.pth",
    "franca_vitb14_In21K.pth",
    "franca_vitb14_In21K_rasa.pth",
    "franca_vitl14_Laion600M_224.pth",
    "franca_vitl14_Laion_518.pth",
    "franca_vitg14_Laion600M_chunked.tar.gz.part_a",
    "franca_vitg14_Laion600M_rasa.pth",
}
"""Files of the official release 1.1.0."""


def test_official_files_have_the_names_of_the_release() -> None:
    named = set(re.findall(r"\bfranca_vit\w+[\w.]*", (ROOT / "docs/models.md").read_text()))
    assert named and named <= OFFICIAL_FILES


# The slow part.


def photograph(seed: int, format: str, side: int = 64) -> bytes:
    """Noise around a color that tells the class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, (side, side, 3))
    pixels[..., seed % 3] += 120
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format)
    return buffer.getvalue()


def make_environment(folder: Path) -> None:
    """A new virtual environment that finds all packages but Franca where this one has them, and has their scripts."""
    venv.create(folder, with_pip=True, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    for own in Path(paths["purelib"]).glob("setuptools*"):  # of another version than the locked one
        shutil.rmtree(own)
    Path(paths["purelib"], "locked.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    for script in Path(sysconfig.get_path("scripts")).iterdir():
        new = Path(paths["scripts"], script.name)
        if new.exists() or script.name == "franca" or not script.is_file():
            continue
        content = script.read_bytes()
        if content.startswith(b"#!") and b"python" in content.partition(b"\n")[0]:
            new.write_bytes(f"#!{folder}/bin/python\n".encode() + content.partition(b"\n")[2])
            new.chmod(0o755)
        else:
            new.symlink_to(script)


def run(folder: Path, line: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line as an interactive shell would, without input."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """Environment variables of a user's shell whose home has photos and git's configuration; no Python is active."""
    for number, name in enumerate(("one", "two", "3", "4", "5", "6")):
        path = tmp_path / f"home/photos/{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(number, "JPEG"))
    (tmp_path / "home/.gitconfig").write_text("[user]\n\tname = t\n\temail = t@localhost\n")
    return {
        "HOME": str(tmp_path / "home"),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHON": sys.executable,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "home/dvc"),
        "DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "home/dvc"),
    }


@pytest.fixture
def clone(tmp_path: Path, shell: dict[str, str], tiny_values: MakeValues) -> Path:
    """A clone of the working tree with less data and a smaller model, as a commit of its own."""
    files = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    folder = tmp_path / "franca"
    for name in subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (
            name
            and (ROOT / name).is_file()
            and not name.startswith((".dvc/embedded", "results/"))
            and name != "dvc.lock"
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    make_environment(folder / ".venv")
    for split, count in (("train", 24), ("test", 9)):
        for label in range(3):
            seeds = range(label, 3 * count, 3)
            content = {f"{seed}.png": photograph(seed + (split == "test") * 1000 * 3, "PNG") for seed in seeds}
            write_tar(folder / f"data/small/{split}/class{label}.tar", content)
    small = {
        "prepare.source": "data/small",
        "prepare.dense_source": None,
        "base.backbone.embed_dim": 64,
        "base.backbone.num_heads": 1,
        "pretrain.epochs": 1,
        "disentangle.epochs": 1,
        "evaluate.bootstrap_samples": 100,
    }
    (folder / "params.yaml").write_text(json.dumps(tiny_values(small), indent=1))
    prepared = run(
        folder,
        ". .venv/bin/activate && git init -q && dvc add -q data"
        " && dvc push -q data.dvc && git add -A && git commit -qm start && rm -rf data .dvc/cache .dvc/tmp",
        shell,
    )
    assert prepared.returncode == 0, prepared.stdout
    return folder


def type_all(steps: list[Step], folder: Path, shell: dict[str, str], activate: bool) -> list[str]:
    """Type the steps one after another; return what went wrong."""
    problems = []
    for step in steps:
        line = ("set -e; . .venv/bin/activate; " if activate else "set -e; ") + (step.typed or step.command)
        done = run(folder, line, shell)
        if done.returncode or not step.check(folder, done.stdout):
            problems.append(f"{step.command}: exit code {done.returncode}\n{done.stdout[-1500:]}")
    return problems


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_commands_of_the_pages_do_what_they_say(clone: Path, shell: dict[str, str]) -> None:
    problems = type_all(DEMO[:2], clone, shell, activate=False)
    assert not problems, problems[0]
    shutil.copytree(Path(shell["HOME"], "photos"), clone / "photos")
    problems += type_all([*DEMO[2:], *MODELS], clone, shell, activate=True)
    problems += type_all(OWN_IMAGES, clone, shell, activate=True)
    problems += type_all(PLANS, clone, shell, activate=True)
    problems += type_all(SHELL, clone, shell, activate=True)
    assert not problems, "\n\n".join(problems)


@pytest.mark.slow
def test_other_programs_have_the_options_of_commands_that_are_not_typed() -> None:
    for command in NOT_TYPED:
        tokens = [token for token in shlex.split(command) if not re.match(r"[A-Z_]+=", token)]
        if tokens[0] not in ("mlflow", "prefect"):
            continue
        names = tokens[: next(i for i, token in enumerate([*tokens, "-"]) if not re.fullmatch("[a-z]+", token))]
        done = subprocess.run([sys.executable, "-m", *names, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, command
        for option in (token for token in tokens if re.match("--?[a-z]", token)):
            assert re.search(rf"{option}\b", done.stdout), f"{command}: {option}"
