"""File formats: CSV, JSON Lines, Parquet and Arrow IPC to record batches and back."""
