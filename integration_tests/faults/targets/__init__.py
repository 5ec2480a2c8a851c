"""The nine targets, and the servers that stand for them."""
