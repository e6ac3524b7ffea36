"""All layers on S3: the whole contract of objects."""

from __future__ import annotations

import pytest

from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.ports.backend import ObjectStore
from tests import test_s3_backend as s3
from tests.layer_stacks import FULL, stacked
from tests.s3_servers import S3Server

backend = s3.backend
lasting = s3.lasting
raw = s3.raw


@pytest.fixture(scope="module")
def server(moto: S3Server) -> S3Server:
    return moto


class TestObjects(s3.TestS3Objects):
    @pytest.fixture
    def objects(self, backend: S3StorageBackend) -> ObjectStore:
        return stacked(backend, FULL).objects
