"""What all tests share."""

from __future__ import annotations

import os

# Before torch is imported, here and in subprocesses: on a machine that does other work too,
# threads that spin while they wait for each other made a test of two seconds take ninety.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests that run in several processes (`make test`) compute on one core each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before huggingface_hub is imported, which reads it once: no test asks the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
