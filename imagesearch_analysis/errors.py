"""The base of all errors of an analysis."""


class AnalysisError(Exception):
    """An analysis is not possible; the message says why, and what to do."""
