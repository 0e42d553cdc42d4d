"""A study's figure: accuracy by the number of dimensions, a panel a group and probe."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from franca.files import write_bytes
from franca.study.statistics import mean

if TYPE_CHECKING:
    from franca.study.page import Group

STYLES = {"levels": "-", "random_dims": ":", "components": "--"}
PARTS = "solid: first D dimensions, dashed: D principal components, dotted: D random dimensions"


def draw(title: str, groups: "list[Group]", path: Path) -> None:
    """Write an SVG whose bytes depend on the content alone."""
    probes = {"knn": "k-NN", "linear": "linear probe"}
    with matplotlib.rc_context({"svg.hashsalt": "franca", "font.size": 9}):
        figure = Figure(figsize=(9, 3.4 * len(groups) + 0.5), layout="constrained")
        axes = figure.subplots(len(groups), len(probes), squeeze=False)
        for row, group in zip(axes, groups, strict=True):
            for (probe, name), plot in zip(probes.items(), row, strict=True):
                columns = [column for column in group.columns if column.probe == probe]
                widths = [column.width for column in columns]
                for number, (option, cells) in enumerate(group.cells.items()):
                    for part, style in STYLES.items():
                        scores = {column.width: list(column.scores(cells, part).values()) for column in columns}
                        means = {width: mean(values) for width, values in scores.items() if values}
                        # Options side by side, or their bars would lie on each other.
                        shift = 1.03 ** (number - (len(group.cells) - 1) / 2)
                        errors = [0.0 if math.isnan(m.half) else m.half for m in means.values()]
                        plot.errorbar(
                            [width * shift for width in means],
                            [m.value for m in means.values()],
                            yerr=errors if part == "levels" else None,
                            fmt=style,
                            marker="o" if part == "levels" else None,
                            markersize=3,
                            capsize=2,
                            linewidth=1.4 if part == "levels" else 0.8,
                            color=f"C{number}",
                            label=option if part == "levels" else None,
                        )
                plot.set_xscale("log", base=2)
                plot.set_xticks(widths, [str(width) for width in widths])
                plot.set_title(f"{group.title}: {name}")
                plot.set_xlabel("dimensions D")
                plot.set_ylabel("accuracy on test, %")
                plot.grid(alpha=0.3)
        axes[0][0].legend(title=title, fontsize=8)
        figure.supxlabel(PARTS, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    write_bytes(path, buffer.getvalue())
