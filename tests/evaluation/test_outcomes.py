from pathlib import Path

import numpy as np
import pytest

from franca.evaluation.outcomes import Outcome, images_digest, read_outcomes, write_outcomes

KEY = ("franca", "knn", "val", "top1")


def test_outcomes_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = {
        KEY: Outcome("hits", rng.random(1003) < 0.5, "a", 1003),
        ("random_init", "segmentation", "val", "miou"): Outcome("sums", rng.integers(0, 9, (7, 2, 3)) * 1.0, "b", 7),
        ("a name", "position", "test", "r2"): Outcome("sums", rng.random((5, 2, 2)), "c", 5),
        ("franca", "rank", "val", "rankme"): Outcome("replicates", rng.random(50), "d", 20),
    }
    for name in ("one", "two"):
        write_outcomes(tmp_path / name, dict(reversed(outcomes.items())) if name == "two" else outcomes, "model")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_outcomes(tmp_path / "one", "another model") == {}
    found = read_outcomes(tmp_path / "one", "model")
    assert found.keys() == outcomes.keys()
    for key, outcome in outcomes.items():
        assert found[key][2:] == outcome[2:] and found[key].kind == outcome.kind
        np.testing.assert_array_equal(found[key].values, outcome.values)


def test_a_hit_takes_a_bit(tmp_path: Path) -> None:
    write_outcomes(
        tmp_path / "file", {KEY: Outcome("hits", np.random.default_rng(0).random(80000) < 0.5, "a", 80000)}, "model"
    )
    assert (tmp_path / "file").stat().st_size < 11000


@pytest.mark.parametrize("content", [None, b"", b"PK\x05\x06" + bytes(18), b"no archive"])
def test_without_a_readable_file_there_are_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert read_outcomes(tmp_path / "file", "model") == {}


def test_a_damaged_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_outcomes(path, {KEY: Outcome("hits", np.random.default_rng(0).random(999) < 0.5, "a", 999)}, "model")
    content = bytearray(path.read_bytes())
    for place in range(40, len(content), 7):
        damaged = content.copy()
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        found = read_outcomes(path, "model")
        assert not found or found[KEY].n == 999


def test_lists_of_images_have_their_own_digests() -> None:
    rows = np.arange(20)
    digests = {
        images_digest("store", "val", rows),
        images_digest("store", "val", rows, dense=True),
        images_digest("store", "test", rows),
        images_digest("store", "val", rows[1:]),
        images_digest("other", "val", rows),
    }
    assert len(digests) == 5
    assert images_digest("store", "val", rows.astype(np.int32)) == images_digest("store", "val", rows)
