"""What is wrong with an analysis."""


class AnalysisError(Exception):
    """An analysis that cannot be made; says why, and what to do."""
