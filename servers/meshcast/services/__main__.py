"""`python -m meshcast.services NAME`."""

import sys

from meshcast.runtime.main import main

if __name__ == "__main__":
    sys.exit(main())
