"""All layers on S3: the whole contract of objects, in a soak. Otherwise it is run on memory, files and Azure,
and tests/test_late_metadata.py tells what differs on S3."""

from __future__ import annotations

import pytest

from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.ports.backend import ObjectStore
from tests import test_s3_backend as s3
from tests.effort import SOAK
from tests.layer_stacks import FULL, stacked

server = s3.server
backend = s3.backend
lasting = s3.lasting
raw = s3.raw

if SOAK:

    class TestObjects(s3.TestS3Objects):
        @pytest.fixture
        def objects(self, backend: S3StorageBackend) -> ObjectStore:
            return stacked(backend, FULL).objects
