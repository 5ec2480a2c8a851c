"""What speaks PostgreSQL's protocol: settings, statements, errors and SQL."""
