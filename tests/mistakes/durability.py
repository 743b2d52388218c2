"""Files that a power cut would lose, though no kill does."""

from tests.mistakes.mistake import Mistake

_ATOMIC, _FOLDER, _OUTPUT = (
    "lvm_runtime/system/atomic.py",
    "lvm_runtime/artifact/folder.py",
    "lvm_runtime/bulk/output.py",
)
_TESTS = "tests/lvm_runtime/test_durability.py"
_BEHIND = "tests/lvm_runtime/bulk/test_output.py"
_FILE = f"{_TESTS}::test_replaced_file_is_flushed_before_and_its_folder_after"
_WHOLE = f"{_TESTS}::test_replaced_folder_is_flushed_with_all_that_is_in_it[True]"
_TOGETHER = f"{_TESTS}::test_files_that_belong_together_are_flushed_before_the_first_takes_its_place"
_COMMIT = f"{_TESTS}::test_committed_form_is_on_the_disk_before_the_manifest_names_it"
_JOURNAL = f"{_TESTS}::test_block_is_in_the_journal_only_when_it_is_on_the_disk"
_FINISHED = f"{_TESTS}::test_finished_output_is_on_the_disk_before_the_journal_goes"

MISTAKES = [
    Mistake("nothing is flushed", _ATOMIC, "        os.fsync(descriptor)\n", "        pass\n", _FILE),
    Mistake(
        "a file takes its place before it is flushed",
        _ATOMIC,
        "            sync_tree(temporary)\n            if path.is_dir() and not",
        "            if path.is_dir() and not",
        _FILE,
    ),
    Mistake(
        "the folder of a replaced file is not flushed",
        _ATOMIC,
        "                os.replace(temporary, path)\n            sync(path.parent)\n",
        "                os.replace(temporary, path)\n",
        _FILE,
    ),
    Mistake(
        "a folder is flushed without what is in it",
        _ATOMIC,
        "        for child in path.iterdir():\n            sync_tree(child)\n",
        "        pass\n",
        _WHOLE,
    ),
    Mistake(
        "files that belong together take their places before they are flushed",
        _ATOMIC,
        "        sync_tree(holder)\n        for name in files:\n            os.replace(holder / name, folder / name)\n",
        "        for name in files:\n            os.replace(holder / name, folder / name)\n        sync_tree(holder)\n",
        _TOGETHER,
    ),
    Mistake(
        "files that belong together are flushed one by one as they take their places",
        _ATOMIC,
        "        sync_tree(holder)\n        for name in files:\n            os.replace(holder / name, folder / name)\n",
        "        for name in files:\n            move(holder / name, folder / name)\n",
        _TOGETHER,
    ),
    Mistake(
        "the folder of files that belong together is not flushed",
        _ATOMIC,
        "            os.replace(holder / name, folder / name)\n        sync(folder)\n",
        "            os.replace(holder / name, folder / name)\n",
        _TOGETHER,
    ),
    Mistake(
        "what is moved takes its place before it is flushed",
        _ATOMIC,
        "    sync_tree(temporary)\n    os.replace(temporary, path)\n    sync(path.parent)\n",
        "    os.replace(temporary, path)\n    sync_tree(path)\n    sync(path.parent)\n",
        _COMMIT,
    ),
    Mistake(
        "the folder that something is moved to is not flushed",
        _ATOMIC,
        "    os.replace(temporary, path)\n    sync(path.parent)\n\n\ndef share_tree",
        "    os.replace(temporary, path)\n\n\ndef share_tree",
        _COMMIT,
    ),
    Mistake(
        "a compiled form is renamed and not flushed",
        _FOLDER,
        "atomic.move(temporary, self.path / relative)",
        "temporary.rename(self.path / relative)",
        _COMMIT,
    ),
    Mistake(
        "the manifest names a form whose folder is not on the disk",
        _FOLDER,
        "                atomic.sync(self.path)  # the form's folder may be new\n",
        "",
        _COMMIT,
    ),
    Mistake(
        "a listed form is replaced before the manifest without it is on the disk",
        _FOLDER,
        "                atomic.write_bytes(self.path / MANIFEST, replace(manifest, compiled=others).to_json())",
        "                (self.path / MANIFEST).write_bytes(replace(manifest, compiled=others).to_json())",
        _COMMIT,
    ),
    Mistake(
        "blocks are entered into the journal and not flushed",
        _OUTPUT,
        "            os.fsync(self._data.fileno())\n",
        "",
        _JOURNAL,
    ),
    Mistake(
        "blocks are entered into the journal before they are flushed",
        _OUTPUT,
        "            os.fsync(self._data.fileno())\n            self._check_whole()\n"
        '            self._journal.write("".join(lines))\n',
        '            self._check_whole()\n            self._journal.write("".join(lines))\n'
        "            os.fsync(self._data.fileno())\n",
        _JOURNAL,
    ),
    Mistake(
        "the journal's heading is not flushed",
        _OUTPUT,
        "atomic.write_bytes(self.place.progress, journal.heading(self._identity).encode())",
        "self.place.progress.write_bytes(journal.heading(self._identity).encode())",
        f"{_FINISHED}[out.npy]",
    ),
    Mistake(
        "a finished `.npy` is renamed and not flushed",
        _OUTPUT,
        "atomic.move(part, path)",
        "part.replace(path)",
        f"{_FINISHED}[out.npy]",
    ),
    Mistake(
        "a finished `.npz` is written in its place",
        _OUTPUT,
        "                with atomic.replacing(path) as temporary:\n                    _write_npz(temporary",
        "                if True:\n                    _write_npz(path",
        f"{_FINISHED}[out.npz]",
    ),
    Mistake(
        "a `.parquet` grows in its place",
        _OUTPUT,
        "temporary = stack.enter_context(atomic.replacing(path))",
        "temporary = path",
        f"{_BEHIND}::test_a_run_that_is_stopped_leaves_no_table_and_the_next_one_makes_all_of_it",
    ),
    Mistake(
        "a table behind the run takes blocks before those ahead of them are there",
        _OUTPUT,
        "self._table.extend(min(self._next * self.block, self.rows))",
        "self._table.extend(min((number + 1) * self.block, self.rows))",
        f"{_BEHIND}::test_blocks_are_written_behind_the_run_in_order",
    ),
    Mistake(
        "the list of bad rows is written in its place",
        _OUTPUT,
        'with atomic.replacing(self.place.sidecar) as temporary, temporary.open("w", newline="") as file:',
        'with self.place.sidecar.open("w", newline="") as file:',
        f"{_FINISHED}[out.npy]",
    ),
    Mistake(
        "the journal goes before the output is in its place",
        _OUTPUT,
        '        if path.suffix == ".npy":\n            atomic',
        "        self.place.progress.write_bytes(b'')\n        if path.suffix == \".npy\":\n            atomic",
        f"{_TESTS}::test_output_that_cannot_take_its_place_is_kept_for_a_second_run[out.npy]",
    ),
    Mistake(
        "a part of a bulk run is renamed and not flushed",
        "lvm_runtime/bulk/parts.py",
        "atomic.move(temporary, path)",
        "temporary.replace(path)",
        f"{_TESTS}::test_part_of_a_bulk_run_is_on_the_disk",
    ),
]
