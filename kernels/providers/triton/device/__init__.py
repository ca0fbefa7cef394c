"""Functions that Triton compiles. Reductions go over a row in one order, whatever else is in the launch."""
