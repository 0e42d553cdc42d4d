"""`franca params update`: files of every older version, whatever their style, and what happens on a fault."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from franca import presets
from franca.cli import main
from franca.errors import FrancaError
from franca.params import load_params, parse_params
from franca.params.history import ADDED, REPLACED, get
from franca.params.update import update
from franca.yaml_file import read_yaml
from tests.conftest import MakeValues
from tests.params.test_all_parameters import LEAVES

OLDER = sorted(Path(__file__).with_name("older").glob("*.yaml"))
FIRST = OLDER[0]


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Values by dotted path, those in lists of mappings too."""
    if isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {path: tree}
    parts = (leaves(part, f"{path}.{name}".lstrip(".")) for name, part in tree.items())
    return {key: leaf for part in parts for key, leaf in part.items()}


def keys(tree: Any) -> set[str]:
    """Dotted paths as in `LEAVES`: `[]` for items of lists."""
    paths = (".".join("[]" if part.isdigit() else part for part in path.split(".")) for path in leaves(tree))
    return {path.replace(".[]", "[]") for path in paths}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A params.yaml of the first version."""
    path = tmp_path / "params.yaml"
    path.write_bytes(FIRST.read_bytes())
    return path


@pytest.mark.parametrize("source", OLDER, ids=lambda path: path.stem)
def test_a_file_of_an_older_version_means_what_it_meant(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(source.read_bytes())
    assert main(["--params", str(path), "params", "update"]) == 0
    before, after = read_yaml(source), read_yaml(path)
    kept = {key: value for key, value in leaves(before).items() if key not in REPLACED}
    assert {key: leaves(after)[key] for key in kept} == kept
    for pattern in keys(after) - keys(before) - {replaced.key for replaced in REPLACED.values()}:
        added = {key: value for key, value in leaves(after).items() if key not in leaves(before)}
        values = [value for key, value in added.items() if key.split(".")[-1] == pattern.split(".")[-1]]
        assert values and all(value == ADDED[pattern](before) for value in values), pattern
    load_params(path)

    removed = {comment for replaced in REPLACED.values() for comment in replaced.comments}
    lines = [line for line in source.read_text().splitlines() if line.lstrip(" #") not in removed]
    changed = [line for line in lines if line not in path.read_text().splitlines()]
    names = {key.rpartition(".")[2] for key in REPLACED}
    assert all("{metric: " in line or line.strip().partition(":")[0] in names for line in changed), changed
    assert [line for line in path.read_text().splitlines() if line in set(lines)][:20] == lines[:20], "the order too"

    content = path.read_bytes()
    assert update(content, path, None) == (content, [])


def test_each_change_is_said(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--params", str(old), "params", "update"]) == 0
    said = capsys.readouterr().out.replace(f"{old}: ", "").splitlines()
    assert "pretrain.include_dense: true became pretrain.dense_share: 0.1" in said
    assert "pretrain.losses.contrastive_weight: added, 0.0" in said
    assert 'register.gates.1.against: added, "champion"' in said
    assert len(said) == len(set(said)) == 28
    assert main(["--params", str(old), "params", "update"]) == 0
    assert capsys.readouterr().out == f"{old}: up to date\n"


def test_new_keys_stand_at_their_place_below_their_meaning(old: Path) -> None:
    assert main(["--params", str(old), "params", "update"]) == 0
    text = old.read_text()
    assert (
        "contrastive_weight: 0.0\n    # Temperature of the contrastive loss.\n    contrastive_temperature: 0.2\n"
        in text
    )
    assert '- {metric: knn/val/top1, "against": "champion", min_improvement: 0.5, floor: null}\n' in text
    assert "include_dense" not in text


def test_check_changes_nothing_and_ends_with_1(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--params", str(old), "params", "update", "--check"]
    assert main(command) == 1
    assert old.read_bytes() == FIRST.read_bytes()
    hint = f"run `franca --params {old} params update`"
    assert capsys.readouterr().err == f"franca: {old}: out of date (28 changes); {hint}\n"
    assert main(["--params", str(old), "params", "update"]) == 0
    assert main(command) == 0


def test_missing_values_of_a_preset(old: Path) -> None:
    assert main(["--params", str(old), "params", "update", "--preset", "overhead-cpu"]) == 0
    params, preset = load_params(old), presets.load("overhead-cpu")
    assert params.pretrain.losses.contrastive_weight == preset.pretrain.losses.contrastive_weight > 0
    assert params.base.mean == preset.base.mean
    assert params.pretrain.epochs == read_yaml(FIRST)["pretrain"]["epochs"], "what the file has stays"


@pytest.mark.parametrize("path", ["pretrain.optimizer.clip_norm", "disentangle"])
def test_what_every_version_had_comes_from_a_preset_alone(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "params.yaml"
    presets.use("overhead-cpu", file)
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{path.rpartition('.')[2]}:"))
    stop = start + 1 if "." in path else next(i for i in range(start, len(lines)) if not lines[i].strip())
    file.write_text("".join(lines[: start - 1] + lines[stop:]))
    assert main(["--params", str(file), "params", "update"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"franca: {file}: every version of Franca requires {path}; ") and error.count("\n") == 1
    assert main(["--params", str(file), "params", "update", "--preset", "overhead-cpu"]) == 0
    assert [line for line in file.read_text().splitlines() if line] == [line for line in whole.splitlines() if line]


def test_accumulation_steps_become_a_microbatch() -> None:
    path = next(path for path in OLDER if path.stem == "097-keys")
    text = path.read_text().replace("accumulation_steps: 1", "accumulation_steps: 2  # half a batch fits")
    text = text.replace("batch_size: 32", "batch_size: 64", 1)
    new, _ = update(text.encode(), path, None)
    assert "\n  # half a batch fits\n" in new.decode(), "a comment of the user stays"
    assert "Parts into which each process cuts" not in new.decode()
    assert "microbatch: 32\n" in new.decode()


def test_an_unknown_key_is_an_error_and_nothing_is_written(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.write_text(text := old.read_text().replace("  seed: 0", "  sead: 0\n  seed: 0"))
    assert main(["--params", str(old), "params", "update"]) == 2
    output, error = capsys.readouterr()
    assert error == f"franca: {old}: base.sead: unknown key (value 0); did you mean seed?\n" and not output
    assert old.read_text() == text


def test_other_commands_say_how_to_get_the_missing_keys(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(old.parent)
    assert main(["prepare"]) == 2
    line = "29 keys are missing or of an older version (base.mean, base.std, base.backbone.position_resampling, ...)"
    assert capsys.readouterr().err == f"franca: params.yaml: {line}; run `franca params update`\n"
    text = Path("params.yaml").read_text()
    assert main(["params", "update"]) == 0
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("    contrastive_weight: 0.0\n", ""))
    capsys.readouterr()
    assert main(["params", "check"]) == 2
    line = "pretrain.losses.contrastive_weight: missing key; run `franca params update`"
    assert capsys.readouterr().err == f"franca: params.yaml: {line}\n" and text


STYLES = {
    "windows": lambda text: text.replace("\n", "\r\n"),
    "byte order mark": lambda text: "\ufeff" + text,
    "no last newline": lambda text: text.rstrip("\n"),
    "four spaces": lambda text: "\n".join(" " * (len(line) - len(line.lstrip())) + line for line in text.splitlines()),
    "document marks": lambda text: f"---\n{text}...\n",
    "a note at the end": lambda text: f"{text}# the end\n",
    "comments": lambda text: text.replace("seed: 0", "seed: 0  # lucky\n  # below"),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_files_style_stays(style: str) -> None:
    plain, _ = update(FIRST.read_bytes(), FIRST, None)
    text = STYLES[style](FIRST.read_text())
    new, _ = update(text.encode(), FIRST, None)
    assert leaves_of(new) == leaves_of(plain)
    lines = new.decode().split("\n")
    assert all(line in lines for line in text.split("\n") if "include_dense" not in line and "{metric" not in line)
    if style == "windows":
        assert new.count(b"\n") == new.count(b"\r\n")


def leaves_of(content: bytes) -> dict[str, Any]:
    from franca.yaml_file import parse_yaml

    return leaves(parse_yaml(content, FIRST)[1])


@pytest.mark.parametrize("indent", [None, 2])
def test_json_stays_json(indent: int | None, tiny_values: MakeValues) -> None:
    values = tiny_values()
    del values["pretrain"]["losses"]["contrastive_weight"], values["base"]["mean"], values["runtime"]["profile_steps"]
    del values["register"]["gates"][0]["against"], values["base"]["backbone"]["position_resampling"]
    values["runtime"] = {"accumulation_steps": 1, **values["runtime"]}
    new, changes = update(json.dumps(values, indent=indent).encode(), Path("params.yaml"), None)
    assert len(changes) == 6
    parse_params(json.loads(new), "params.json")
    assert json.loads(new)["pretrain"]["losses"]["contrastive_weight"] == 0.0


def test_block_lists_and_block_text() -> None:
    text = FIRST.read_text()
    flow = "    - {metric: knn/val/top1, min_improvement: 0.5, floor: null}\n"
    block = "    # first\n    - min_improvement: 0.5  # points\n      floor: null\n      metric: knn/val/top1\n"
    assert flow in text
    text = text.replace(flow, block).replace("  model_name: franca\n", "  model_name: |-\n    franca\n\n")
    new, _ = update(text.encode(), FIRST, None)
    assert "      metric: knn/val/top1\n      against: champion\n" in new.decode()
    assert leaves_of(new)["register.gates.0.against"] == "champion"


def test_anchors_that_leave_no_place(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = old.read_text().replace("    - {metric: knn", "    - &gate {metric: knn")
    text = "".join("    - *gate\n" if "linear/val" in line else line for line in text.splitlines(keepends=True))
    old.write_text(text)
    assert main(["--params", str(old), "params", "update"]) == 2
    error = capsys.readouterr().err
    assert "its anchors and merges leave no place for new keys" in error and error.count("\n") == 1
    assert old.read_text() == text


def test_an_alias_before_a_new_key() -> None:
    text = FIRST.read_text().replace("koleo_weight: 0.1", "koleo_weight: &tenth 0.1")
    old = "teacher_temperature: [0.04, 0.07]"
    assert old in text
    new, _ = update(text.replace(old, "teacher_temperature: &warm [0.04, 0.07]").encode(), FIRST, None)
    assert leaves_of(new)["pretrain.losses.teacher_temperature"] == [0.04, 0.07]


def test_links_and_modes_stay(old: Path) -> None:
    old.chmod(0o640)
    link = old.with_name("link.yaml")
    link.symlink_to(old.name)
    assert main(["--params", str(link), "params", "update"]) == 0
    assert link.is_symlink() and old.stat().st_mode & 0o777 == 0o640
    load_params(old)
    assert sorted(path.name for path in old.parent.iterdir()) == ["link.yaml", "params.yaml"]


def test_a_full_disk_loses_nothing(old: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [sys.executable, "-m", "franca", "--params", str(old), "params", "update"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert old.read_bytes() == FIRST.read_bytes()
    assert [path.name for path in old.parent.iterdir()] == ["params.yaml"]


def test_a_pipe_cannot_be_updated() -> None:
    source, sink = os.pipe()
    os.write(sink, FIRST.read_bytes())
    os.close(sink)
    try:
        from franca.params.update import run

        with pytest.raises(FrancaError, match="not a regular file; give a file that can be written"):
            run(Path(f"/dev/fd/{source}"), None, check=False)
    finally:
        os.close(source)


def test_every_key_is_of_the_first_version_or_has_a_value_for_older_files() -> None:
    first = keys(read_yaml(FIRST))
    assert {key for key in LEAVES if ".NAME." not in key} - {"register.gates"} - first == set(ADDED), (
        "add new keys to franca/params/history.py"
    )
    assert first - set(LEAVES) <= set(REPLACED), "say in franca/params/history.py what replaces a removed key"
    assert not set(REPLACED) & set(LEAVES) and {replaced.key for replaced in REPLACED.values()} <= set(LEAVES)
    assert get({"a": {"b": 1}}, "a.b") == 1 and get({}, "a.b") is None
