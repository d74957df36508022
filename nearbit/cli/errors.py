"""Exit statuses, and errors of what was typed."""

from nearbit_model.errors import NearbitError


__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "NOT_BIT_EXACT", "UserError"]


NOT_BIT_EXACT = 1
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


class UserError(NearbitError):
    """Arguments that do not fit each other or the input; the message is one sentence."""
