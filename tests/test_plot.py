"""The logo: every letter as tall as its number."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hyena import plot


@pytest.fixture
def ax():
    fig, axes = plot.axes(1)
    yield axes[0]
    plt.close(fig)


def test_letters_stand_in_order_and_are_as_tall_as_their_numbers(ax) -> None:
    heights = np.array([0.5, 2.0, -1.0, 0.25])
    plot.logo(ax, "ACGT", heights)
    boxes = [patch.get_path().get_extents() for patch in ax.patches]
    assert [round((box.x0 + box.x1) / 2) for box in boxes] == [0, 1, 2, 3]
    assert np.allclose([box.y1 + box.y0 for box in boxes], heights)  # one of the two is zero
    assert np.allclose([box.height for box in boxes], abs(heights)) and all(box.width < 1 for box in boxes)
    assert ax.get_ylim()[0] < -1.0 and ax.get_ylim()[1] > 2.0


def test_a_letter_has_its_colour_wherever_it_stands(ax) -> None:
    plot.logo(ax, "ATA", np.ones(3))
    first, second, third = (patch.get_facecolor() for patch in ax.patches)
    assert first == third != second
