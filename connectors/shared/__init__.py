"""What at least two connectors are made of: one module or package per family."""
