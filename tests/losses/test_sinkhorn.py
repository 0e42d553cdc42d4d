import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from franca.losses.sinkhorn import sinkhorn_knopp


def make_logits(samples: int = 12, prototypes: int = 8, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(samples, prototypes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [1.0, 0.04, 0.001])
def test_each_sample_is_shared_out_whole(temperature: float) -> None:
    shares = sinkhorn_knopp(make_logits(scale=5), temperature, 3)
    assert torch.isfinite(shares).all() and (shares >= 0).all()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(12))


def test_prototypes_are_used_alike_once_it_has_converged() -> None:
    shares = sinkhorn_knopp(make_logits(), 0.5, 200)
    torch.testing.assert_close(shares.sum(dim=0), torch.full((8,), 12 / 8), rtol=1e-4, atol=1e-5)


def test_a_prototype_that_all_samples_favor_wins_nothing_by_it() -> None:
    logits = make_logits()
    favored = logits.clone()
    favored[:, 3] += 10
    torch.testing.assert_close(sinkhorn_knopp(favored, 0.1, 3), sinkhorn_knopp(logits, 0.1, 3), rtol=1e-3, atol=1e-5)


def test_half_precision_is_computed_in_single() -> None:
    logits = make_logits().bfloat16()
    shares = sinkhorn_knopp(logits, 0.04, 3)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares, sinkhorn_knopp(logits.float(), 0.04, 3))


def test_no_samples() -> None:
    assert sinkhorn_knopp(torch.empty(0, 8), 0.04, 3).shape == (0, 8)


@pytest.mark.parametrize("first", [6, 9, 12], ids=["even", "uneven", "one without samples"])
def test_two_processes_share_one_batch(tmp_path: Path, first: int) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, first, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    shares = torch.cat([torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)])
    torch.testing.assert_close(shares, sinkhorn_knopp(make_logits(), 0.04, 3))


def _rank(rank: int, first: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    part = make_logits()[:first] if rank == 0 else make_logits()[first:]
    torch.save(sinkhorn_knopp(part, 0.04, 3), folder / f"{rank}.pt")
    dist.destroy_process_group()
