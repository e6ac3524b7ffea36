"""Azure Storage as a backend. Importing this imports no vendor package."""

from storage_lib.backends.azure.backend import AzureStorageBackend

__all__ = ["AzureStorageBackend"]
