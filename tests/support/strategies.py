"""Hypothesis strategies that several tests use."""

from hypothesis import strategies as st

import keras_rafm as kr


@st.composite
def plans_and_samples(draw: st.DrawFn) -> tuple[kr.RankPlan, list]:
    """Draw a plan of up to four levels and eight features, and samples of its features."""
    ranks = sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=4)))
    levels = draw(st.lists(st.integers(1, len(ranks)), min_size=1, max_size=8))
    counts = draw(st.none() | st.lists(st.integers(0, 5), min_size=len(levels), max_size=len(levels)))
    occurrence = st.tuples(st.integers(0, len(levels) - 1), st.floats(-3, 3, width=32))
    samples = draw(st.lists(st.lists(occurrence, max_size=6), max_size=4))
    return kr.RankPlan(levels, ranks, counts), samples
