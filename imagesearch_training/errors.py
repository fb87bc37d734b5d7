"""The error of this package."""


class TrainingError(Exception):
    """The training cannot start or continue. The message says what to do."""
