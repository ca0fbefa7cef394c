"""Kernels in plain C, one source built for several instruction sets; see ``native/vec.h`` and ``native/team.h``."""
