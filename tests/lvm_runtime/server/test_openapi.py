"""The server does what its own description says, for requests of all kinds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.lvm_runtime.server.serving import Running


def _check(case: Any) -> None:
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # no schema can say that the numbers of `data` are as many as `shape` says
    case.call_and_validate(excluded_checks=[positive_data_acceptance])


@pytest.mark.soak
def test_answers_conform_to_the_description(server: Running) -> None:
    import schemathesis  # takes seconds

    described = schemathesis.openapi.from_url(f"http://{server.http}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) == 14
    for operation in operations:
        checks = settings(max_examples=50, deadline=None, database=None, phases=[Phase.generate])
        checks = settings(checks, suppress_health_check=list(HealthCheck))
        checks(given(case=operation.as_strategy())(_check))()
    assert "failed" not in server.names()
