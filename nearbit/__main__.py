"""The command `nearbit`, also as ``python -m nearbit``: imports it, and answers while it does.

Importing takes a while, in which a user may press Ctrl-C or an installation turns out broken.
"""

import logging
import os
import signal
import sys
import warnings

from nearbit import failures
from nearbit.streams import say


__all__ = ["main"]


def main() -> int:
    """Run the command with the arguments of this process, and return its exit status."""
    try:
        # As Ctrl-C does, so that nothing is left half-written; unless they are ignored (nohup).
        for number in (signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ())):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)
        warnings.showwarning = _show_warning
        # Matplotlib says at length where it keeps its fonts, and refuses a backend of a notebook;
        # nothing is shown here.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        os.environ.pop("MPLBACKEND", None)
        from nearbit.cli import main as run

        return run()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Exception as error:
        say(failures.report(error, sys.argv[1:]))
        return 70


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int,
                  *_rest: object) -> None:
    say(f"warning: {message} ({category.__name__}, {filename}:{lineno})")


if __name__ == "__main__":
    sys.exit(main())
