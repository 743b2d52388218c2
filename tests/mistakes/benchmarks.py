"""Benchmarks that measure or compare something else."""

from tests.mistakes.mistake import Mistake

_RERUN = "benchmarks/report/rerun.py"
_REGRESSION = "benchmarks/report/regression.py"
_TIMING = "lvm_runtime/selection/timing.py"
_TEST_RERUN = "tests/benchmarks/report/test_rerun.py"
_TEST_REGRESSION = "tests/benchmarks/report/test_regression.py"
_TEST_TIMING = "tests/lvm_runtime/selection/test_timing.py"

MISTAKES = [
    Mistake(
        "a ratio that fell beyond the rounds of both runs is not seen",
        _RERUN,
        "return max(first[0] - again[1], again[0] - first[1])",
        "return again[0] - first[1]",
        f"{_TEST_RERUN}::test_a_ratio_that_moved_beyond_the_rounds_of_both_is_named[fallen]",
    ),
    Mistake(
        "a ratio that rose beyond the rounds of both runs is not seen",
        _RERUN,
        "return max(first[0] - again[1], again[0] - first[1])",
        "return first[0] - again[1]",
        f"{_TEST_RERUN}::test_a_ratio_that_moved_beyond_the_rounds_of_both_is_named[risen]",
    ),
    Mistake(
        "ranges of rounds that touch count as different",
        _RERUN,
        "if pair.gap > 0]",
        "if pair.gap >= 0]",
        f"{_TEST_RERUN}::test_ranges_that_touch_meet[risen]",
    ),
    Mistake(
        "intervals that touch count as different",
        _RERUN,
        "_gap(first, again) > 0",
        "_gap(first, again) >= 0",
        f"{_TEST_RERUN}::test_ranges_that_touch_meet[risen]",
    ),
    Mistake(
        "a fall does not count in how far ratios moved",
        _RERUN,
        "abs(pair.ratios[1] / pair.ratios[0] - 1)",
        "pair.ratios[1] / pair.ratios[0] - 1",
        f"{_TEST_RERUN}::test_a_ratio_that_moved_beyond_the_rounds_of_both_is_named[fallen]",
    ),
    Mistake(
        "a ratio at the limit is a regression",
        _REGRESSION,
        "change.ratio < fail_below",
        "change.ratio <= fail_below",
        f"{_TEST_REGRESSION}::test_a_ratio_at_the_limit_is_none_yet",
    ),
    Mistake(
        "the change of a ratio is taken the other way round",
        _REGRESSION,
        "return self.after / self.before",
        "return self.before / self.after",
        f"{_TEST_REGRESSION}::test_a_lower_ratio_is_a_regression_that_says_by_how_much",
    ),
    Mistake(
        "the timer takes no rest before a burst",
        _TIMING,
        "                time.sleep(rest)\n",
        "",
        f"{_TEST_TIMING}::test_rest_and_warm_up_are_as_long_as_asked",
    ),
    Mistake(
        "the sides take turns in the same order in every round",
        _TIMING,
        "            shuffle(order)\n",
        "",
        f"{_TEST_TIMING}::test_sides_take_turns_and_none_always_follows_the_same_other",
    ),
    Mistake(
        "a burst is warmed up for in the first round only",
        _TIMING,
        "if not bursts[name] or bursts[name][-1][0] <= LONG_CALL * seconds:",
        "if not bursts[name]:",
        f"{_TEST_TIMING}::test_rest_and_warm_up_are_as_long_as_asked",
    ),
    Mistake(
        "a burst is not warmed up for",
        _TIMING,
        "                    _warm(sides[name], warm_up, clock)\n",
        "                    pass\n",
        f"{_TEST_TIMING}::test_warm_up_calls_are_not_counted",
    ),
    Mistake(
        "a speed-up is the ratio of medians, not the median of ratios",
        _TIMING,
        "return float(np.median(speedups(side, over)))",
        "return over.median / side.median",
        f"{_TEST_TIMING}::test_speedup_pairs_the_rounds",
    ),
    Mistake(
        "the garbage collector stays off after a timing",
        _TIMING,
        "            gc.enable()\n",
        "            pass\n",
        f"{_TEST_TIMING}::test_the_garbage_collector_rests_and_comes_back",
    ),
    Mistake(
        "the budget of a cell is for all its sides together",
        "benchmarks/harness/arena.py",
        "> self.budget * len(sides)",
        "> self.budget",
        "tests/benchmarks/harness/test_arena.py::test_settled_sides_stop_at_the_first_rounds_and_others_at_the_budget",
    ),
]
