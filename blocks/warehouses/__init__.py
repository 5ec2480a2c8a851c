"""SQL databases: statements, queries as Arrow streams, and the load protocol."""
