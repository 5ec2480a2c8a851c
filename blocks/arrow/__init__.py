"""What flows between connectors: scans of Arrow batches, their types, and the identity of a load."""
