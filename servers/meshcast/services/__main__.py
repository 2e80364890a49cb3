"""`python -m meshcast.services NAME`."""

import os
import sys

# The run slots have the cores. By itself the linear algebra of numpy and scipy spreads over all of them, and its
# threads wait busily; it looks here once, when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from meshcast.runtime.main import main  # numpy comes with it

if __name__ == "__main__":
    sys.exit(main())
