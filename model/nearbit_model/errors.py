"""Errors that a user can fix."""

__all__ = ["NearbitError"]


class NearbitError(Exception):
    """An error that the user can fix; the message is one sentence.

    The base class of all such errors in all packages; the command line catches it.
    """
