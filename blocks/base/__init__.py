"""What every block is made of: the block itself, operations, retries, errors."""
