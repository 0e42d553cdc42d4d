"""The page of `benchmarks.quality`: a table for each data set and training time."""

from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from franca.files import write_bytes
from franca.study.statistics import Mean, mean, paired

PAGE = Path(__file__).with_name("QUALITY.md")
REFERENCE = "SimCLR (lightly)"
INTRODUCTION = """# Accuracy after equal time

Weighted k-NN (k = 20) on class tokens, top-1 in percent, of models that were trained for the same number of minutes on
one core. All methods train the same ViT on the same crops, with the same batches, optimizer and schedules. The number
of steps is the time divided by the time of a step, which was measured for all methods in turns. Means over seeds with
95 % intervals by Student's t; differences are paired by seed. Written by `python -m benchmarks.quality`.
"""

Record = dict[str, Any]


def write_page(records: list[Record]) -> None:
    """Write the page of all records."""
    text = INTRODUCTION
    for (data, minutes, _), own in groupby(sorted(records, key=_group), _group):
        text += f"\n## {data}, {minutes:g} minutes\n{_section(list(own))}\n"
    write_bytes(PAGE, text.encode())


def _group(record: Record) -> tuple[str, float, str]:
    return record["data"], record["minutes"], record["images"] + record["params"]


def _section(records: list[Record]) -> str:
    seconds: dict[str, float] = {}
    cells: dict[str, list[Record]] = {}
    about = ""
    for record in records:
        if "seconds" in record:
            seconds, about = record["seconds"], f"\nSteps timed on {record['machine']}.\n"
        else:
            cells.setdefault(record["method"], []).append(record)
    reference = _by_seed(cells.get(REFERENCE, []), "test")
    rows = []
    for name, own in cells.items():
        test = _by_seed(own, "test")
        difference = paired(test, reference) if name in seconds and name != REFERENCE else None
        rows.append(
            {
                "method": name,
                "ms a step": f"{1000 * seconds[name]:.0f}" if name in seconds else "",
                "steps": own[0]["steps"] or "",
                "seeds": len(own) if name in seconds else "",
                "val": _mean(_by_seed(own, "val")),
                "test": _mean(test),
                f"test, minus {REFERENCE}": _text(difference, signed=True) if difference else "",
            }
        )
    return about + table(rows)


def _by_seed(records: list[Record], split: str) -> dict[int, float]:
    return {record["seed"]: record["scores"][split] for record in records if split in record["scores"]}


def _mean(by_seed: dict[int, float]) -> str:
    return _text(mean(list(by_seed.values()))) if by_seed else ""


def _text(value: Mean, signed: bool = False) -> str:
    number = f"{value.value:+.1f}" if signed else f"{value.value:.1f}"
    return number if value.n < 2 else f"{number} ± {value.half:.1f}"
