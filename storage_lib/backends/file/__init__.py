"""The file backend: a folder on this machine."""

from storage_lib.backends.file.backend import FileStorageBackend

__all__ = ["FileStorageBackend"]
