"""Training that is not what it says, and figures that say more than was measured."""

from tests.mistakes.mistake import Mistake

_SPLIT = "lvm_runtime/corpus/split.py"
_MATERIAL = "train/material.py"
_METRICS = "train/evaluation/metrics.py"
_EVALUATE = "train/evaluation/evaluate.py"
_LOOP = "train/loop.py"
_LSTM = "lvm_runtime/models/lstm.py"
_FORWARD = "train/forward.py"
_LOSSES = "train/losses.py"
_GATE = "train/evaluation/gate.py"
_TEST_WINDOWS = "tests/train/data/test_windows.py"
_TEST_MATERIAL = "tests/train/test_material.py"
_TEST_RETRIEVAL = "tests/train/evaluation/test_retrieval.py"
_TEST_LOOP = "tests/train/test_loop.py"
_TEST_MODELS = "tests/lvm_runtime/models/test_models.py"
_TEST_FORWARD = "tests/train/test_forward.py"
_TEST_LOSSES = "tests/train/test_losses.py"
_TEST_GATE = "tests/train/evaluation/test_gate.py"

MISTAKES = [
    Mistake(
        "a random split does not look at its seed",
        _SPLIT,
        "np.random.default_rng(seed).permutation",
        "np.random.default_rng(0).permutation",
        f"{_TEST_WINDOWS}::test_a_random_split_is_drawn_by_its_seed",
    ),
    Mistake(
        "a run's seed does not reach its split",
        _MATERIAL,
        "        how=options.split,\n        seed=options.seed,\n",
        "        how=options.split,\n",
        f"{_TEST_MATERIAL}::test_every_option_of_the_data_counts",
    ),
    Mistake(
        "a run's kind of split does not reach its split",
        _MATERIAL,
        "        how=options.split,\n",
        "",
        f"{_TEST_MATERIAL}::test_every_option_of_the_data_counts",
    ),
    Mistake(
        "the interval of cosine is over windows, not documents",
        _METRICS,
        "cosine=bootstrap(scores.cosine, windows.groups)",
        "cosine=bootstrap(scores.cosine, np.arange(len(windows)))",
        f"{_TEST_RETRIEVAL}::test_every_interval_is_over_documents",
    ),
    Mistake(
        "the interval of the margin is over windows, not documents",
        _METRICS,
        "bootstrap(scores.cosine - scores.cosine_to_last, windows.groups)",
        "bootstrap(scores.cosine - scores.cosine_to_last, np.arange(len(windows)))",
        f"{_TEST_RETRIEVAL}::test_every_interval_is_over_documents",
    ),
    Mistake(
        "the intervals of retrieval are over windows, not documents",
        "train/evaluation/retrieval.py",
        "bootstrap_all(self.columns(), self.groups)",
        "bootstrap_all(self.columns(), np.arange(len(self.rank)))",
        f"{_TEST_RETRIEVAL}::test_every_interval_is_over_documents",
    ),
    Mistake(
        "the interval of the gain is over windows, not documents",
        _EVALUATE,
        "baselines[LINEAR_AVERAGE].rows.cosine, windows.groups)",
        "baselines[LINEAR_AVERAGE].rows.cosine, np.arange(len(windows)))",
        f"{_TEST_RETRIEVAL}::test_every_interval_is_over_documents",
    ),
    Mistake(
        "the paired intervals of retrieval are over windows, not documents",
        _EVALUATE,
        "bootstrap_all(columns, scores.ranks.groups)",
        "bootstrap_all(columns, np.arange(len(scores.ranks.rank)))",
        f"{_TEST_RETRIEVAL}::test_every_interval_is_over_documents",
    ),
    Mistake(
        "the paired interval of cosine is over windows, not documents",
        _EVALUATE,
        "baselines[nearest].rows.cosine, windows.groups)",
        "baselines[nearest].rows.cosine, np.arange(len(windows)))",
        f"{_TEST_RETRIEVAL}::test_every_interval_is_over_documents",
    ),
    Mistake(
        "the intervals of the offset profile are over windows, not documents",
        "train/evaluation/offsets.py",
        "sample.groups[complete])",
        "np.arange(len(columns)))",
        f"{_TEST_RETRIEVAL}::test_every_interval_is_over_documents",
    ),
    Mistake(
        "a window is kept whose target is unusable",
        _SPLIT,
        "bad[starts + context_length + 1] ==",
        "bad[starts + context_length] ==",
        f"{_TEST_WINDOWS}::test_sides_hold_the_windows_of_a_plain_loop",
    ),
    Mistake(
        "the order of windows is the same for every seed",
        _LOOP,
        "manual_seed(self.options.seed * 1_000_003 + self.epoch)",
        "manual_seed(self.epoch)",
        f"{_TEST_LOOP}::test_epoch_equals_a_plain_loop",
    ),
    Mistake(
        "the cosine schedule has no warm-up",
        _LOOP,
        "min(1.0, (now + 1) / WARMUP_STEPS) * ",
        "",
        f"{_TEST_LOOP}::test_cosine_schedule_is_warmed_up_and_ends_at_zero",
    ),
    Mistake(
        "the cosine schedule falls from epoch to epoch, not from step to step",
        _LOOP,
        "share = min(1.0, now / (self.options.epochs * self.steps))",
        "share = self.epoch / self.options.epochs",
        f"{_TEST_LOOP}::test_cosine_schedule_is_warmed_up_and_ends_at_zero",
    ),
    Mistake(
        "the average of the weights does not forget its start",
        _LOOP,
        "min(self.options.ema, (1 + now) / (10 + now))",
        "self.options.ema",
        f"{_TEST_LOOP}::test_average_of_the_weights_forgets_its_start",
    ),
    Mistake(
        "the average of the weights starts again with every epoch",
        _LOOP,
        "now = self.epoch * self.steps + self.step\n        decay",
        "now = self.step\n        decay",
        f"{_TEST_LOOP}::test_average_of_the_weights_forgets_its_start",
    ),
    Mistake(
        "the weights are judged and kept, not their average",
        _LOOP,
        "return self.model if self.average is None else self.average",
        "return self.model",
        f"{_TEST_LOOP}::test_average_of_the_weights_forgets_its_start",
    ),
    Mistake(
        "the LSTM drops components of its input",
        _LSTM,
        "            if layer:\n                x = self.dropout(x)",
        "            if True:\n                x = self.dropout(x)",
        f"{_TEST_MODELS}::test_lstm_drops_between_its_layers_and_only_in_training",
    ),
    Mistake(
        "the LSTM drops behind its first layer only",
        _LSTM,
        "            if layer:\n                x",
        "            if layer == 1:\n                x",
        f"{_TEST_MODELS}::test_lstm_drops_between_its_layers_and_only_in_training",
    ),
    Mistake(
        "the GRU's form for training drops from the sum, not from the states",
        _FORWARD,
        "block.norm(x + block.dropout(states))",
        "block.norm(block.dropout(x + states))",
        f"{_TEST_FORWARD}::test_dropout_is_where_the_model_has_it[gru]",
    ),
    Mistake(
        "the Transformer's form for training leaves out a dropout of its last layer",
        _FORWARD,
        "layer.dropout3(inner)",
        "inner",
        f"{_TEST_FORWARD}::test_dropout_is_where_the_model_has_it[transformer]",
    ),
    Mistake(
        "targets of InfoNCE are not normalised",
        _LOSSES,
        "F.normalize(targets, dim=1).T",
        "targets.T",
        f"{_TEST_LOSSES}::test_info_nce_against_explicit_sums",
    ),
    Mistake(
        "InfoNCE is not symmetric",
        _LOSSES,
        "return (forward + backward) / 2",
        "return forward",
        f"{_TEST_LOSSES}::test_info_nce_against_explicit_sums",
    ),
    Mistake(
        "the gate does not judge single components",
        _GATE,
        " and self.difference <= FP32_ABSOLUTE_LIMIT",
        "",
        f"{_TEST_GATE}::test_drift_and_components_are_judged_each_by_itself[Scaled]",
    ),
    Mistake(
        "the gate does not judge drift",
        _GATE,
        'self.drift <= DRIFT_LIMITS["fp32"] and ',
        "",
        f"{_TEST_GATE}::test_drift_and_components_are_judged_each_by_itself[Turned]",
    ),
    Mistake(
        "gradients of the first step on a device are not judged",
        _GATE,
        "found.loss <= limit and found.gradient <= limit",
        "found.loss <= limit",
        f"{_TEST_GATE}::test_a_step_whose_loss_or_gradient_is_off_is_stopped[gradient]",
    ),
    Mistake(
        "the loss of the first step on a device is not judged",
        _GATE,
        "found.loss <= limit and found.gradient <= limit",
        "found.gradient <= limit",
        f"{_TEST_GATE}::test_a_step_whose_loss_or_gradient_is_off_is_stopped[loss]",
    ),
    Mistake(
        "the gate tries one batch size",
        _GATE,
        "for size in BATCH_SIZES:",
        "for size in BATCH_SIZES[:1]:",
        f"{_TEST_GATE}::test_honest_models_pass[lstm]",
    ),
    Mistake(
        "the gate tries the training device alone",
        _GATE,
        'dict.fromkeys((device, "cpu"))',
        "dict.fromkeys((device,))",
        f"{_TEST_GATE}::test_both_devices_are_judged_at_every_batch_size",
    ),
    Mistake(
        "the first step is compared with dropout of attention on",
        _GATE,
        "            module.dropout = 0.0",
        "            pass",
        f"{_TEST_GATE}::test_step_comparison_ignores_dropout[transformer]",
    ),
    Mistake(
        "the random baseline does not look at its seed",
        "train/evaluation/baselines.py",
        "torch.Generator().manual_seed(seed)",
        "torch.Generator().manual_seed(0)",
        f"{_TEST_RETRIEVAL}::test_baselines",
    ),
    Mistake(
        "a run's seed does not reach its baselines",
        _MATERIAL,
        "fit_baselines(split.train, seed=options.seed)",
        "fit_baselines(split.train)",
        f"{_TEST_MATERIAL}::test_every_option_of_the_data_counts",
    ),
]
