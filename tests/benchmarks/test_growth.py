import pytest
from benchmarks.cases import OURS
from benchmarks.growth import AXES, conclude, sentences


def values(axis, measured, counted, sizes=(1, 2, 4), rounds=3):
    """What is measured where tokens per second grow by these exponents."""

    def turn(size):
        return {
            "tokens": 100,
            "processes": 1,
            "weights": size,
            "rollout_seconds": 100 / size**measured,
            "update_seconds": 100 / size**counted,
            "rollout_flops": 100 / size**counted,
            "update_flops": 100 / size**counted,
        }

    return {
        "cases": {
            f"{axis} {size}": {
                "about": {"axis": axis, "point": {axis: size}},
                "rounds": [{OURS: turn(size)}] * rounds,
            }
            for size in sizes
        }
    }


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_has_the_exponents_of_what_was_measured_and_counted(axis):
    found = conclude(values(axis, measured=-0.5, counted=-0.25))[axis]
    assert found["rollout"]["value"] == pytest.approx(-0.5)
    assert found["rollout"]["counted"] == pytest.approx(-0.25)
    assert found["update"]["value"] == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(-0.5, "does not scale"), (-0.25, "scales"), (-0.3, "scales"), (0.5, "better than counted")],
)
def test_what_falls_behind_the_count_is_named(measured, verdict):
    found = conclude(values("failures", measured, counted=-0.25))
    assert found["failures"]["rollout"]["verdict"].startswith(verdict)
    assert any(verdict in line for line in sentences(found))


def test_points_are_in_the_order_of_their_sizes():
    found = conclude(values("model", 1.0, 1.0, sizes=(4, 1, 2)))
    assert found["model"]["rollout"]["value"] == pytest.approx(1.0)


def test_axes_that_were_not_measured_are_left_out():
    assert conclude(values("prompt", 0.0, 0.0)).keys() == {"prompt"}
