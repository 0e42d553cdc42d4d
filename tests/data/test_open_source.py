"""A new kind of source is a class, a function that opens it, and an entry in the list of sources."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from franca.data.ingest.prepare import prepare
from franca.data.ingest.sources import open_source
from franca.data.ingest.sources.location import Location
from franca.data.ingest.sources.source import Sample, Source
from franca.errors import FrancaError
from franca.params import Prepare
from tests.data.conftest import Picture


class CsvSource(Source):
    """A CSV file with a path and a class in each line."""

    layout = "CSV"

    def __init__(self, location: Location) -> None:
        self.place = self.title = location.folder.url
        self.ignored = Counter[str]()
        self.bytes_read = 0
        self.rows = list(csv.reader(Path(self.place).read_text().splitlines()))
        self.total_bytes = len(self.rows)

    def __iter__(self) -> Iterator[Sample]:
        for path, class_name in self.rows:
            yield Sample(path, (Path(self.place).parent / path).read_bytes(), class_name)


def open_csv(location: Location) -> CsvSource | None:
    return CsvSource(location) if location.folder.url.endswith(".csv") else None


@pytest.fixture
def table(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(open_source, "SOURCES", (open_csv, *open_source.SOURCES))
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    path = tmp_path / "list.csv"
    path.write_text("".join(f"{i}.png,{'sea' if i % 2 else 'land'}\n" for i in range(20)))
    return path


def test_a_source_with_the_required_members_only(
    tmp_path: Path, table: Path, make_params: Callable[..., Prepare]
) -> None:
    manifest = prepare(make_params(table), tmp_path / "prepared")
    assert (manifest["classes"], manifest["source"]["layout"]) == (["land", "sea"], "CSV")
    assert sum(part["images"] for part in manifest["counts"].values()) == 20
    source = open_source.open_source(table, "")
    assert source.image_count is None
    assert [sample.name for sample in source.subset(2)] == ["0.png", "1.png"]
    with pytest.raises(FrancaError, match=r"in_place is for tars, and .*list.csv holds loose images"):
        prepare(make_params(table, storage="in_place"), tmp_path / "again")


def test_other_sources_are_still_recognized(tmp_path: Path, table: Path) -> None:
    assert open_source.open_source(tmp_path, "").layout == "images"
