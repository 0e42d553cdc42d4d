from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from franca.data.store.prepared import Store
from franca.data.store.transform import load_images
from franca.errors import FrancaError
from franca.files import read_json
from franca.formats.variant import variant
from franca.models import FrancaModel, load_model, random_model, save_model
from franca.models.planes import decompose, kept_space, plane, projection
from franca.params import Disentangle, ResolvedParams
from franca.pretrain.setup import make_networks
from franca.probes.position import score_position
from franca.rasa import grid_positions, learn_plane, learn_planes
from franca.stages.disentangle import run
from tests.conftest import MakeParams, MakeStore

SIDE, DIM = 4, 16
POSITIONS = grid_positions(SIDE, SIDE)


def make_features(images: int = 200, strength: float = 1.0, seed: int = 0) -> Tensor:
    """Noise (images, patches, DIM) with a linear trace of each patch's place in it."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, DIM, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(images, SIDE * SIDE, DIM, generator=generator)
    return noise + strength * (POSITIONS - 0.5) @ directions


def position_r2(train: Tensor, val: Tensor) -> float:
    """R² in percent of position in features (images, patches, D)."""
    return score_position(*(x.unflatten(1, (SIDE, SIDE)) for x in (train, val)))


def make_settings(**changes: float) -> Disentangle:
    values = {"rounds": 3, "epochs": 20, "images": 100, "batch_size": 8, "learning_rate": 0.05}
    return Disentangle.model_validate(values | changes)


def learn_projection(x: Tensor, settings: Disentangle, seed: int = 0) -> Tensor:
    return projection(learn_planes(x.clone(), POSITIONS, settings, seed), DIM)


def test_a_plane_has_orthonormal_rows_that_span_the_weights() -> None:
    weight = torch.randn(2, DIM)
    axes = plane(weight)
    torch.testing.assert_close(axes @ axes.T, torch.eye(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(weight @ axes.T @ axes, weight)


def test_parts_add_up_and_the_rest_tells_nothing() -> None:
    x, weight = torch.randn(3, 5, DIM), torch.randn(2, DIM)
    position, rest = decompose(x, weight)
    torch.testing.assert_close(position + rest, x)
    torch.testing.assert_close(rest @ weight.T, torch.zeros(3, 5, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(decompose(rest, weight)[1], rest)


def test_places_run_from_0_to_1_row_by_row() -> None:
    positions = grid_positions(2, 3)
    assert positions.tolist() == [[0, 0], [0, 0.5], [0, 1], [1, 0], [1, 0.5], [1, 1]]


def test_a_learned_plane_holds_the_place() -> None:
    x = make_features()
    weight = learn_plane(x, POSITIONS, make_settings(), torch.Generator().manual_seed(0))
    position, rest = decompose(x, weight)
    assert position_r2(position, position) > 70
    assert position_r2(rest, rest) < 5


def test_position_is_gone_after_all_rounds() -> None:
    train, val = make_features(), make_features(seed=1)
    assert position_r2(train, val) > 70
    projection = learn_projection(train, make_settings())
    assert position_r2(train @ projection.T, val @ projection.T) < 1


def test_each_round_takes_a_plane_and_puts_none_back() -> None:
    projection = learn_projection(make_features(), make_settings(epochs=3))
    torch.testing.assert_close(projection @ projection, projection, rtol=0, atol=1e-5)
    torch.testing.assert_close(projection, projection.T, rtol=0, atol=1e-5)
    assert float(projection.trace()) == pytest.approx(DIM - 6, abs=1e-4)


def test_later_rounds_read_what_earlier_ones_left() -> None:
    x, settings = make_features(), make_settings(epochs=3)
    two, three = (learn_projection(x, make_settings(epochs=3, rounds=rounds), seed=5) for rounds in (2, 3))
    torch.testing.assert_close(two @ three, three, rtol=0, atol=1e-5)
    first = learn_plane(x, POSITIONS, settings, torch.Generator().manual_seed(5))
    torch.testing.assert_close(three @ first.T, torch.zeros(DIM, 2), rtol=0, atol=1e-5)


def test_planes_go_one_after_another_even_where_they_overlap() -> None:
    planes = torch.randn(3, 2, DIM, generator=torch.Generator().manual_seed(2))
    x = rest = torch.randn(4, DIM)
    for weight in planes:
        rest = decompose(rest, weight)[1]
    torch.testing.assert_close(x @ projection(planes, DIM).T, rest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_new_planes_come_to_those_that_are_out_already(orthogonal: bool) -> None:
    x, settings = make_features(), make_settings(rounds=2, epochs=3)
    # As official heads have them, the second kind overlaps.
    random = torch.randn(2, 2, DIM, generator=torch.Generator().manual_seed(3))
    old = learn_planes(x.clone(), POSITIONS, settings, seed=1) if orthogonal else random
    before = projection(old, DIM)
    new = learn_planes(x @ before.T, POSITIONS, settings, 2, old)
    rows = torch.cat([old, new] if orthogonal else [new]).flatten(0, 1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)
    # Each takes out two dimensions of what the old ones left, and puts nothing back.
    after, left = projection(torch.cat([old, new]), DIM), kept_space(old, DIM)
    torch.testing.assert_close(left @ after, after, rtol=0, atol=1e-5)
    ranks = [int(torch.linalg.matrix_rank(matrix, atol=1e-3)) for matrix in (before, after)]
    assert ranks[0] - ranks[1] == 4
    assert not orthogonal or torch.allclose(left, before, atol=1e-5)


def test_no_rounds_change_nothing() -> None:
    assert torch.equal(learn_projection(make_features(), make_settings(rounds=0)), torch.eye(DIM))


def test_noise_tells_no_place() -> None:
    assert position_r2(make_features(strength=0), make_features(strength=0, seed=1)) < 5


@pytest.fixture
def params(tiny_params: MakeParams) -> ResolvedParams:
    return tiny_params({f"disentangle.{key}": value for key, value in make_settings().model_dump().items()})


@pytest.fixture
def start(
    tmp_path: Path, params: ResolvedParams, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FrancaModel]:
    """A project folder that is the current one, with a pretrained model whose patches show where they are."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "prepared")
    model = random_model(params.base)
    model.backbone.pos_embed.mul_(30)
    save_model(model, tmp_path / "models/pretrained")
    yield model
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_the_whole_stage(start: FrancaModel, params: ResolvedParams) -> None:
    run(params)
    model = load_model(Path("models/franca"))
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    before, after = start(images), model(images)
    assert torch.equal(after.pooled, before.pooled)
    torch.testing.assert_close(after.patches, before.patches @ model.patch_projection.T)

    metrics = read_json(Path("results/disentangle/metrics.json"))
    r2 = metrics["position_r2"]
    assert set(r2) == {"before", "after", "raw_pixels"}
    assert r2["before"] > 50 > r2["before"] - 40 > r2["after"]
    assert metrics["removed_dimensions"] == 6

    outs = [Path("models/franca/model.safetensors"), Path("results/disentangle/metrics.json")]
    first = [path.read_bytes() for path in outs]
    run(params)
    assert [path.read_bytes() for path in outs] == first


