"""The report page: written by the stage, without scripts or addresses, and safe from names that are markup."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from franca.benchmarks import BENCHMARKS
from franca.data.store.prepared import SPLITS, SplitName, Store
from franca.evaluation.comparison import Evidence
from franca.evaluation.features import FeatureSet, SplitFeatures
from franca.evaluation.report_page.examples import Examples, find_examples
from franca.evaluation.report_page.page import FILE, write_report
from franca.params import ResolvedParams

HOSTILE = '</style><script>alert("1")</script>'


class Elements(HTMLParser):
    """Collects tags and the values of attributes that load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def results(**changes: Any) -> dict[str, Any]:
    """A row for each benchmark of the registry, levels and their controls at three widths."""
    rows, differences = [], []
    for benchmark in BENCHMARKS:
        metrics = [benchmark.metric] if benchmark.metric else ["top1_8", "top1_16", "top1_32"]
        for model in ("franca", "random_init"):
            for number, metric in enumerate(metrics):
                about = {"benchmark": benchmark.name, "split": "test", "metric": metric}
                value = {"value": 50.0 + number, "low": 48.0, "high": 53.0}
                rows.append({"model": model} | about | value | {"n": 1234})
                if model != "franca" and benchmark.metric:
                    differences.append(
                        {"against": model} | about | {"value": 2.0, "low": 1.0, "high": 3.0, "paired": True}
                    )
    suite = {"protocol": 2, "bootstrap_samples": 100, "confidence": 0.95}
    return {"suite": suite, "skipped": {}, "rows": rows, "differences": differences} | changes


def draw(folder: Path, content: dict[str, Any], examples: Examples | None = None, data: str = "photos") -> str:
    write_report(folder, Evidence(content), examples, data, {"model": "abc"})
    return (folder / FILE).read_text()


@pytest.fixture
def features() -> FeatureSet:
    """Features of the store's images: the class, one image in five of which looks like another class."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int, wrong: bool) -> SplitFeatures:
        labels = torch.arange(count) % 3
        seen = torch.where(wrong & (torch.arange(count) % 5 == 4), (labels + 1) % 3, labels)
        pooled = torch.nn.functional.one_hot(seen, 3) + 0.05 * torch.rand(count, 3, generator=generator)
        return SplitFeatures(pooled, labels, torch.empty(count, 0, 0, 3))

    counts: dict[SplitName, int] = {"train": 24, "val": 9, "test": 12}
    return FeatureSet([HOSTILE, "a\u202eb", "plain"], {name: split(n, name != "train") for name, n in counts.items()})


@pytest.fixture
def params(tiny_params: Callable[..., ResolvedParams]) -> ResolvedParams:
    return tiny_params({"evaluate.knn_k": 5, "evaluate.sample_images": 4})


def test_any_benchmark_of_the_registry_has_its_scores_on_the_page(tmp_path: Path) -> None:
    page = draw(tmp_path, results())
    for benchmark in BENCHMARKS:
        assert f"<td>{benchmark.name}</td>" in page
        if benchmark.metric:
            assert f"<h3>{html.escape(benchmark.title)}<span>" in page
    assert page.count('<svg class="curve"') == sum(benchmark.name.endswith("_levels") for benchmark in BENCHMARKS)
    assert "1,234 test images; less is better" in page


def test_a_benchmark_that_this_version_does_not_know_is_listed(tmp_path: Path) -> None:
    content = results()
    row = {"model": "franca", "benchmark": "new_one", "split": "val", "metric": "score", "n": 3}
    content["rows"].append(row | {"value": 7.0, "low": 6.0, "high": 8.0})
    assert "<td>new_one</td>" in draw(tmp_path, content)


def test_it_needs_neither_scripts_nor_a_network(
    tmp_path: Path, features: FeatureSet, params: ResolvedParams, make_store: Callable[..., Store]
) -> None:
    examples = find_examples(features, make_store(tmp_path / "store"), params)
    elements = parsed(draw(tmp_path, results(), examples))
    assert not {"script", "link", "iframe", "object", "a"} & set(elements.tags)
    assert elements.loaded and all(value.startswith("data:image/jpeg;base64,") for value in elements.loaded)
    style = re.search("<style>(.*?)</style>", (tmp_path / FILE).read_text(), re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]


def test_names_that_are_markup_are_shown_as_text(
    tmp_path: Path, features: FeatureSet, params: ResolvedParams, make_store: Callable[..., Store]
) -> None:
    content = results(skipped={HOSTILE: HOSTILE})
    for row in [*content["rows"]]:
        if row["model"] == "random_init":
            content["rows"].append(row | {"model": HOSTILE})
    content["differences"] += [row | {"against": HOSTILE} for row in content["differences"]]
    page = draw(tmp_path, content, find_examples(features, make_store(tmp_path / "store"), params), HOSTILE)
    assert "script" not in parsed(page).tags and page.count("</style>") == 1
    assert "&lt;script&gt;" in page and "\u202e" not in page


def test_examples_are_of_val_and_the_most_confident_errors_come_first(
    tmp_path: Path, features: FeatureSet, params: ResolvedParams, make_store: Callable[..., Store]
) -> None:
    found = find_examples(features, make_store(tmp_path), params)
    assert found is not None and found.split == "val" and found.n == 9
    assert len(found.queries) == 4 and all(len(query.neighbors) == 5 for query in found.queries)
    assert [query.image.right for query in found.errors] == [False]
    assert found.errors[0].predicted != found.errors[0].image.label
    assert {image.right for image in found.errors[0].neighbors} == {False}
    counts = np.array(found.counts)
    assert counts.sum() == 9 and counts.trace() == 8
    assert find_examples(features, Store(tmp_path), params) == found


def test_images_without_labels_have_neighbors_only(
    tmp_path: Path, features: FeatureSet, params: ResolvedParams, make_store: Callable[..., Store]
) -> None:
    splits = {
        name: replace(features.splits[name], labels=torch.full_like(features.splits[name].labels, -1))
        for name in SPLITS
    }
    found = find_examples(FeatureSet([], splits), make_store(tmp_path / "store", labeled=()), params)
    assert found is not None and len(found.queries) == 4 and not found.errors and not found.counts
    assert found.queries[0].image.right is None and found.queries[0].neighbors[0].label is None
    page = draw(tmp_path, results(), found)
    assert "Nearest neighbors" in page and "Confusions" not in page and "Most confident errors" not in page


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    assert draw(tmp_path / "one", results()) == draw(tmp_path / "two", results())


def test_results_without_any_score_make_a_page(tmp_path: Path) -> None:
    page = draw(tmp_path, results(rows=[], differences=[], skipped={"knn": "the train images have no labels"}))
    assert "There is nothing to judge this model by" in page and "the train images have no labels" in page
