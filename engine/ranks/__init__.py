"""The processes that hold a model together: how they are started, told what to compute, and watched."""
