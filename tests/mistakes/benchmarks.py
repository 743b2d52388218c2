"""Benchmarks that measure or compare something else."""

from tests.mistakes.mistake import Mistake

_RERUN = "benchmarks/report/rerun.py"
_REGRESSION = "benchmarks/report/regression.py"
_TIMING = "lvm_runtime/selection/timing.py"
_ARENA = "benchmarks/harness/arena.py"
_TEST_RERUN = "tests/benchmarks/report/test_rerun.py"
_TEST_REGRESSION = "tests/benchmarks/report/test_regression.py"
_TEST_TIMING = "tests/lvm_runtime/selection/test_timing.py"
_TEST_ARENA = "tests/benchmarks/harness/test_arena.py"

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
        "the timer's rest is none unless asked for",
        _TIMING,
        "REST = 0.02",
        "REST = 0.0",
        f"{_TEST_TIMING}::test_warm_up_calls_are_not_counted",
    ),
    Mistake(
        "the sides take turns in the same order in every round",
        _TIMING,
        "            shuffle(order)\n",
        "",
        f"{_TEST_TIMING}::test_sides_take_turns_and_none_always_follows_the_same_other",
    ),
    Mistake(
        "the order of turns differs from run to run",
        _TIMING,
        "random.Random(0).shuffle",
        "random.Random().shuffle",
        f"{_TEST_TIMING}::test_the_order_of_turns_is_the_same_in_every_run",
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
        "                    _warm(sides[name], warm_up)\n",
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
        _ARENA,
        "> self.budget * len(sides)",
        "> self.budget",
        f"{_TEST_ARENA}::test_settled_sides_stop_at_the_first_rounds_and_others_at_the_budget",
    ),
    Mistake(
        "a cell takes the timer's rounds, not its effort's",
        _ARENA,
        "interleave(sides, rounds=self.rounds, seconds",
        "interleave(sides, seconds",
        f"{_TEST_ARENA}::test_settled_sides_stop_at_the_first_rounds_and_others_at_the_budget",
    ),
    Mistake(
        "a cell takes the timer's bound on calls, not its effort's",
        _ARENA,
        "max_calls=self.max_calls, more=more",
        "more=more",
        f"{_TEST_ARENA}::test_a_burst_is_as_long_as_the_effort_says[0.05-3]",
    ),
    Mistake(
        "a peer that is wrong at one batch size is left out at all of them",
        _ARENA,
        "if not isinstance(error, WrongAnswers):",
        "if True:",
        f"{_TEST_ARENA}::test_who_is_wrong_at_one_batch_size_is_compared_at_the_others",
    ),
    Mistake(
        "peers on torch pay for what our backends do around a call",
        "benchmarks/harness/peers.py",
        "            with torch.inference_mode():\n                result",
        "            with inference(device, threads):\n                result",
        f"{_TEST_ARENA}::test_peers_on_torch_do_not_pay_for_what_our_backends_do_around_a_call",
    ),
    Mistake(
        "the peer that ours is compared with is the one whose median call is shortest",
        _ARENA,
        "key=lambda peer: self.speedup(name, peer), default=None)",
        "key=lambda peer: self.measured[peer].timing.median, default=None)",
        f"{_TEST_ARENA}::test_the_peer_beside_a_ratio_is_the_one_that_ours_is_least_ahead_of",
    ),
    Mistake(
        "a form of this project may be as far off as a peer",
        _ARENA,
        "DRIFT_LIMITS[side.precision] if side.ours else PEER_DRIFT_LIMIT",
        "PEER_DRIFT_LIMIT",
        f"{_TEST_ARENA}::test_a_wrong_form_is_not_timed_and_stops_nobody",
    ),
    Mistake(
        "answers are checked at batch 1, whatever is timed",
        _ARENA,
        "max_drift(runner(workload.batch(batch)), workload.answers(batch))",
        "max_drift(runner(workload.batch(1)), workload.answers(1))",
        f"{_TEST_ARENA}::test_answers_are_checked_at_the_batch_size_that_is_timed",
    ),
    Mistake(
        "the best peer is the slowest",
        _ARENA,
        "return min(peers",
        "return max(peers",
        f"{_TEST_ARENA}::test_best_peer_is_the_fastest_of_equal_precision_and_never_ours",
    ),
    Mistake(
        "the best peer is the one with the least sum of calls",
        _ARENA,
        "key=lambda peer: self.speedup(name, peer), default",
        "key=lambda peer: sum(self.measured[peer].timing.calls), default",
        f"{_TEST_ARENA}::test_best_peer_is_the_fastest_of_equal_precision_and_never_ours",
    ),
    Mistake(
        "the best peer may be a form of this project",
        _ARENA,
        "if not m.contender.ours and m.contender.precision",
        "if m.contender.precision",
        f"{_TEST_ARENA}::test_best_peer_is_the_fastest_of_equal_precision_and_never_ours",
    ),
    Mistake(
        "the best peer may be of another precision",
        _ARENA,
        " and m.contender.precision == precision]",
        "]",
        f"{_TEST_ARENA}::test_best_peer_is_the_fastest_of_equal_precision_and_never_ours",
    ),
    Mistake(
        "the slowest number of threads is taken",
        _ARENA,
        "key=lambda threads: min(timings",
        "key=lambda threads: max(timings",
        f"{_TEST_ARENA}::test_the_number_of_threads_is_the_fastest_one_in_spite_of_a_busy_moment",
    ),
    Mistake(
        "a cell's speed-up is taken the other way round",
        _ARENA,
        "return speedup(self.measured[name].timing, self.measured[over].timing)",
        "return speedup(self.measured[over].timing, self.measured[name].timing)",
        f"{_TEST_ARENA}::test_best_peer_is_the_fastest_of_equal_precision_and_never_ours",
    ),
    Mistake(
        "one thread is tried at large batches too",
        _ARENA,
        "(cpus, 1) if len(contexts) < LARGE_BATCH else (cpus,)",
        "(cpus, 1)",
        f"{_TEST_ARENA}::test_one_thread_and_all_are_tried_for_small_batches_and_all_for_large_ones",
    ),
    Mistake(
        "the share of other programs is left out",
        _ARENA,
        "return Cell(measured, failed, max(0.0, elsewhere))",
        "return Cell(measured, failed)",
        f"{_TEST_ARENA}::test_what_other_programs_took_is_kept",
    ),
]
