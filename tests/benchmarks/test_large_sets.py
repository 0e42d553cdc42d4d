"""The benchmark of large sets, on small ones."""

import pytest

from benchmarks import large_sets
from benchmarks.memory import anonymous, resident


@pytest.mark.parametrize("name", large_sets.PARTS)
def test_a_part_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, value in {"CLASSES": 5, "WIDTH": 16, "MEASURED_QUERIES": 20, "RASA_IMAGES": 30, "GRID": 2}.items():
        monkeypatch.setattr(large_sets, size, value)
    about, seconds, of_all = large_sets.PARTS[name](100)
    assert 0 < seconds <= of_all
    assert {"k-NN": "20 of 50,000", "linear probe": "1 of about 65", "RASA": "30 images"}[name] in about


def test_mapped_files_are_no_anonymous_memory() -> None:
    assert 0 < anonymous() < resident() <= resident(peak=True)
