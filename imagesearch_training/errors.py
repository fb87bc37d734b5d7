"""What can go wrong in a training."""


class TrainingError(Exception):
    """A training that cannot begin or go on; says what is wrong and what would be right."""
