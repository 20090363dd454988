"""`python -m recfx` is the command `recfx`."""

import sys

from recfx.cli import main

if __name__ == "__main__":
    sys.exit(main())
