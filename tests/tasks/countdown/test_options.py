import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.countdown.task import Countdown
from mulligan.tasks.registry import load_task


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": {}}, "'counts' should have a weight above 0"),
        ({"counts": {1: 1.0}}, "'counts.1' should be greater than or equal to 2, but is 1"),
        ({"counts": {2: -1}}, "'counts.2' should be greater than or equal to 0, but is -1"),
        ({"counts": {2: 0.0}}, "'counts' should have a weight above 0"),
        ({"counts": "23"}, "'counts' should be a valid dictionary"),
        ({"largest_number": "20"}, "'largest_number' should be a valid integer, but is '20'"),
        ({"largest_number": True}, "'largest_number'"),
        ({"smallest_target": 70}, "'largest_target' should be at least 70, but is 60"),
        ({"smalest_target": 70}, "no option 'smalest_target' .*did you mean 'smallest_target'"),
        ({"fixed_splits": True, "test_share": 0.2}, "'test_share' plays no part"),
        ({"operators": "+-^"}, "'operators' should be some of"),
        ({"operators": "++"}, "'operators'"),
        ({"operators": ["+"]}, "'operators'"),
        ({"seed": 1.5}, "'seed'"),
        ({"test_share": 2}, "'test_share' should be less than or equal to 1, but is 2"),
        ({"test_size": 0}, "'test_size'"),
        ({"train_size": -1}, "'train_size'"),
        ({"system": 1}, "'system'"),
        ({"answer_share": "all"}, "'answer_share'"),
        ({"reflection_shares": {}}, "'reflection_shares'"),
        ({"reflection_shares": {"vage": 1}}, "did you mean 'vague'"),
        ({"reflection_shares": {"vague": "1"}}, "'reflection_shares.vague'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_was_expected(options, message):
    with pytest.raises(MulliganError, match=message):
        Countdown(**options)


def test_an_unknown_option_of_a_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(MulliganError, match=r"no option 'test_sise' .did you mean 'test_size'"):
        load_task("countdown", {"test_sise": 10})


def test_counts_may_be_a_list_and_keys_may_be_text_as_in_json():
    assert Countdown(counts=[3, 4]).options.counts == {3: 1.0, 4: 1.0}
    assert Countdown(counts={"2": 0.75, "3": 0.25}).options.counts == {2: 0.75, 3: 0.25}
