"""What a loader keeps of a chunk that is longer than what was wanted of it."""

from cachegen.store import open_store


def test_a_slice_does_not_keep_its_chunk_alive(toy) -> None:
    store = open_store("memory:")
    toy.save(list(range(120)), store, profile=toy.profile)
    kv = toy.load([*range(64), 7, 7, 7], store, level="high").kv
    assert kv.num_tokens == 64
    held = {plane.untyped_storage().data_ptr(): plane.untyped_storage() for plane in kv.planes()}
    assert sum(storage.nbytes() for storage in held.values()) == kv.size_bytes
