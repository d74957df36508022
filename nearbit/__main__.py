"""The command `nearbit`, also as ``python -m nearbit``: imports it, and answers while it does.

Importing takes a while, in which a user may press Ctrl-C or an installation turns out broken.
"""

import sys


__all__ = ["main"]


def main() -> int:
    """Run the command with the arguments of this process, and return its exit status."""
    try:
        _set_up()
        from nearbit.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("nearbit: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from nearbit import failures
        from nearbit.streams import say

        say(failures.report(error, sys.argv[1:]))
        return failures.FAULT


def _set_up() -> None:
    """Make this process a command's: its signals, and what libraries say."""
    import logging
    import os
    import signal
    import warnings

    # As Ctrl-C does, so that nothing is left half-written; unless they are ignored (nohup).
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    # Python drops a Ctrl-C that comes while it deletes an object. It comes again a little later.
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.default_int_handler)

        def again(lost: "sys.UnraisableHookArgs") -> None:
            if lost.exc_type is KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
            else:
                sys.__unraisablehook__(lost)

        sys.unraisablehook = again
    warnings.showwarning = _show_warning
    # Matplotlib says at length where it keeps its fonts, and refuses a backend of a notebook;
    # nothing is shown here.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    os.environ.pop("MPLBACKEND", None)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int,
                  file: object = None, line: str | None = None) -> None:
    from nearbit.streams import say

    say(f"warning: {message} ({category.__name__}, {filename}:{lineno})")


if __name__ == "__main__":
    sys.exit(main())