def with_planes(model: FrancaModel, planes: Tensor, dim: int | None = None) -> FrancaModel:
    """Save the model of `start` anew with planes, cut to `dim` dimensions."""
    model.remove_position(planes)
    save_model(variant(model, dim), Path("models/pretrained"))
    return load_model(Path("models/pretrained"))


def measured(name: str) -> tuple[FrancaModel, float]:
    """A saved model, and R^2 of position in the patch features that it gives."""
    model, store = load_model(Path("models") / name), Store(Path("prepared"))
    images = [load_images(part, 32, list(range(len(part)))) for part in (store.images("train"), store.images("val"))]
    train, val = (model(part).patches for part in images)
    return model, score_position(train, val)


@pytest.mark.parametrize("dim", [None, 8])
@pytest.mark.parametrize("rounds", [0, 2])
def test_planes_of_the_pretrained_model_stay(
    rounds: int, dim: int | None, start: FrancaModel, tiny_params: MakeParams
) -> None:
    changes = make_settings(rounds=rounds).model_dump()
    params = tiny_params({f"disentangle.{key}": value for key, value in changes.items()})
    old = with_planes(start, torch.randn(9, 2, 32, generator=torch.Generator().manual_seed(1)), dim)
    run(params)
    (before, r2_before), (after, r2_after) = measured("pretrained"), measured("franca")
    assert torch.equal(after.position_planes[:9], old.position_planes)
    assert len(after.position_planes) == 9 + rounds
    assert after.embed_dim == before.embed_dim == (dim or 32)
    metrics = read_json(Path("results/disentangle/metrics.json"))
    assert metrics["position_r2"]["before"] == pytest.approx(r2_before, abs=0.02)
    assert metrics["position_r2"]["after"] == pytest.approx(r2_after, abs=0.02)
    assert metrics["removed_dimensions"] == 18 + 2 * rounds


def test_more_planes_than_dimensions_are_refused_before_any_work(start: FrancaModel, tiny_params: MakeParams) -> None:
    with_planes(start, torch.randn(9, 2, 32))
    with pytest.raises(FrancaError, match=r"disentangle\.rounds: 7 rounds .* set it to at most 6"):
        run(tiny_params({"disentangle.rounds": 7}))
    assert not Path("models/franca").exists()


def test_further_training_leaves_planes_and_truncation_out(
    start: FrancaModel, tiny_params: MakeParams, capsys: pytest.CaptureFixture[str]
) -> None:
    with_planes(start, torch.randn(3, 2, 32), 8)
    student, teacher = make_networks(tiny_params({"pretrain.init": "models/pretrained"}), torch.device("cpu"))
    assert student.backbone.embed_dim == teacher.backbone.embed_dim == 32
    said = capsys.readouterr().out
    assert "3 planes of RASA are left out" in said and "all 32 dimensions are trained" in said
