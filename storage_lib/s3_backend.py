"""The backend for a bucket of S3."""

from storage_lib.backends.s3 import S3StorageBackend

__all__ = ["S3StorageBackend"]
