"""``python -m nearbit`` is the command `nearbit`."""

import sys

from nearbit.cli import main


if __name__ == "__main__":
    sys.exit(main())
