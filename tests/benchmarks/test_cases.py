import json
from contextlib import contextmanager

import pytest
from benchmarks.cases import OURS, Case, Results, Settings, Stopped, Turn, lines, summary

from mulligan.errors import MulliganError

GIB = 2**30


@pytest.fixture(autouse=True)
def _a_known_machine(monkeypatch):
    """Nothing is multiplied: the limit is 100 GFLOP/s."""

    class Machine:
        matmul_flops = 100e9

    monkeypatch.setattr("benchmarks.cases.measure", lambda device, dtype: Machine)


class Log:
    """Sides that note their turns, and end after some of them."""

    def __init__(self):
        self.turns = []

    def side(self, name, seconds, fails_at=None):
        @contextmanager
        def opened():
            def play(number):
                if number == fails_at:
                    raise KeyboardInterrupt
                self.turns.append((name, number))
                return Turn(seconds)

            yield play

        return opened

    def case(self, fails_at=None):
        return Case("one", {OURS: self.side(OURS, 1.0), "peer": self.side("peer", 2.0, fails_at)})


def test_every_side_warms_up_before_any_turn_counts():
    log = Log()
    values = Results(None, "b", Settings("quick")).measure([log.case()])
    assert log.turns[:2] == [(OURS, 0), ("peer", 0)]
    assert sorted(log.turns[2:]) == [(OURS, 1), (OURS, 2), ("peer", 1), ("peer", 2)]
    assert len(values["cases"]["one"]["rounds"]) == 2


def test_full_sizes_have_at_least_five_rounds():
    assert Settings("full").repeats >= 5


def test_the_sides_take_the_first_turn_in_turn():
    log = Log()
    Results(None, "b", Settings("quick")).measure([log.case()])
    counted = [name for name, number in log.turns if number]
    assert counted == ["peer", OURS, OURS, "peer"]


def test_what_was_cut_off_goes_on_with_the_round_that_was_lost(tmp_path):
    path, first, second = tmp_path / "b.json", Log(), Log()
    with pytest.raises(KeyboardInterrupt):
        Results(path, "b", Settings("quick")).measure([first.case(fails_at=2)])
    assert len(json.loads(path.read_text())["cases"]["one"]["rounds"]) == 1
    values = Results(path, "b", Settings("quick")).measure([second.case()])
    assert sorted(number for _, number in second.turns) == [0, 0, 2, 2]
    assert values == json.loads(path.read_text())
    third = Log()
    Results(path, "b", Settings("quick")).measure([third.case()])
    assert third.turns == []


def test_no_round_is_started_when_the_time_is_over(tmp_path):
    path, log = tmp_path / "b.json", Log()
    with pytest.raises(Stopped):
        Results(path, "b", Settings("quick", minutes=0.0)).measure([log.case()])
    assert log.turns == []


def test_figures_of_other_circumstances_are_not_added_to(tmp_path):
    path = tmp_path / "b.json"
    Results(path, "b", Settings("quick")).measure([Log().case()])
    with pytest.raises(MulliganError, match="size: 'quick', now 'full'"):
        Results(path, "b", Settings("full"))
    path.write_text("[]")
    with pytest.raises(MulliganError, match="Cannot read"):
        Results(path, "b", Settings("quick"))


def test_a_summary_compares_time_where_the_work_is_the_same():
    rounds = [
        {OURS: {"seconds": 2.0, "flops": 1e9}, "peer": {"seconds": 6.0, "flops": 1e9}},
        {OURS: {"seconds": 4.0, "flops": 1e9}, "peer": {"seconds": 20.0, "flops": 1e9}},
        {OURS: {"seconds": 2.0, "flops": 1e9}, "peer": {"seconds": 8.0, "flops": 1e9}},
    ]
    found = summary(rounds, 10e9)
    assert found["peer"]["speed_ratio"]["value"] == 4.0  # of 3, 5 and 4
    assert (found["peer"]["speed_ratio"]["low"], found["peer"]["speed_ratio"]["high"]) == (3.0, 5.0)
    assert found[OURS]["share_of_limit"]["median"] == pytest.approx(0.05)
    assert found[OURS]["seconds"]["high"] == 4.0
    assert "speed_ratio" not in found[OURS]


def test_a_summary_compares_seconds_per_token_where_the_work_differs():
    rounds = [{OURS: {"seconds": 2.0, "tokens": 100}, "peer": {"seconds": 6.0, "tokens": 50}}] * 2
    found = summary(rounds, 1.0)
    assert found["peer"]["speed_ratio"]["value"] == pytest.approx(6.0)
    assert found[OURS]["tokens_per_s"]["median"] == 50.0


def test_memory_has_repeats_and_a_ratio_with_an_interval():
    rounds = [
        {
            OURS: {"seconds": 1.0, "peak_bytes": own * GIB},
            "peer": {"seconds": 1.0, "peak_bytes": 6 * GIB},
        }
        for own in (1, 2, 3)
    ]
    found = summary(rounds, 1.0)
    assert found["peer"]["memory_ratio"] == {"value": 3.0, "low": 2.0, "high": 6.0, "repeats": 3}
    assert found[OURS]["peak_bytes"]["repeats"] == 3
    assert lines(found)[1] == (
        "  peer: 1.00 s (1.00 to 1.00), 6.00 GiB, ours is 1.00x [1.00, 1.00] as fast, "
        "needs 3.00x [2.00, 6.00] less memory"
    )
