"""The backend that keeps everything in a folder."""

from storage_lib.backends.file import FileStorageBackend

__all__ = ["FileStorageBackend"]
