"""The trigger layer: HTTP and queue triggers over `storage_lib`; the only importer of azure.functions."""
