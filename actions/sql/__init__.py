"""One SELECT of somebody over stored objects: what it may be, and what its rows look like as JSON."""
