"""The fallback layer: a second store for when the first is unavailable."""

from storage_lib.layers.fallback.conflicts import Conflict
from storage_lib.layers.fallback.layer import FallbackLayer
from storage_lib.layers.fallback.repair import RepairFailure, RepairResult
from storage_lib.layers.fallback.status import FallbackStatus

__all__ = ["Conflict", "FallbackLayer", "FallbackStatus", "RepairFailure", "RepairResult"]
