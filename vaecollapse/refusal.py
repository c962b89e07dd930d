"""The error a user sees as one sentence: what was given, why it cannot be, what to type instead."""


class Refused(ValueError):
    """Raised before work starts (or at the first sign of bad input); the command line prints its text and no trace."""
