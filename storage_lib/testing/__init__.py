"""The contract that every backend and every layer keeps, as test classes to subclass.

Whoever writes a backend subclasses `ObjectStoreContract`, `QueueStoreContract` and `TableStoreContract` in
their own test module and gives the fixture each names. pytest with asyncio_mode "auto" runs them.
"""

from storage_lib.testing.objects import ObjectStoreContract
from storage_lib.testing.queues import QueueStoreContract
from storage_lib.testing.tables import TableStoreContract

__all__ = ["ObjectStoreContract", "QueueStoreContract", "TableStoreContract"]
