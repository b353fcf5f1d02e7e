"""What this process counts, in Prometheus' terms. What stands in the database is asked there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Histogram

REQUESTS = Counter("marketplace_requests", "Answered HTTP requests", ("operation", "status"))
REQUEST_SECONDS = Histogram(
    "marketplace_request_seconds",
    "From a request's arrival to the end of its answer",
    ("operation",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
SWEEPS = Counter("marketplace_sweeps", "Runs of background work", ("sweep", "outcome"))
SWEPT = Counter("marketplace_swept_rows", "Rows that background work has dealt with", ("sweep",))
SWEEP_SECONDS = Histogram(
    "marketplace_sweep_seconds",
    "How long a run of background work took",
    ("sweep",),
    buckets=(0.01, 0.05, 0.25, 1, 5, 30, 120),
)


def answered(operation: str, status: int, seconds: float) -> None:
    REQUESTS.labels(operation, str(status)).inc()
    REQUEST_SECONDS.labels(operation).observe(seconds)


@contextmanager
def sweeping(sweep: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    except BaseException:
        SWEEPS.labels(sweep, "failed").inc()
        raise
    finally:
        SWEEP_SECONDS.labels(sweep).observe(time.monotonic() - started)
    SWEEPS.labels(sweep, "done").inc()
