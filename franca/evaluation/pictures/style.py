"""Names and colors of models and classes in pictures."""

from franca.benchmarks import MODELS

COMPARATOR_COLORS = ("#6a994e", "#bc4749", "#9a6fb0", "#2a9d8f", "#c98bb9", "#577590")
CLASS_COLORS = ("#d1495b", "#e9c46a", "#6c757d", "#5a9367", "#2e86ab", "#8e5572", "#f4a261", "#264653", "#b5c99a")
UNLABELED = "#ffffff"
_MODELS = {model.name: (model.label, model.color) for model in MODELS}


def style(model: str) -> tuple[str, str]:
    """Return the label and the color of a model; a comparator has its name and a color that depends only on it."""
    color = COMPARATOR_COLORS[sum(model.encode()) % len(COMPARATOR_COLORS)]
    return _MODELS.get(model, (model, color))


def rgb(color: str) -> list[float]:
    """Return red, green and blue in 0..1 of a color such as "#d1495b"."""
    return [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
