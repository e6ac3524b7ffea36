"""The contract of every backend and every layer, as test classes to subclass.

To test a backend, subclass `ObjectStoreContract`, `QueueStoreContract` and `TableStoreContract` in a
test module of your own, and provide the fixture that each of them names. pytest with asyncio_mode "auto"
runs them.
"""

from storage_lib.testing.objects import ObjectStoreContract
from storage_lib.testing.queues import QueueStoreContract
from storage_lib.testing.tables import TableStoreContract

__all__ = ["ObjectStoreContract", "QueueStoreContract", "TableStoreContract"]
