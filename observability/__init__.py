"""Records, metrics and logging: a leaf that gateway and engine import and that imports nothing of theirs."""
