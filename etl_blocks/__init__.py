"""Where the `etl` command and Prefect's discovery start: under a name that nobody else has."""
