import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from franca.losses import chunks
from franca.losses.centering import centered, moved_center
from franca.losses.sinkhorn import sinkhorn
from tests.losses import plain

BOTTLENECK = 6
PROTOTYPES = torch.randn(8, BOTTLENECK, generator=torch.Generator().manual_seed(1))


def make_hidden(samples: int = 12, scale: float = 0.4) -> Tensor:
    return scale * torch.randn(samples, BOTTLENECK, generator=torch.Generator().manual_seed(0))


def sinkhorn_knopp(hidden: Tensor, temperature: float, iterations: int) -> Tensor:
    return sinkhorn(hidden / temperature, PROTOTYPES, iterations).rows()


@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_chunks_give_what_the_textbook_gives(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "ELEMENTS", {"cpu": rows_at_once * len(PROTOTYPES)})
    expected = plain.sinkhorn_knopp(make_hidden() @ PROTOTYPES.T, 0.2, 3)
    torch.testing.assert_close(sinkhorn_knopp(make_hidden(), 0.2, 3), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3, 30])
@pytest.mark.parametrize("temperature", [1.0, 0.04, 0.01])
def test_no_temperature_is_too_low(temperature: float, iterations: int) -> None:
    hidden = make_hidden()
    hidden[0] *= 20
    shares = sinkhorn_knopp(hidden, temperature, iterations)
    expected = plain.sinkhorn_knopp(hidden @ PROTOTYPES.T, temperature, iterations)
    torch.testing.assert_close(shares, expected, rtol=1e-2, atol=1e-3)
    assert torch.isfinite(shares.log()).all()


def test_what_one_sample_alone_favors_comes_back() -> None:
    """However small its share of the others' rows: after ten iterations it is no longer."""
    logits = torch.zeros(64, 64)
    logits[0, 1:], logits[1:, 0] = 100, 100
    shares = sinkhorn(logits, torch.eye(64), 10).rows()
    torch.testing.assert_close(shares, plain.sinkhorn_knopp(logits, 1, 10), rtol=1e-4, atol=1e-6)


def test_prototypes_are_used_alike_once_it_has_converged() -> None:
    shares = sinkhorn_knopp(make_hidden(), 0.5, 200)
    torch.testing.assert_close(shares.sum(dim=0), torch.full((8,), 12 / 8), rtol=1e-4, atol=1e-5)


def test_a_prototype_that_all_samples_favor_wins_nothing_by_it() -> None:
    shared = torch.cat([make_hidden(), torch.ones(12, 1)], dim=1)
    plain_prototypes = torch.cat([PROTOTYPES, torch.zeros(8, 1)], dim=1)
    favored = plain_prototypes.clone()
    favored[3, -1] = 10
    one, other = (sinkhorn(shared, prototypes, 3).rows() for prototypes in (plain_prototypes, favored))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_no_samples() -> None:
    assert sinkhorn_knopp(torch.empty(0, BOTTLENECK), 0.04, 3).shape == (0, 8)


def test_runs_of_samples_are_parts_of_the_whole() -> None:
    hidden = make_hidden()
    whole = sinkhorn(hidden, PROTOTYPES, 3)
    parts = whole.split([5, 0, 4])
    assert [len(part) for part in parts] == [5, 0, 4]
    torch.testing.assert_close(torch.cat([part.rows() for part in parts]), whole.rows()[:9])


@pytest.mark.parametrize("first", [6, 9, 12], ids=["even", "uneven", "one without samples"])
def test_two_processes_share_one_batch(tmp_path: Path, first: int) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, first, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat([shares for shares, _ in found]), sinkhorn_knopp(make_hidden(), 0.2, 3))
    center = moved_center(torch.ones(8), make_hidden(), PROTOTYPES, 0.9)
    for _, got in found:
        torch.testing.assert_close(got, center)


def _rank(rank: int, first: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    part = make_hidden()[:first] if rank == 0 else make_hidden()[first:]
    center = moved_center(torch.ones(8), part, PROTOTYPES, 0.9)
    torch.save((sinkhorn_knopp(part, 0.2, 3), center), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_center_is_a_mean_of_logits_and_takes_itself_out() -> None:
    hidden = make_hidden()
    center = moved_center(torch.zeros(8), hidden, PROTOTYPES, 0.0)
    torch.testing.assert_close(center, (hidden @ PROTOTYPES.T).mean(dim=0))
    shares = centered(hidden, PROTOTYPES, center).rows()
    torch.testing.assert_close(shares, (hidden @ PROTOTYPES.T - center).softmax(dim=1))
    torch.testing.assert_close(moved_center(center, hidden[:0], PROTOTYPES, 0.5), center)
