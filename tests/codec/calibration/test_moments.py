"""Sums that learning begins with."""

import pytest
import torch

from cachegen.codec.calibration.moments import squares


@pytest.mark.parametrize("columns", (1, 3, 4, 5, 130))
def test_squares_are_the_product_with_itself(columns):
    rows = torch.randn(50, columns, generator=torch.Generator().manual_seed(columns))
    torch.testing.assert_close(squares(rows), rows.T @ rows)
