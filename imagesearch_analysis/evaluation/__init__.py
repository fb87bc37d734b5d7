"""Measures the quality of searches against labels: figures with confidence intervals, and reports."""
