"""Stored objects as files of a private folder, as UTF-8 text and as tables of DuckDB, within limits."""
