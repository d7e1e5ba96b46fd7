"""For every test: torch computes on one thread, here and in what a test starts, since two test processes share cores.

Threads that wait spin, and where there are more of them than cores they slow each other eighty times.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
