import pytest

from cachegen.bitstream.manifest import ChunkEntry, Manifest, StoredObject, object_key
from cachegen.simulation.stored import context_from

CHUNK_ID = bytes(range(32))


def manifest_of(*levels: str) -> Manifest:
    objects = tuple(
        StoredObject(
            level,
            object_key(CHUNK_ID, start=0, stop=100, level=level),
            size_bytes=1_000 + number,
            sha256=bytes(32),
        )
        for number, level in enumerate(levels)
    )
    return Manifest(CHUNK_ID, bytes(32), 100, True, (ChunkEntry(CHUNK_ID, 0, 100, objects),))


def test_sizes_and_order_of_levels():
    context = context_from(manifest_of("lossless", "low", "highest"), default_level="highest")
    (chunk,) = context.chunks
    assert [(o.level, o.size_bytes) for o in chunk.options] == [
        ("low", 1_001),
        ("highest", 1_002),
        ("lossless", 1_000),
    ]
    assert context.default_rank == chunk.options[1].rank
    assert context.num_tokens == 100


def test_without_a_profile_the_default_is_exact():
    context = context_from(manifest_of("low", "lossless"))
    assert context.default_rank == context.chunks[0].options[1].rank


def test_a_default_that_is_no_level_is_refused():
    with pytest.raises(ValueError, match="expected a level of the ladder as default, got 'best'"):
        context_from(manifest_of("low"), default_level="best")
