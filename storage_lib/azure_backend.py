"""The backend for an Azure storage account."""

from storage_lib.backends.azure import AzureStorageBackend

__all__ = ["AzureStorageBackend"]
