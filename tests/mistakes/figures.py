"""Figures that say more than was measured, and the wrong epoch."""

from tests.mistakes.mistake import Mistake

_METRICS = "train/evaluation/metrics.py"
_EVALUATE = "train/evaluation/evaluate.py"
_GATE = "train/evaluation/gate.py"
_RUN = "train/run.py"
_HOLDOUT = "train/data/holdout.py"
_PREPARED_DATA = "train/prepared_data.py"
_TEST_RETRIEVAL = "tests/train/evaluation/test_retrieval.py"
_TEST_GATE = "tests/train/evaluation/test_gate.py"
_TEST_RUN = "tests/train/test_run.py"
_TEST_HOLDOUT = "tests/train/data/test_holdout.py"
_TEST_PREPARED_DATA = "tests/train/test_prepared_data.py"

MISTAKES = [
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
        "found.loss <= STEP_LIMIT and found.gradient <= STEP_LIMIT",
        "found.loss <= STEP_LIMIT",
        f"{_TEST_GATE}::test_a_step_whose_loss_or_gradient_is_off_is_stopped[gradient]",
    ),
    Mistake(
        "the loss of the first step on a device is not judged",
        _GATE,
        "found.loss <= STEP_LIMIT and found.gradient <= STEP_LIMIT",
        "found.gradient <= STEP_LIMIT",
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
        "the best epoch's weights go on changing",
        _RUN,
        "v.detach().cpu().clone()",
        "v.detach().cpu()",
        f"{_TEST_RUN}::test_best_epoch_is_what_is_kept",
    ),
    Mistake(
        "the last epoch is kept, not the best",
        _RUN,
        "    if judged > progress.best_score:",
        "    if True:",
        f"{_TEST_RUN}::test_best_epoch_is_what_is_kept",
    ),
    Mistake(
        "the figures of test documents are those of validation",
        _RUN,
        "evaluate(model, split.test, prepared.test_scores",
        "evaluate(model, split.validation, prepared.scores",
        f"{_TEST_RUN}::test_run_writes_an_artifact_that_knows_its_run[lstm]",
    ),
    Mistake(
        "what a fit is chosen by, it is fitted on",
        _HOLDOUT,
        "return (windows, windows) if held.all() else (side(~held), side(held))",
        "return (windows, windows)",
        f"{_TEST_HOLDOUT}::test_the_last_tenth_of_the_documents_is_kept_out[2-held0]",
    ),
    Mistake(
        "documents kept out of a fit are in it as well",
        _HOLDOUT,
        "(side(~held), side(held))",
        "(windows, side(held))",
        f"{_TEST_HOLDOUT}::test_the_last_tenth_of_the_documents_is_kept_out[2-held0]",
    ),
    Mistake(
        "a single document is kept out of a fit, not a tenth of them",
        _HOLDOUT,
        "max(1, len(documents) // 10)",
        "1",
        f"{_TEST_HOLDOUT}::test_the_last_tenth_of_the_documents_is_kept_out[20-held2]",
    ),
    Mistake(
        "a model beats a baseline though its interval has zero in it",
        _EVALUATE,
        'word = "beats" if found.word == CLEAR',
        'word = "beats" if found.value.value > 0',
        f"{_TEST_RETRIEVAL}::test_a_model_beats_a_baseline_where_the_whole_interval_does[from zero]",
    ),
    Mistake(
        "retrieval is compared with the worst baseline",
        _EVALUATE,
        "max(theirs, key",
        "min(theirs, key",
        f"{_TEST_RETRIEVAL}::test_what_is_said_of_a_model_beside_its_baselines",
    ),
    Mistake(
        "retrieval is compared with the best baseline for cosine",
        _EVALUATE,
        "paired_differences(scores, baselines)",
        "paired_differences(scores, {nearest: baselines[nearest]})",
        f"{_TEST_RETRIEVAL}::test_what_is_said_of_a_model_beside_its_baselines",
    ),
    Mistake(
        "near copies of training windows are validated on without a word",
        _PREPARED_DATA,
        "max(share, nearly_copied(split.train, windows))",
        "share",
        "tests/train/test_prepared_data.py::test_copies_of_training_windows_among_held_out_ones_are_told[documents]",
    ),
    Mistake(
        "a difference on five documents is clear of zero",
        _METRICS,
        "self.documents < FEWEST_DOCUMENTS",
        "self.documents < 2",
        f"{_TEST_RETRIEVAL}::test_few_documents_say_nothing_of_others[5-of 5 DOCUMENTS]",
    ),
    Mistake(
        "a difference is below zero though its interval has zero in it",
        _METRICS,
        '"BELOW zero" if self.high < 0',
        '"BELOW zero" if self.value < 0',
        f"{_TEST_RETRIEVAL}::test_a_model_beats_a_baseline_where_the_whole_interval_does[to zero]",
    ),
    Mistake(
        "the best epoch is the one for cosine, though another metric judges",
        _RUN,
        'judged = found[f"val_{trainer.options.judge}"]',
        'judged = found["val_cosine"]',
        "tests/train/test_ranking.py::test_recipe_runs_for_every_architecture_and_keeps_the_epoch_with_the_best_rank[amn]",
    ),
    Mistake(
        "epochs are judged by the weights, not by their average",
        _RUN,
        "predict, windows = trainer.evaluated.eval(), prepared",
        "predict, windows = trainer.model.eval(), prepared",
        f"{_TEST_RUN}::test_a_run_trains_on_training_windows_and_judges_its_average_on_validation",
    ),
    Mistake(
        "epochs are judged on test documents",
        _RUN,
        "trainer.evaluated.eval(), prepared.split.validation",
        "trainer.evaluated.eval(), prepared.split.test if len(prepared.split.test) else prepared.split.validation",
        f"{_TEST_RUN}::test_run_writes_an_artifact_that_knows_its_run[lstm]",
    ),
    Mistake(
        "epochs are judged on training documents",
        _RUN,
        "trainer.evaluated.eval(), prepared.split.validation",
        "trainer.evaluated.eval(), prepared.split.train",
        f"{_TEST_RUN}::test_best_epoch_is_what_is_kept",
    ),
    Mistake(
        "baselines are fitted on validation documents",
        _PREPARED_DATA,
        "fit_baselines(split.train, seed",
        "fit_baselines(split.validation, seed",
        f"{_TEST_PREPARED_DATA}::test_baselines_are_fitted_on_one_side_and_scored_on_the_others",
    ),
    Mistake(
        "baselines of test documents are scored on validation documents",
        _PREPARED_DATA,
        "score(baselines.predictors, split.test, options.queries)",
        "score(baselines.predictors, split.validation, options.queries)",
        f"{_TEST_PREPARED_DATA}::test_baselines_are_fitted_on_one_side_and_scored_on_the_others",
    ),
]
