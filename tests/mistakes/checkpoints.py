"""Runs that are taken up again and are not the same run."""

from tests.mistakes.mistake import Mistake

_CHECKPOINT = "train/checkpoint.py"
_RUN = "train/run.py"
_TEST_CHECKPOINT = "tests/train/test_checkpoint.py"

MISTAKES = [
    Mistake(
        "a checkpoint of other data is continued",
        _CHECKPOINT,
        'if self.state["corpus"] != corpus:',
        "if False:",
        f"{_TEST_CHECKPOINT}::test_other_data_under_the_same_name_is_refused",
    ),
    Mistake(
        "a checkpoint's digest is compared with nothing",
        _RUN,
        "look=checkpoint.compare_data if checkpoint else None",
        "look=None",
        f"{_TEST_CHECKPOINT}::test_other_data_under_the_same_name_is_refused",
    ),
    Mistake(
        "the plateau's state is not restored",
        _CHECKPOINT,
        '        trainer.plateau.load_state_dict(state["plateau"])\n',
        "",
        f"{_TEST_CHECKPOINT}::test_what_a_checkpoint_holds_comes_back",
    ),
    Mistake(
        "the average of the weights is not restored",
        _CHECKPOINT,
        '            trainer.average.load_state_dict(state["average"])\n',
        "            pass\n",
        f"{_TEST_CHECKPOINT}::test_what_a_checkpoint_holds_comes_back",
    ),
    Mistake(
        "the optimizer's state is not restored",
        _CHECKPOINT,
        '        trainer.optimizer.load_state_dict(state["optimizer"])\n',
        "",
        f"{_TEST_CHECKPOINT}::test_what_a_checkpoint_holds_comes_back",
    ),
    Mistake(
        "a run goes on from the start of its epoch",
        _CHECKPOINT,
        'trainer.epoch, trainer.step = state["epoch"], state["step"]',
        'trainer.epoch, trainer.step = state["epoch"], 0',
        f"{_TEST_CHECKPOINT}::test_what_a_checkpoint_holds_comes_back",
    ),
    Mistake(
        "the losses of the epoch so far are not restored",
        _CHECKPOINT,
        '        trainer.losses.copy_(state["losses"])\n',
        "",
        f"{_TEST_CHECKPOINT}::test_what_a_checkpoint_holds_comes_back",
    ),
    Mistake(
        "the random state is not restored",
        _CHECKPOINT,
        'torch.set_rng_state(state["cpu"])',
        "pass",
        f"{_TEST_CHECKPOINT}::test_what_a_checkpoint_holds_comes_back",
    ),
    Mistake(
        "the history of the epochs so far is lost",
        _CHECKPOINT,
        'return Progress(state["history"], ',
        "return Progress([], ",
        f"{_TEST_CHECKPOINT}::test_what_a_checkpoint_holds_comes_back",
    ),
    Mistake(
        "the seconds so far are lost",
        _CHECKPOINT,
        ', state["seconds"])',
        ")",
        f"{_TEST_CHECKPOINT}::test_what_a_checkpoint_holds_comes_back",
    ),
    Mistake(
        "an option that the checkpoint does not have may be anything",
        _CHECKPOINT,
        "before.get(name) != value",
        "before.get(name, value) != value",
        f"{_TEST_CHECKPOINT}::test_other_options_are_refused",
    ),
    Mistake(
        "a run may go on with another learning rate",
        _CHECKPOINT,
        'FREE = frozenset({"out",',
        'FREE = frozenset({"learning_rate", "out",',
        f"{_TEST_CHECKPOINT}::test_other_options_are_refused",
    ),
    Mistake(
        "a run that starts afresh leaves the old checkpoint",
        _RUN,
        "        path.unlink()\n",
        "",
        f"{_TEST_CHECKPOINT}::test_a_run_that_starts_afresh_drops_the_checkpoint_before_it",
    ),
    Mistake(
        "options that may not differ may, and the others may not",
        _CHECKPOINT,
        "if name not in FREE and",
        "if name in FREE and",
        f"{_TEST_CHECKPOINT}::test_other_options_are_refused",
    ),
    Mistake(
        "the digest of a corpus is that of 256 rows",
        "lvm_runtime/corpus/corpus.py",
        "array[begin : begin + _BLOCK]",
        "array[begin : begin + _BLOCK : max(1, len(array) // 256)]",
        "tests/train/data/test_corpus.py::test_digest_tells_data_apart",
    ),
    Mistake(
        "a checkpoint of an older schema is taken up",
        _CHECKPOINT,
        """state.get("schema") != SCHEMA:""",
        """state.get("schema") not in (2, SCHEMA):""",
        f"{_TEST_CHECKPOINT}::test_a_checkpoint_of_an_older_schema_says_what_to_do",
    ),
]
