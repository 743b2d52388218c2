"""Promises that a test had in its name and did not check."""

from tests.mistakes.mistake import Mistake

_BATCHER = "lvm_runtime/batcher.py"
_BUILD = "lvm_runtime/models/build.py"
_IMPORT_CHECKPOINT = "train/import_checkpoint.py"
_TEST_BATCHER = "tests/lvm_runtime/test_batcher.py"
_TEST_MODELS = "tests/lvm_runtime/models/test_models.py"
_TEST_IMPORT_CHECKPOINT = "tests/train/test_import_checkpoint.py"

MISTAKES = [
    Mistake(
        "the delay counts twice",
        _BATCHER,
        "self.waiting[0].arrived + self.max_delay - time",
        "self.waiting[0].arrived + 2 * self.max_delay - time",
        f"{_TEST_BATCHER}::test_a_lone_request_waits_no_longer_than_the_delay",
    ),
    Mistake(
        "a lone request waits for a full batch",
        _BATCHER,
        "or self.closed, remaining)",
        "or self.closed)",
        f"{_TEST_BATCHER}::test_many_callers_get_their_own_answers",
    ),
    Mistake(
        "the LSTM drops at its second place on both sides of a layer",
        "lvm_runtime/models/lstm.py",
        "            x = torch.lstm(x,",
        "            x = self.dropout(x) if layer > 1 else x\n            x = torch.lstm(x,",
        f"{_TEST_MODELS}::test_lstm_drops_between_its_layers_and_only_in_training",
    ),
    Mistake(
        "a model's weights do not look at the seed",
        _BUILD,
        "        torch.manual_seed(seed)\n",
        "",
        f"{_TEST_MODELS}::test_seeded_weights_repeat_and_leave_the_callers_generator_alone[lstm]",
    ),
    Mistake(
        "a model's weights are the same for every seed",
        _BUILD,
        "        torch.manual_seed(seed)\n",
        "        torch.manual_seed(0)\n",
        f"{_TEST_MODELS}::test_seeded_weights_repeat_and_leave_the_callers_generator_alone[lstm]",
    ),
    Mistake(
        "an imported checkpoint's cosine may be 0.02 off",
        _IMPORT_CHECKPOINT,
        "COSINE_TOLERANCE = 0.01",
        "COSINE_TOLERANCE = 0.02",
        f"{_TEST_IMPORT_CHECKPOINT}::test_cosine_is_computed_again",
    ),
    Mistake(
        "an imported checkpoint's cosine may be any amount too high",
        _IMPORT_CHECKPOINT,
        "if not abs(measured - stored) <=",
        "if not measured - stored <=",
        f"{_TEST_IMPORT_CHECKPOINT}::test_cosine_is_computed_again",
    ),
    Mistake(
        "doctor says that an absent backend works",
        "lvm_runtime/commands/doctor.py",
        'return "no", str(error)',
        'return "yes", str(error)',
        "tests/lvm_runtime/commands/test_main.py::test_doctor_says_of_every_backend_whether_it_works",
    ),
    Mistake(
        "a cosine at a threshold counts as over it",
        "train/evaluation/metrics.py",
        "(scores.cosine > t)",
        "(scores.cosine >= t)",
        "tests/train/evaluation/test_metrics.py::test_shares_over_the_thresholds_are_counted",
    ),
]
