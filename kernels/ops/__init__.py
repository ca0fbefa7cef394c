"""The operations the engine computes with, one a module. The torch reference in a module *is* the op's definition."""
