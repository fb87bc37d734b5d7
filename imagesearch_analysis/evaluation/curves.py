"""Curves of precision and recall, as parts of a page."""

import base64
from collections.abc import Mapping
from io import BytesIO

from matplotlib import rc_context
from matplotlib.figure import Figure

from imagesearch_analysis.evaluation.metrics import RECALL_LEVELS, Values


def curve_image(curves: Mapping[str, Values]) -> str:
    """Interpolated precision by recall, a line for each name, as a data: URL of an SVG."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        # A name is no formula, and a leading underscore would hide it.
        axes.plot(RECALL_LEVELS, values, label=name.replace("$", r"\$").replace("_", " "))
    axes.set(xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    file = BytesIO()
    # The same figures make the same file.
    with rc_context({"svg.hashsalt": "imagesearch"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
