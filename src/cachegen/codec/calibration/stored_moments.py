"""Moments of a calibration under way as arrays of a checkpoint, and back."""

from __future__ import annotations

import numpy as np
import torch

from cachegen.codec.calibration.checkpoint import Saved
from cachegen.codec.calibration.moments import Moments
from cachegen.codec.calibration.sample import Position
from cachegen.kvcache import DTYPES, Geometry, PlaneShape

_DTYPES = {str(dtype): dtype for dtype in DTYPES}
_OF_GROUPS = ("x", "xx", "fx", "gg")


def moments_to_saved(moments: Moments, position: Position) -> Saved:
    """What a checkpoint keeps once the samples up to a position are summed."""
    arrays = {"f": moments.f.numpy(), "ff": moments.ff.numpy()}
    for name in _OF_GROUPS:
        for index, one in enumerate(getattr(moments, name)):
            arrays[f"{name}.{index}"] = one.numpy()
    state = {
        "num_tokens": moments.num_tokens,
        "num_following": moments.num_following,
        "geometry": geometry_to_json(moments.geometry),
        "position": position_to_json(position),
    }
    return Saved(arrays, state)


def moments_from_saved(saved: Saved) -> tuple[Moments, Position]:
    """The inverse of `moments_to_saved`."""
    position = position_from_json(saved.state["position"])

    def of_groups(name: str) -> list[torch.Tensor]:
        count = sum(key.startswith(f"{name}.") for key in saved.arrays)
        return [_tensor(saved.arrays[f"{name}.{index}"]) for index in range(count)]

    moments = Moments(
        geometry=geometry_from_json(saved.state["geometry"]),
        num_samples=position.count,
        num_tokens=saved.state["num_tokens"],
        num_following=saved.state["num_following"],
        f=_tensor(saved.arrays["f"]),
        ff=_tensor(saved.arrays["ff"]),
        x=of_groups("x"),
        xx=of_groups("xx"),
        fx=of_groups("fx"),
        gg=of_groups("gg"),
    )
    return moments, position


def position_to_json(position: Position) -> list[int | str]:
    """A position among the samples for a checkpoint's state."""
    return [position.count, position.state.hex()]


def position_from_json(described: list[int | str]) -> Position:
    """The inverse of `position_to_json`."""
    count, state = described
    return Position(int(count), bytes.fromhex(str(state)))


def geometry_to_json(geometry: Geometry) -> dict[str, object]:
    """A geometry for a checkpoint's state."""
    planes = [[plane.heads, plane.dim] for plane in geometry.planes]
    return {"dtype": str(geometry.dtype), "planes": planes}


def geometry_from_json(described: dict[str, object]) -> Geometry:
    """The inverse of `geometry_to_json`."""
    planes = described["planes"]
    assert isinstance(planes, list)
    shapes = tuple(PlaneShape(heads, dim) for heads, dim in planes)
    return Geometry(shapes, _DTYPES[str(described["dtype"])])


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())
