"""The generated images of benchmarks.decoding decode to the pixels that were put in."""

import numpy as np
import pytest

from benchmarks.decoding.cases import all_cases
from franca.data.store.images.decode import decode, refusal


@pytest.mark.slow
def test_every_generated_image_is_right_or_refused() -> None:
    count = 0
    for case in all_cases():
        where = f"{case.format}, {case.kind}"
        try:
            found = np.asarray(decode(case.content))
        except Exception as error:
            assert case.pixels is None, f"{where}: {refusal(error)}"
        else:
            assert case.pixels is not None, where
            assert found.shape == case.pixels.shape, where
            assert np.abs(found.astype(int) - case.pixels).max() <= case.tolerance, where
        count += 1
    assert count > 1000
