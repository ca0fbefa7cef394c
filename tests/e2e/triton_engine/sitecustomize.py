"""On the path of a server under test: its engine computes in Triton's interpreter, and tells what it launches.

A module of this name is imported by every Python process that finds it, before anything else.
"""

import sys

if "engine.process" in sys.orig_argv:
    import told_launches

    told_launches.install()
