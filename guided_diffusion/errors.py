"""The error of weight files."""


class CheckpointError(ValueError):
    """A weight file cannot be used; the message says what it is and what to do."""
