"""Objects on Amazon S3 and on servers that speak its language."""

from storage_lib.backends.s3.backend import S3StorageBackend

__all__ = ["S3StorageBackend"]
