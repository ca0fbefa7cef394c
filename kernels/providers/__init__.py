"""Implementations of ops beside their torch references: ``kernels/providers/<name>/<op>.py``, found by package scan."""
