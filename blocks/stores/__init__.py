"""Object stores: the client of one, the block over it, and datasets of files."""
