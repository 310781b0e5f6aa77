import re

from mulligan.evaluation.tables import Flip
from mulligan.report.figures import TRAINING_CURVES, curve_figure, flow_figure


def test_the_thick_line_of_a_curve_is_the_mean_of_its_neighbours_hand_computed():
    curve = next(each for each in TRAINING_CURVES if each.key == "reflection_tokens")
    rows = [{"step": step, "reflection_tokens": float(step)} for step in range(1, 41)]
    # Two on either side: the first is the mean of 1, 2 and 3, the last of 38, 39 and 40.
    assert "from 2 at step 1 to 39 at 40" in str(curve_figure(curve, rows))


def test_the_flow_says_how_many_went_from_each_outcome_to_each():
    flips = [
        Flip("first_try", "failed", "missed_target", "passed", "passed", 30),
        Flip("first_try", "passed", "passed", "failed", "missed_target", 10),
        Flip("after_reflection", "passed", "passed", "passed", "passed", 99),
    ]

    described = flow_figure(flips).description

    assert described == "passed to wrong: missed target 10; wrong: missed target to passed 30"


def test_a_drawing_is_named_after_its_caption_and_holds_no_colour_of_its_own():
    drawing = flow_figure([Flip("first_try", "passed", "passed", "passed", "passed", 3)])

    assert drawing.name == "first-tries-what-became-of-each-outcome"
    assert drawing.svg.startswith("<svg viewBox=")
    assert not re.search("#a1b2[0-9a-f]{2}", drawing.svg)
    assert "var(--passed)" in drawing.svg
