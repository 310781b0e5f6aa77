from mulligan.report.figures import TRAINING_CURVES, curve_figure


def test_the_thick_line_of_a_curve_is_the_mean_of_its_neighbours_hand_computed():
    curve = next(each for each in TRAINING_CURVES if each.key == "reflection_tokens")
    rows = [{"step": step, "reflection_tokens": float(step)} for step in range(1, 41)]
    # Two on either side: the first is the mean of 1, 2 and 3, the last of 38, 39 and 40.
    assert "from 2 at step 1 to 39 at 40" in str(curve_figure(curve, rows))
