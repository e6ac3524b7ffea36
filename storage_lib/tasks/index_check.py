"""Whether each row of the index in the task table has its record, and each record its rows."""

from __future__ import annotations

from storage_lib.ports.tables import TableStore
from storage_lib.tasks.layout import PARTITIONS, RECORDS_END, SEARCHED, SPANS, Facts, end_of, partition_of
from storage_lib.tasks.ranges import rows_of
from storage_lib.tasks.searchable import Searchable


async def check_index(tables: TableStore) -> list[str]:
    """What is wrong, a line each. While tasks run, a record that has just changed may seem to be wrong, as
    records and rows are read one after the other.

    Of records of before there were rows for searches, those may be missing until all have them.

    The row of a span is right as long as any record stands in the span; the next expiry removes it.
    """
    wrong: list[str] = []
    is_complete = await Searchable(tables).is_complete()
    for partition in PARTITIONS:
        records: dict[str, Facts] = {}
        async for entity in rows_of(tables, partition, "", RECORDS_END):
            records[entity.row_key] = Facts.stored(entity.row_key, entity.properties)
        needed = {row: values for facts in records.values() for row, values in facts.rows.items()}
        spans = {row: values for facts in records.values() for row, values in facts.spans.items()}
        wrong += [
            f"record {key} stands in the wrong partition" for key in records if partition_of(key) != partition
        ]
        found: set[str] = set()
        async for row in rows_of(tables, partition, RECORDS_END, end_of(RECORDS_END)):
            name = row.row_key
            found.add(name)
            if name.startswith(SPANS):
                span = name.rpartition(":")[2]
                if not any(key.startswith(span) for key in records):
                    wrong.append(f"row {name} has no record")
            elif name not in needed:
                wrong.append(f"row {name} has no record")
            else:
                values = {key: value for key, value in needed[name].items() if value is not None}
                if not is_complete:
                    values = {key: value for key, value in values.items() if key in row.properties}
                if dict(row.properties) != values:
                    wrong.append(f"row {name} says {dict(row.properties)}, and not {values}")
        missing = [name for name in {**needed, **spans} if name not in found]
        wrong += [
            f"row {name} is missing" for name in missing if is_complete or not name.startswith(SEARCHED)
        ]
    return wrong
