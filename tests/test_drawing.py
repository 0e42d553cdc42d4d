from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from franca.drawing import PrincipalColors, save_figure


def test_components_by_their_spread_become_red_green_and_blue() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    spread = torch.tensor([9.0, 5, 3, 1, 0.1, 0.1, 0.1, 0.1])
    tokens = torch.rand(4000, 8, generator=generator) * spread @ axes.T + 7
    colors = PrincipalColors.fit(tokens)
    torch.testing.assert_close((colors.axes.T @ axes.double())[:, :3].abs(), torch.eye(3).double(), atol=0.1, rtol=0)
    # The middle is gray, and one step along an axis moves one color alone, as its share of what is shown.
    middle = colors.center.view(1, 1, 8)
    np.testing.assert_allclose(colors(middle), 0.5, atol=0.02)
    for channel in range(3):
        moved = colors(middle + 0.2 * spread[channel] * colors.axes[:, channel]) - colors(middle)
        np.testing.assert_allclose(moved[0, 0], np.eye(3)[channel] * 0.2 / 0.98, atol=0.02)


def test_maps_colored_together_compare() -> None:
    first, second = torch.randn(4, 5, 16), torch.randn(3, 2, 16)
    colors = PrincipalColors.fit(torch.cat([first.flatten(0, 1), second.flatten(0, 1)]))
    second[1, 1] = first[2, 3]
    assert colors(first).shape == (4, 5, 3) and colors(second).shape == (3, 2, 3)
    np.testing.assert_array_equal(colors(first)[2, 3], colors(second)[1, 1])
    assert colors(first).min() >= 0 and colors(first).max() <= 1


def test_features_all_alike_have_a_color() -> None:
    assert np.isfinite(PrincipalColors.fit(torch.ones(6, 16))(torch.ones(2, 3, 16))).all()


def test_a_figure_is_the_same_file_every_time(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([1, 2])
        save_figure(figure, tmp_path / "new" / name)
    assert (tmp_path / "new/one.png").read_bytes() == (tmp_path / "new/two.png").read_bytes()
    with Image.open(tmp_path / "new/one.png") as picture:
        assert picture.size == (300, 150) and "Software" not in picture.info
