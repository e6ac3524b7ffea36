"""Which numpy types come back, and that the others are refused: alone, nested, as scalars, in models."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from storage_lib import values
from storage_lib.errors import SerializationError


@dataclass
class Holder:
    __pydantic_config__ = {"arbitrary_types_allowed": True}  # noqa: RUF012
    array: Any


def rational() -> Any:
    """A type of numpy's own tests, made as those of ml_dtypes (bfloat16) are: outside of numpy's own."""
    return importlib.import_module("numpy._core._rational_tests").rational


def refused_arrays() -> dict[str, Any]:
    record = np.dtype((np.record, [("a", "i4"), ("b", "f8")]))
    return {
        "a type of another package": np.array([1, 2], dtype=rational()),
        "a field of such a type": np.zeros(2, [("a", "i4"), ("r", rational())]),
        "records": np.zeros(2, record),
        "records in a structure": np.zeros(2, [("outer", record)]),
        "records in a sub-array": np.zeros(2, [("outer", record, (2,))]),
        "metadata": np.zeros(2, np.dtype("f8", metadata={"unit": "m"})),
        "metadata in a structure": np.zeros(2, [("a", np.dtype("f8", metadata={"unit": "m"}))]),
        "texts of any length": np.array(["a", "long" * 9], dtype=np.dtypes.StringDType()),
        "objects": np.array([None]),
        "objects in a structure": np.zeros(1, [("a", "O")]),
        "fields that overlap": np.zeros(
            1, np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 0]})
        ),
        "fields out of order": np.zeros(
            1, np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [4, 0]})
        ),
        "more fields than a header holds": np.zeros(1, [(f"a_field_of_many_{n}", "i4") for n in range(600)]),
    }


@pytest.mark.parametrize("name", refused_arrays())
@pytest.mark.parametrize(
    "wrap", [lambda a: a, lambda a: {"x": [a, b""]}, Holder], ids=["alone", "nested", "model"]
)
def test_a_type_that_would_come_back_as_another_is_refused(name: str, wrap: Any) -> None:
    array = refused_arrays()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SerializationError) as refused:
            values.encode(wrap(array))
    if wrap is not Holder:
        assert refused.value.remedy or "header" in str(refused.value)


class Metres(np.float64):
    pass


@pytest.mark.parametrize(
    "value",
    [
        rational()(1, 2),
        np.zeros(1, np.dtype((np.record, [("a", "i4")])))[0],
        Metres(1.5),
        np.longlong(5),
        np.ulonglong(5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_scalar_that_would_come_back_as_another_is_refused(value: Any) -> None:
    for wrapped in (value, {"x": [value]}, (value,), Holder(value)):
        with pytest.raises(SerializationError):
            values.encode(wrapped)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.5),
        np.float16("nan"),
        np.int8(-1),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.complex64(1j),
        np.longdouble(1) / 3,
        np.datetime64("2026-01-01T00:00:00.000000001"),
        np.timedelta64(5, "25us"),
        np.str_("ü"),
        np.bytes_(b"a"),
        np.void(b"abc"),
        np.zeros(1, [("a", "i4"), ("b", "S3")])[0],
        np.zeros(3, "q"),
        np.zeros(3, [("größe", "i4"), ("Ω", "i4")]),
        np.zeros(3, [("a", [("b", "f4", (2,))]), (("title", "c"), "U2")]),
        np.zeros(3, np.dtype([("x", "i1"), ("y", "f8")], align=True)),
        np.zeros((2, 0, 3), ">i2"),
        np.zeros(2, []),
    ],
    ids=lambda value: str(value.dtype),
)
@pytest.mark.filterwarnings("error")
def test_every_other_type_comes_back(value: Any) -> None:
    for wrapped in (value, {"x": [value]}):
        encoded = values.encode(wrapped)
        values.validate(encoded.data, encoded.content_type)
        back = values.decode(encoded.data, encoded.content_type)
        found = back["x"][0] if isinstance(back, dict) else back
        assert type(found) is type(value)
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert found.tobytes() == value.tobytes() or (found == value).all()
