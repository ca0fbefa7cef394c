"""Torch on a CPU that has no 16-bit matrix instructions: compute in float32, keep the weights in 16 bits."""
