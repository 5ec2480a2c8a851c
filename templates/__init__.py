"""Templates: whole pipelines, one file each, to copy with `etl new NAME DIR`."""
