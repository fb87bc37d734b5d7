"""Recommends one of the models of a comparison."""

from collections.abc import Sequence

from imagesearch_analysis.evaluation.comparison import MEASURE, Candidate, Comparison

# A model is faster if it embeds more images by this factor. Smaller differences may come from a busy machine.
FASTER = 1.25


def recommendation(comparison: Comparison) -> str:
    """Return which candidate to use, and why: the best one, or a cheaper one that is not significantly worse."""
    if note := comparison.task.same_label_note:
        return note
    best = comparison.best
    its_figure = f"{MEASURE} {best.figures[MEASURE]}"
    if len(comparison.candidates) == 1:
        return f"{best.name} has {its_figure}. There is no other model to compare."
    rivals = [candidate for candidate in comparison.candidates[1:] if candidate.worse_by(best).low <= 0]
    if not rivals:
        return f"Use {best.name}: it has {its_figure}, and is significantly better than all others."
    cheaper = [rival for rival in rivals if is_faster(rival, best) or is_smaller(rival, best)]
    if not cheaper:
        names = "; ".join(rival.name for rival in rivals)
        return f"Use {best.name}: it has the best {its_figure}. Not significantly worse, but not cheaper: {names}."
    chosen = cheapest(cheaper)
    return (
        f"Use {chosen.name} instead of {best.name}, which has the best {its_figure}: {_advantage(chosen, best)}. Its "
        f"{MEASURE} is {chosen.figures[MEASURE]}. The difference of {chosen.worse_by(best)} is not significant on "
        f"these {len(comparison.task.queries):,} queries (paired bootstrap)."
    )


def is_faster(one: Candidate, other: Candidate) -> bool:
    """Return whether `one` embeds more images a second, if both speeds are known."""
    return one.speed is not None and other.speed is not None and one.speed > FASTER * other.speed


def is_smaller(one: Candidate, other: Candidate) -> bool:
    """Return whether the vectors of `one` are smaller, and it is not slower."""
    return one.bytes_per_image < other.bytes_per_image and not is_faster(other, one)


def cheapest(candidates: Sequence[Candidate]) -> Candidate:
    """Return the fastest candidate; among those about as fast, the one with the smallest vectors, then the best."""
    fastest = max(candidates, key=lambda candidate: candidate.speed or 0)
    as_fast = [candidate for candidate in candidates if not is_faster(fastest, candidate)]
    return min(as_fast, key=lambda candidate: (candidate.bytes_per_image, -candidate.quality))


def _advantage(chosen: Candidate, best: Candidate) -> str:
    if chosen.speed and best.speed and is_faster(chosen, best):
        return f"it embeds {chosen.speed / best.speed:.1f} times as many images a second"
    return f"its vectors are {best.bytes_per_image / chosen.bytes_per_image:.1f} times smaller"
