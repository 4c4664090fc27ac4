"""`python -m streamloss`."""

import sys

from streamloss.cli import main

if __name__ == "__main__":
    sys.exit(main())
