"""The app itself as a store. Importing this imports no vendor package."""

from storage_lib.backends.http.backend import HttpStorageBackend

__all__ = ["HttpStorageBackend"]
