"""A search that finds what it should leave out, and texts that are cut so that it has to."""

from tests.mistakes.mistake import Mistake

_NEXT = "lvm_runtime/retrieval/next.py"
_TEST_NEXT = "tests/lvm_runtime/retrieval/test_next.py"

MISTAKES = [
    Mistake(
        "a chunk of zeros that was read is found",
        _NEXT,
        "    return alike | ~vectors.any(axis=1)",
        "    return alike",
        f"{_TEST_NEXT}::test_a_chunk_of_zeros_in_the_context_is_left_out_too",
    ),
    Mistake(
        "a zero query is always called row 0",
        _NEXT,
        "    if len(zero):\n",
        "    if False:\n",
        f"{_TEST_NEXT}::test_a_context_that_leaves_nothing_to_search_for_is_named",
    ),
    Mistake(
        "a chunk may only repeat the end of the one before it",
        "lvm_runtime/text/cutting.py",
        "np.arange(max(first + wanted // 2, before + 1), first",
        "np.arange(first + max(1, wanted // 2), first",
        "tests/lvm_runtime/text/test_cutting.py::test_a_chunk_that_overlaps_goes_on_beyond_the_one_before_it[16-100]",
    ),
    Mistake(
        "a file with a hard link is two documents",
        "lvm_runtime/text/reading.py",
        "(found.st_dev, found.st_ino) if found.st_nlink > 1 else os.path",
        "os.path",
        "tests/lvm_runtime/text/test_reading.py::test_a_file_with_two_names_is_one_document",
    ),
]
