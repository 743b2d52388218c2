"""What a second run of a bulk job does not compare before it goes on with an interrupted one."""

from tests.mistakes.mistake import Mistake

_PREDICT, _PARTS, _OUTPUT = "lvm_runtime/bulk/predict.py", "lvm_runtime/bulk/parts.py", "lvm_runtime/bulk/output.py"
_MODEL = "tests/lvm_runtime/bulk/test_resumption.py::test_what_another_model_began_is_not_taken_up"
_PART = "tests/lvm_runtime/bulk/test_resumption.py::test_parts_of_another_model_are_made_again"
_BLOCKS = "tests/lvm_runtime/bulk/test_resumption.py::test_blocks_of_another_size_are_not_taken_up"
_CHANGED = (
    "tests/lvm_runtime/bulk/test_destination.py"
    "::test_an_input_with_other_contents_but_the_same_size_and_time_is_noticed"
)
_PARTS_CHANGED = "tests/lvm_runtime/bulk/test_parts.py::test_a_second_run_makes_what_is_missing_or_of_other_files"

MISTAKES = [
    Mistake(
        "an input's times are left out",
        _PREDICT,
        "[str(path.absolute()), s.st_size, s.st_mtime_ns, s.st_ino, s.st_ctime_ns]",
        "[str(path.absolute()), s.st_size, s.st_ino]",
        f"{_CHANGED}[in.npy]",
    ),
    Mistake(
        "of an input's times only that is compared which anybody can set",
        _PREDICT,
        "s.st_ino, s.st_ctime_ns]",
        "s.st_ino]",
        f"{_CHANGED}[in.npy]",
    ),
    Mistake(
        "the file of document numbers beside an input is left out",
        _PREDICT,
        "inputs = files_with_ids(source)",
        "inputs = [source]",
        f"{_CHANGED}[in.ids.npy]",
    ),
    Mistake(
        "the weights are left out",
        _PREDICT,
        '        "weights": predictor.artifact.manifest.model,\n',
        "",
        f"{_MODEL}[weights]",
    ),
    Mistake(
        "the form that runs is left out",
        _PREDICT,
        '        "model": [str(running), hashes.get(running.file)],\n',
        "",
        f"{_MODEL}[backend]",
    ),
    Mistake(
        "the precision is left out",
        _PREDICT,
        '"model": [str(running), hashes.get(running.file)],',
        '"model": [running.backend],',
        f"{_MODEL}[precision]",
    ),
    Mistake(
        "the contents of the form that runs are left out",
        _PREDICT,
        '"model": [str(running), hashes.get(running.file)],',
        '"model": [str(running)],',
        f"{_MODEL}[form]",
    ),
    Mistake(
        "the form of documents is left out",
        _PREDICT,
        '        "sequence": [c.file.sha256 for c in compiled if c.form == "sequence"],\n',
        "",
        f"{_MODEL}[form of documents]",
    ),
    Mistake(
        "the size of blocks is left out",
        _OUTPUT,
        'identity | {"rows": rows, "dim": dim, "block": block}',
        'identity | {"rows": rows, "dim": dim}',
        _BLOCKS,
    ),
    Mistake(
        "the number of rows is left out",
        _OUTPUT,
        'identity | {"rows": rows, "dim": dim, "block": block}',
        'identity | {"dim": dim, "block": block}',
        _BLOCKS,
    ),
    Mistake(
        "a journal of another run is read",
        "lvm_runtime/bulk/journal.py",
        "    if found != identity:\n",
        "    if found is None:\n",
        _BLOCKS,
    ),
    Mistake(
        "parts of other weights are kept",
        _PARTS,
        '        "weights": manifest.model,\n',
        "",
        "tests/lvm_runtime/bulk/test_resumption.py::test_parts_of_other_weights_are_made_again",
    ),
    Mistake(
        "parts of another backend or precision are kept",
        _PARTS,
        '        "form": f"{running.backend} {running.precision} {running.file}",\n',
        "",
        f"{_PART}[backend]",
    ),
    Mistake(
        "parts of another file of the same form are kept",
        _PARTS,
        "if c.file.path == running.file or c.form",
        "if c.form",
        f"{_PART}[form]",
    ),
    Mistake(
        "parts of another form of documents are kept",
        _PARTS,
        ' or c.form == "sequence"]',
        "]",
        f"{_PART}[form of documents]",
    ),
    Mistake(
        "parts of an input that changed are kept",
        _PARTS,
        'found["identity"] == identity and',
        'found["identity"] | {"state": 0} == identity | {"state": 0} and',
        _PARTS_CHANGED,
    ),
    Mistake(
        "parts are kept although the ids beside their vectors changed",
        _PARTS,
        "for path in files_with_ids(source) if",
        "for path in [source] if",
        "tests/lvm_runtime/bulk/test_parts.py::test_other_ids_beside_the_same_vectors_are_other_parts",
    ),
    Mistake(
        "blocks that hold rows set aside are taken up by a run that was not told to skip any",
        "lvm_runtime/bulk/predict.py",
        "if output.bad and not skip_bad:",
        "if False:",
        "tests/lvm_runtime/bulk/test_resumption.py::test_rows_that_were_set_aside_are_not_taken_for_predictions",
    ),
    Mistake(
        "parts that hold rows set aside are taken up by a run that was not told to skip any",
        _PARTS,
        ' and (skip_bad or not found["bad"])',
        "",
        "tests/lvm_runtime/bulk/test_parts.py::test_bad_rows_are_set_aside_with_their_numbers",
    ),
    Mistake(
        "parts may be written among their inputs",
        _PARTS,
        "    _keep_off_inputs(folder, parts)\n",
        "",
        "tests/lvm_runtime/bulk/test_parts.py::test_parts_are_not_written_beside_their_inputs[True-]",
    ),
    Mistake(
        "what no run wrote is removed for the parts",
        _PARTS,
        '    if path.suffix == ".parquet":\n        return _PART_NAME.fullmatch(path.name) is not None\n',
        '    if path.suffix == ".parquet":\n        return True\n',
        "tests/lvm_runtime/bulk/test_parts.py::test_what_no_run_wrote_is_not_removed[theirs.parquet-overwrite]",
    ),
    Mistake(
        "a restart drops the parts of a finished run",
        _PARTS,
        "(restart and MANIFEST not in found)",
        "restart",
        "tests/lvm_runtime/bulk/test_parts.py::test_restart_drops_an_unfinished_run_and_overwrite_a_finished_one_too",
    ),
    Mistake(
        "parts of whatever are kept",
        _PARTS,
        'if found is not None and found["identity"] == identity and',
        "if found is not None and",
        _PARTS_CHANGED,
    ),
]
