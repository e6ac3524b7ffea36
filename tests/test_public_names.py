"""What `storage_lib` itself offers, so that nobody has to guess a module."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

import storage_lib
from storage_lib import errors

pytestmark = pytest.mark.filterwarnings("error")


def _subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _subclasses(each)


@pytest.mark.parametrize("name", storage_lib.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(storage_lib, name).__name__ == name
    assert name in dir(storage_lib)


def test_every_error_of_the_library_is_public() -> None:
    ours = {each.__name__ for each in _subclasses(errors.StorageError) if each.__module__ == errors.__name__}
    assert ours <= set(storage_lib.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        storage_lib.Nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_names_are_imported_when_they_are_used() -> None:
    loaded = "import sys, storage_lib; print(sorted(n for n in sys.modules if n.startswith('storage_lib')))"
    found = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "['storage_lib']"
