"""What `import cachegen` offers is what `__all__` says, and no more."""

from importlib.metadata import version

import cachegen


def test_every_listed_name_exists_and_the_list_is_sorted() -> None:
    assert cachegen.__all__ == sorted(cachegen.__all__)
    for name in cachegen.__all__:
        assert getattr(cachegen, name).__doc__, name


def test_the_public_surface_stays_small() -> None:
    assert len(cachegen.__all__) <= 40


def test_authors_of_policies_and_stores_find_what_they_need() -> None:
    needed = {"Controller", "Decision", "LoadState", "ChunkState", "Option", "Costs", "Store"}
    assert needed | {"MinTTFT", "Fixed", "Algorithm1"} <= set(cachegen.__all__)


def test_the_errors_form_one_family() -> None:
    errors = [getattr(cachegen, name) for name in cachegen.__all__]
    errors = [e for e in errors if isinstance(e, type) and issubclass(e, Exception)]
    assert len(errors) == 11
    assert all(issubclass(error, cachegen.CacheGenError) for error in errors)


def test_the_version_is_that_of_the_package() -> None:
    assert cachegen.__version__ == version("cachegen")
