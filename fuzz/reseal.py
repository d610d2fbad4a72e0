"""Make the sizes and checksums of a mutated chunk right again, so that readers look further."""

from __future__ import annotations

import math
import struct

import xxhash

FIXED_SIZE = 144
RUN_SIZE = 24
ENTRY = struct.Struct("<BBBBIIIQ")
ITEM_SIZES = (1, 1, 2, 2, 4, 4, 4, 8)


def reseal(data: bytes) -> bytes:
    """The same bytes with `chunk_size`, the arrays' and the header's checksums recomputed."""
    if len(data) < FIXED_SIZE:
        return data
    chunk = bytearray(data)
    header_size, num_arrays = struct.unpack_from("<II", chunk, 8)
    num_runs, level_size = struct.unpack_from("<HH", chunk, 44)
    struct.pack_into("<Q", chunk, 16, len(chunk))
    table = FIXED_SIZE + RUN_SIZE * num_runs + level_size
    offset = header_size
    stop = min(table + ENTRY.size * num_arrays, header_size, len(chunk)) - ENTRY.size
    for place in range(table, stop + 1, ENTRY.size):
        offset = _reseal_array(chunk, place, offset)
    header = bytearray(chunk[:header_size])
    header[24:32] = bytes(8)
    struct.pack_into("<Q", chunk, 24, xxhash.xxh3_64_intdigest(bytes(header)))
    return bytes(chunk)


def _reseal_array(chunk: bytearray, place: int, offset: int) -> int:
    """Seal the array of one table entry; the offset of the next one."""
    *_, kind, ndim, rows, columns, _, _ = ENTRY.unpack_from(chunk, place)
    size = math.prod((rows, columns)[: ndim or 1]) * ITEM_SIZES[kind % len(ITEM_SIZES)]
    stop = offset + size + -size % 8
    checksum = xxhash.xxh3_64_intdigest(bytes(chunk[offset:stop]))
    struct.pack_into("<Q", chunk, place + 16, checksum)
    return stop
