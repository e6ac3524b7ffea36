"""Hugging Face datasets, and pandas with Parquet, read and write through the adapter of fsspec."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

# Offline it reads from no file system but that of this machine; so there is just no hub to ask.
os.environ |= {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}

import datasets
import pandas
from pyarrow import parquet

from integrations.fsspec import AgentStorageFileSystem
from storage_lib import StorageConfig


@pytest.fixture(params=["file", "azurite"])
def options(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The ``storage_options`` of a new store."""
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "agentstorage", AgentStorageFileSystem)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    if request.param == "file":
        return {"storage": f"file:{tmp_path}/data"}
    connection = request.getfixturevalue("azurite").connection_string
    container = f"datasets-{uuid.uuid4().hex[:12]}"
    return {"storage": StorageConfig(storage_type="azure", connection_string=connection, container=container)}


def test_a_dataset_is_saved_and_loaded(options: dict[str, Any]) -> None:
    rows = datasets.Dataset.from_dict({"n": list(range(1000)), "text": [f"row {n} ü" for n in range(1000)]})
    rows.save_to_disk("agentstorage://sets/rows", storage_options=options, num_shards=3)
    fs = AgentStorageFileSystem(**options)
    assert len(fs.glob("sets/rows/*.arrow")) == 3
    back = datasets.load_from_disk("agentstorage://sets/rows", storage_options=options)
    assert back[:] == rows[:]
    both = datasets.DatasetDict({"train": rows.select(range(10)), "test": rows.select(range(5))})
    both.save_to_disk("agentstorage://sets/both", storage_options=options)
    again = datasets.load_from_disk("agentstorage://sets/both", storage_options=options)
    assert {name: split.num_rows for name, split in again.items()} == {"train": 10, "test": 5}
    with pytest.raises(FileNotFoundError):
        datasets.load_from_disk("agentstorage://sets/nothing", storage_options=options)


def test_files_are_loaded_and_written_as_a_dataset(options: dict[str, Any], tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"n": list(range(100)), "text": ["x"] * 100})
    rows.to_parquet("agentstorage://files/a.parquet", storage_options=options)
    rows.to_csv("agentstorage://files/a.csv", index=False, storage_options=options)
    rows.to_json("agentstorage://files/a.jsonl", storage_options=options)
    for builder, name in (("parquet", "a.parquet"), ("csv", "a.csv"), ("json", "a.jsonl")):
        back = datasets.load_dataset(
            builder,
            data_files=f"agentstorage://files/{name}",
            storage_options=options,
            cache_dir=str(tmp_path / "cache"),
            split="train",
        )
        assert back["n"][:] == list(range(100)), name
    streamed = datasets.load_dataset(
        "parquet",
        data_files="agentstorage://files/*.parquet",
        storage_options=options,
        streaming=True,
        split="train",
    )
    assert sum(row["n"] for row in streamed) == sum(range(100))


def test_parquet_of_pandas_and_of_pyarrow(options: dict[str, Any]) -> None:
    frame = pandas.DataFrame({"a": range(1000), "part": [n % 3 for n in range(1000)]})
    frame.to_parquet("agentstorage://frames/one.parquet", storage_options=options)
    back = pandas.read_parquet("agentstorage://frames/one.parquet", columns=["a"], storage_options=options)
    assert back["a"].sum() == frame["a"].sum()
    frame.to_parquet("agentstorage://frames/parts", partition_cols=["part"], storage_options=options)
    fs = AgentStorageFileSystem(**options)
    assert len(fs.glob("frames/parts/part=*/*.parquet")) == 3
    table = parquet.read_table("frames/parts", filesystem=fs, filters=[("part", "=", 1)])
    assert table.num_rows == 333
