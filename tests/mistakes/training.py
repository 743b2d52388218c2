"""Training that is not what it says."""

from tests.mistakes.mistake import Mistake

_SPLIT = "lvm_runtime/corpus/split.py"
_PREPARED_DATA = "train/prepared_data.py"
_LOOP = "train/loop.py"
_RUN = "train/run.py"
_LSTM = "lvm_runtime/models/lstm.py"
_FORWARD = "train/forward.py"
_LOSSES = "train/losses.py"
_RANKING = "train/ranking.py"
_DISTRIBUTED = "train/distributed.py"
_TEST_WINDOWS = "tests/train/data/test_windows.py"
_TEST_PREPARED_DATA = "tests/train/test_prepared_data.py"
_TEST_LOOP = "tests/train/test_loop.py"
_TEST_RANKING = "tests/train/test_ranking.py"
_TEST_MODELS = "tests/lvm_runtime/models/test_models.py"
_TEST_FORWARD = "tests/train/test_forward.py"
_TEST_LOSSES = "tests/train/test_losses.py"
_TEST_RUN = "tests/train/test_run.py"
_TEST_DISTRIBUTED = "tests/train/test_distributed.py"

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
        _PREPARED_DATA,
        "        how=options.split,\n        seed=options.seed,\n",
        "        how=options.split,\n",
        f"{_TEST_PREPARED_DATA}::test_every_option_of_the_data_counts",
    ),
    Mistake(
        "a run's kind of split does not reach its split",
        _PREPARED_DATA,
        "        how=options.split,\n",
        "",
        f"{_TEST_PREPARED_DATA}::test_every_option_of_the_data_counts",
    ),
    Mistake(
        "a window is kept whose target is unusable",
        _SPLIT,
        "bad[starts + rows] ==",
        "bad[starts + rows - 1] ==",
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
        "min(1.0, (step + 1) / WARMUP_STEPS) * ",
        "",
        f"{_TEST_LOOP}::test_cosine_schedule_is_warmed_up_and_ends_at_zero",
    ),
    Mistake(
        "the cosine schedule falls from epoch to epoch, not from step to step",
        _LOOP,
        "share = min(1.0, step / (self.options.epochs * self.steps))",
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
        "the average of the weights begins before a ranked start",
        _RUN,
        "            trainer.restart_average()\n",
        "",
        f"{_TEST_RANKING}::test_recipe_runs_for_every_architecture_and_keeps_the_epoch_with_the_best_rank[lstm]",
    ),
    Mistake(
        "the LSTM drops components of its input",
        _LSTM,
        "            if layer:\n                x = self.dropout(x)",
        "            if True:\n                x = self.dropout(x)",
        f"{_TEST_MODELS}::test_lstm_drops_between_its_layers_and_only_in_training",
    ),
    Mistake(
        "the LSTM's form for training drops components of its input",
        _FORWARD,
        "            if layer:\n",
        "            if True:\n",
        f"{_TEST_FORWARD}::test_dropout_is_where_the_model_has_it[lstm-1]",
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
        f"{_TEST_FORWARD}::test_dropout_is_where_the_model_has_it[gru-3]",
    ),
    Mistake(
        "the Transformer's form for training leaves out a dropout of its last layer",
        _FORWARD,
        "layer.dropout3(inner)",
        "inner",
        f"{_TEST_FORWARD}::test_dropout_is_where_the_model_has_it[transformer-3]",
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
        "a run's seed does not reach its baselines",
        _PREPARED_DATA,
        "fit_baselines(split.train, seed=options.seed)",
        "fit_baselines(split.train)",
        f"{_TEST_PREPARED_DATA}::test_every_option_of_the_data_counts",
    ),
    Mistake(
        "vectors are not normalised, though a run asks for it",
        _PREPARED_DATA,
        "normalize=options.normalize, ",
        "",
        f"{_TEST_PREPARED_DATA}::test_every_option_of_the_data_counts[normalize]",
    ),
    Mistake(
        "a run's number of queries does not reach its baselines",
        _PREPARED_DATA,
        "split.validation, options.queries)",
        "split.validation)",
        f"{_TEST_PREPARED_DATA}::test_every_option_of_the_data_counts[queries]",
    ),
    Mistake(
        "baselines of another seed are taken over",
        _PREPARED_DATA,
        '"dim", "seed", ',
        '"dim", ',
        f"{_TEST_PREPARED_DATA}::test_every_option_of_the_data_counts[seed of the split]",
    ),
    Mistake(
        "a run's seed does not reach the synthetic corpus",
        _PREPARED_DATA,
        "        seed=options.seed,\n        context_length",
        "        context_length",
        f"{_TEST_PREPARED_DATA}::test_the_size_of_the_synthetic_corpus_counts",
    ),
    Mistake(
        "a run's weight decay does not reach its optimizer",
        _LOOP,
        ", weight_decay=options.weight_decay",
        ", weight_decay=0.01",
        f"{_TEST_LOOP}::test_epoch_equals_a_plain_loop",
    ),
    Mistake(
        "gradients are clipped at 1, whatever a run asks for",
        _LOOP,
        "clip_grads_with_norm_(self._parameters, self.options.grad_clip, norm)",
        "clip_grads_with_norm_(self._parameters, 1.0, norm)",
        f"{_TEST_LOOP}::test_epoch_equals_a_plain_loop",
    ),
    Mistake(
        "input noise is as large in each component as it should be in all",
        _LOOP,
        " * (options.input_noise / contexts.shape[2] ** 0.5)",
        " * options.input_noise",
        f"{_TEST_LOOP}::test_noise_and_vector_dropout_touch_contexts_alone_and_as_much_as_asked",
    ),
    Mistake(
        "vector dropout keeps what it should drop",
        _LOOP,
        "device=self.device) >= options.vector_dropout",
        "device=self.device) < options.vector_dropout",
        f"{_TEST_LOOP}::test_noise_and_vector_dropout_touch_contexts_alone_and_as_much_as_asked",
    ),
    Mistake(
        "vector dropout drops components",
        _LOOP,
        "contexts = contexts * kept.unsqueeze(2)",
        "contexts = F.dropout(contexts, options.vector_dropout)",
        f"{_TEST_LOOP}::test_noise_and_vector_dropout_touch_contexts_alone_and_as_much_as_asked",
    ),
    Mistake(
        "a model trains without dropout after it was judged",
        _LOOP,
        "        self.model.train()\n",
        "",
        f"{_TEST_LOOP}::test_an_epoch_trains_also_after_the_model_was_judged",
    ),
    Mistake(
        "the plateau waits for a lower cosine",
        _LOOP,
        'mode="max", factor',
        'mode="min", factor',
        f"{_TEST_LOOP}::test_plateau_halves_the_rate_after_three_epochs_without_progress",
    ),
    Mistake(
        "the plateau waits for two epochs",
        _LOOP,
        "patience=3)",
        "patience=2)",
        f"{_TEST_LOOP}::test_plateau_halves_the_rate_after_three_epochs_without_progress",
    ),
    Mistake(
        "the plateau looks at cosine, though epochs are judged by rank",
        _RUN,
        'trainer.end_epoch(found[f"val_{options.judge}"])',
        'trainer.end_epoch(found["val_cosine"])',
        f"{_TEST_RANKING}::test_recipe_runs_for_every_architecture_and_keeps_the_epoch_with_the_best_rank[amn]",
    ),
    Mistake(
        "a run's seed does not reach its weights",
        _RUN,
        "build_model(config, seed=options.seed)",
        "build_model(config, seed=0)",
        f"{_TEST_RUN}::test_a_seed_reaches_weights_start_dropout_and_candidates",
    ),
    Mistake(
        "a run's seed does not reach dropout",
        _RUN,
        "torch.manual_seed(options.seed + processes.rank)",
        "torch.manual_seed(processes.rank)",
        f"{_TEST_RUN}::test_a_seed_reaches_weights_start_dropout_and_candidates",
    ),
    Mistake(
        "dropout has no seed",
        _RUN,
        "    torch.manual_seed(options.seed + processes.rank)  #",
        "    #",
        f"{_TEST_RUN}::test_same_seed_same_weights",
    ),
    Mistake(
        "a run's seed does not reach its start",
        _RUN,
        "start_at_baseline(model.to(device), train_windows, seed=options.seed)",
        "start_at_baseline(model.to(device), train_windows)",
        f"{_TEST_RUN}::test_a_seed_reaches_weights_start_dropout_and_candidates",
    ),
    Mistake(
        "a run's seed does not reach the candidates of the ranking loss",
        _LOOP,
        "options.temperature, options.candidates, options.seed)",
        "options.temperature, options.candidates)",
        f"{_TEST_RUN}::test_a_seed_reaches_weights_start_dropout_and_candidates",
    ),
    Mistake(
        "the ranking loss takes all candidates, whatever a run asks for",
        _LOOP,
        "options.temperature, options.candidates, options.seed)",
        "options.temperature, 0, options.seed)",
        f"{_TEST_RUN}::test_a_seed_reaches_weights_start_dropout_and_candidates",
    ),
    Mistake(
        "the ranking loss draws the same candidates in every step",
        _LOOP,
        "self.ranking(predictions, starts, targets, self.epoch * self.steps + self.step)",
        "self.ranking(predictions, starts, targets)",
        f"{_TEST_RANKING}::test_each_step_of_a_run_draws_by_its_number",
    ),
    Mistake(
        "a fingerprint holds training windows, not held-out ones",
        _RUN,
        "held_out = prepared.split.validation.sample",
        "held_out = prepared.split.train.sample",
        f"{_TEST_RUN}::test_run_writes_an_artifact_that_knows_its_run[lstm]",
    ),
    Mistake(
        "a run trains on validation documents",
        _RUN,
        "    train_windows = prepared.split.train\n",
        "    train_windows = prepared.split.validation\n",
        f"{_TEST_RUN}::test_a_run_trains_on_training_windows_and_judges_its_average_on_validation",
    ),
    Mistake(
        "a run's seed does not reach its ranked start",
        _RUN,
        "cosine_weight=options.cosine_weight, seed=options.seed)",
        "cosine_weight=options.cosine_weight)",
        f"{_TEST_RUN}::test_a_seed_reaches_weights_start_dropout_and_candidates",
    ),
    Mistake(
        "the ranking loss lets a window's own context compete",
        _RANKING,
        "= -torch.inf  #",
        "= logits[row, places[row, column] - begin]  #",
        f"{_TEST_RANKING}::test_loss_and_gradient_are_those_of_a_dense_softmax[one block-resident]",
    ),
    Mistake(
        "a sample of candidates counts for itself alone",
        _RANKING,
        "torch.tensor(len(ranking.rows) / len(rows), device=own.device).log()",
        "torch.zeros((), device=own.device)",
        f"{_TEST_RANKING}::test_a_sample_estimates_the_whole_and_is_new_for_each_step",
    ),
    Mistake(
        "a run's temperature does not reach InfoNCE",
        _LOOP,
        "row_losses(options.loss, predictions, targets, options.temperature)",
        "row_losses(options.loss, predictions, targets, 0.07)",
        f"{_TEST_LOOP}::test_a_step_takes_the_loss_and_the_temperature_that_were_asked_for",
    ),
    Mistake(
        "a run's loss is always MSE",
        _LOOP,
        "row_losses(options.loss, predictions",
        'row_losses("mse", predictions',
        "tests/train/test_compare.py::test_report_is_whole_and_self_contained",
    ),
    Mistake(
        "a run in bf16 computes in fp32",
        _LOOP,
        "with autocast(options.precision, self.device)",
        'with autocast("fp32", self.device)',
        f"{_TEST_LOOP}::test_bf16_follows_fp32",
    ),
    Mistake(
        "a process with fewer rows weighs as much as the others",
        _DISTRIBUTED,
        "len(mine) * self.count / len(batch)",
        "1.0",
        f"{_TEST_DISTRIBUTED}::test_shares_make_up_the_batch_and_its_mean[1]",
    ),
    Mistake(
        "every process takes the whole batch",
        _DISTRIBUTED,
        "mine = batch[self.rank :: self.count]",
        "mine = batch",
        f"{_TEST_DISTRIBUTED}::test_shares_make_up_the_batch_and_its_mean[1]",
    ),
    Mistake(
        "a recipe overrules the command line",
        "train/__main__.py",
        "TrainOptions(**(named | given | fixed",
        "TrainOptions(**(given | named | fixed",
        f"{_TEST_RUN}::test_the_command_line_comes_after_the_recipe",
    ),
]
