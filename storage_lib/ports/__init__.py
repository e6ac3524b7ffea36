"""What a backend and a layer see: objects, tables and queues, and the data they take and return."""
