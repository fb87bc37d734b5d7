"""Draws curves of precision by recall for a page."""

import base64
from collections.abc import Mapping
from io import BytesIO

from matplotlib import rc_context
from matplotlib.figure import Figure

from imagesearch_analysis.evaluation.metrics import RECALL_LEVELS, Values


def curve_url(curves: Mapping[str, Values]) -> str:
    """Return an SVG as a data: URL, with a line of interpolated precision by recall for each name."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        # matplotlib would read $ as a formula, and hide a name that begins with an underscore.
        axes.plot(RECALL_LEVELS, values, label=name.replace("$", r"\$").replace("_", " "))
    axes.set(xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    file = BytesIO()
    # The same curves make the same file.
    with rc_context({"svg.hashsalt": "imagesearch"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
