"""A grid covers its block once, in the order that FORMAT.md gives."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachegen.kernels.layout import Grid

SIZES = st.integers(0, 40)
STEPS = st.integers(1, 50)


@given(rows=SIZES, groups=SIZES, rows_each=STEPS, groups_each=STEPS)
def test_rectangles_cover_the_block_once(rows, groups, rows_each, groups_each):
    grid = Grid(rows, groups, rows_each, groups_each)
    owners = np.full((rows, groups), -1)
    for index, part in enumerate(grid.rectangles()):
        area = owners[part.row : part.row_end, part.group : part.group_end]
        assert area.size and (area == -1).all()
        area[:] = index
    assert (owners >= 0).all()
    assert grid.num_substreams == owners.max(initial=-1) + 1


def test_the_row_part_is_outermost():
    corners = [(part.row, part.group) for part in Grid(5, 3, 2, 2).rectangles()]
    assert corners == [(0, 0), (0, 2), (2, 0), (2, 2), (4, 0), (4, 2)]
