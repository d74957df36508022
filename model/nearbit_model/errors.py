"""The error that a user can fix."""

__all__ = ["NearbitError"]


class NearbitError(Exception):
    """Something that the user can fix; the message is one sentence.

    The base of every such error of all packages, and what the command line catches.
    """
