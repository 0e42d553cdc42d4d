"""`franca search`: the same image is the best match, in a folder and in an index."""

import json
from pathlib import Path

import pytest
import torch

from franca.cli import main
from franca.errors import FrancaError
from franca.inference.neighbors import Index, read_index
from franca.models import random_model, save_model
from tests.conftest import MakeParams


def test_a_folder_and_its_index(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = ["--image", str(photos / "c.bmp"), "--image", str(photos / "b/x.png"), "--model", str(model_folder)]
    assert main(["embed", str(photos), "-o", str(tmp_path / "index.parquet"), "--model", str(model_folder)]) == 0
    capsys.readouterr()
    assert main(["search", str(photos), *queries, "-k", "2", "--json"]) == 0
    of_folder = json.loads(capsys.readouterr().out)
    assert main(["search", str(tmp_path / "index.parquet"), *queries, "-k", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == of_folder
    assert [len(matches) for matches in of_folder.values()] == [2, 2]
    assert [matches[0]["path"] for matches in of_folder.values()] == ["c.bmp", "b/x.png"]
    assert [round(matches[0]["similarity"], 4) for matches in of_folder.values()] == [1, 1]

    assert main(["search", str(tmp_path / "index.parquet"), *queries[2:], "-k", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0] == "1.0000  b/x.png"


def test_what_cannot_be_searched(
    model_folder: Path, photos: Path, tmp_path: Path, tiny_params: MakeParams, capsys: pytest.CaptureFixture[str]
) -> None:
    other, index = tmp_path / "other", tmp_path / "index.parquet"
    base = tiny_params().base
    save_model(random_model(base.model_copy(update={"seed": base.seed + 1})), other)
    assert main(["embed", str(photos), "-o", str(index), "--model", str(model_folder)]) == 0
    (tmp_path / "text.parquet").write_text("text")
    for place, image, model, reason in (
        (index, photos / "c.bmp", other, "index.parquet: the index was embedded by another model"),
        (index, photos / "notes.txt", model_folder, "notes.txt: not an image of a known format"),
        (index, photos / "none.png", model_folder, "none.png: "),
        (tmp_path / "text.parquet", photos / "c.bmp", model_folder, "text.parquet: not a file of `franca embed`"),
        (tmp_path / "none.parquet", photos / "c.bmp", model_folder, "none.parquet: no such file; `franca embed`"),
    ):
        capsys.readouterr()
        assert main(["search", str(place), "--image", str(image), "--model", str(model)]) == 2
        assert reason in capsys.readouterr().err
    with pytest.raises(FrancaError, match="not a file of"):
        read_index(tmp_path / "text.parquet")


def test_similarities_are_cosines() -> None:
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    index = Index([str(i) for i in range(50)], vectors, "")
    for row, matches in zip(vectors[:5], index.search(3 * vectors[:5], 4), strict=True):
        cosines = torch.cosine_similarity(row[None], vectors)
        best = cosines.topk(4)
        assert [match.path for match in matches] == [str(i) for i in best.indices.tolist()]
        assert [match.similarity for match in matches] == pytest.approx(best.values.tolist(), abs=1e-5)
