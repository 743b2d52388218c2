"""Faults of a server: what its workers share, what a request may hold, who is asked for a token."""

from tests.mistakes.mistake import Mistake

_T = "tests/lvm_runtime/server"
_CONNECTION = "lvm_runtime/server/connection.py"

MISTAKES = [
    Mistake(
        "the threads of a model that is shared are lost in a worker",
        "lvm_runtime/server/workers.py",
        "return running.threads == 1 and ",
        "return ",
        f"{_T}/test_workers.py::test_workers_share_only_what_keeps_its_threads",
    ),
    Mistake(
        "a worker that replaces another serves the models from before a reload",
        "lvm_runtime/server/run.py",
        "    elif models.outdated:\n        await models.reload()\n",
        "",
        f"{_T}/test_signals.py::test_a_signal_while_the_workers_start_is_heard[supervisor-SIGHUP]",
    ),
    Mistake(
        "requests with attention have a queue of their own",
        "lvm_runtime/server/models.py",
        "sum(each.pending for each in self._batchers.values())",
        "batcher.pending",
        f"{_T}/test_models.py::test_a_full_queue_refuses_and_goes_on",
    ),
    Mistake(
        "a shape may have any number of sizes",
        "lvm_runtime/server/tensors.py",
        "or len(shape) > 3 ",
        "",
        f"{_T}/test_refusals.py::test_a_shape_of_many_sizes_is_refused_before_they_are_multiplied",
    ),
    Mistake(
        "the token is asked for by an address that the client writes",
        "lvm_runtime/server/rest.py",
        'request.scope["path"].startswith("/v2/health/")',
        'request.url.path.startswith("/v2/health/")',
        f"{_T}/test_rest.py::test_a_host_opens_no_path_without_the_token",
    ),
    Mistake(
        "a head that comes in pieces has no limit",
        _CONNECTION,
        "                self._unparsed += len(piece)\n",
        "",
        f"{_T}/test_connection.py::test_a_head_without_an_end_ends_the_connection",
    ),
    Mistake(
        "an offer of HTTP/2 is seen in one piece only",
        _CONNECTION,
        "        self._tail = joined[-_OFFER:]\n",
        "",
        f"{_T}/test_connection.py::test_an_offer_of_another_protocol_may_come_in_any_pieces",
    ),
    Mistake(
        "an empty line keeps a connection open for ever",
        _CONNECTION,
        'data = data.lstrip(b"\\r\\n")',
        "pass",
        f"{_T}/test_connection.py::test_a_connection_that_brings_no_other_request_is_closed",
    ),
]
