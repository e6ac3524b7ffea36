"""fsspec: `AgentStorageFileSystem`, by which pandas, DuckDB, zarr, Dask and Hugging Face read and write the
objects of a store as files, ``agentstorage://KEY``.

    frame.to_csv("agentstorage://runs/1.csv", storage_options={"storage": "file:./data"})
    fs = fsspec.filesystem("agentstorage", storage="azure://account/container")
    fs.glob("runs/*.csv")

``storage`` is a URL of `storage_lib.config_of`, a `StorageConfig`, an open `StorageManager` (with
``asynchronous=True``, as it belongs to its event loop), or nothing: the store of the environment.

A path is a key. A folder is a prefix with objects below it: it is there while they are, so `mkdir` makes
none and needs none. A file appears as a whole when it is closed, and not at all if it never is, or if the
block of ``fs.open`` raises (``fsspec.open``, pandas and pyarrow close it even then); one that is being
read is of one version. What writes also takes ``content_type``, ``metadata``, ``headers`` and ``ttl``, as
`StorageManager.save` does.
"""

from integrations.fsspec.filesystem import AgentStorageFile, AgentStorageFileSystem

__all__ = ["AgentStorageFile", "AgentStorageFileSystem"]
