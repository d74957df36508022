"""``python -m nearbit`` is the command `nearbit`."""

import sys

from nearbit.cli import main


sys.exit(main())
