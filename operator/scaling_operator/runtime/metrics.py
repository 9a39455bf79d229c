"""Prometheus series of the runtime, under the names that dashboards for Go controllers already use.

One module holds them all because a name can be registered only once per process. Labels are of bounded
cardinality: controller and queue names, verbs, status codes; never objects.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)

REST_REQUESTS = Counter(
    "rest_client_requests_total", "Requests to the API server by status code and verb", ["code", "method"]
)
REST_LATENCY = Histogram(
    "rest_client_request_duration_seconds",
    "Time to the complete answer (watches excluded)",
    ["verb"],
    buckets=_SECONDS,
)

QUEUE_DEPTH = Gauge("workqueue_depth", "Keys waiting", ["name"])
QUEUE_ADDS = Counter("workqueue_adds_total", "Keys added", ["name"])
QUEUE_WAIT = Histogram(
    "workqueue_queue_duration_seconds", "Time a key waits before it is processed", ["name"], buckets=_SECONDS
)
QUEUE_WORK = Histogram("workqueue_work_duration_seconds", "Time a key is processed", ["name"], buckets=_SECONDS)
QUEUE_UNFINISHED = Gauge("workqueue_unfinished_work_seconds", "Sum of the ages of all work in progress", ["name"])
QUEUE_LONGEST = Gauge("workqueue_longest_running_processor_seconds", "Age of the oldest work in progress", ["name"])
QUEUE_RETRIES = Counter("workqueue_retries_total", "Rate-limited additions", ["name"])

RECONCILES = Counter("controller_runtime_reconcile_total", "Reconciles by result", ["controller", "result"])
RECONCILE_ERRORS = Counter("controller_runtime_reconcile_errors_total", "Failed reconciles", ["controller"])
RECONCILE_SECONDS = Histogram(
    "controller_runtime_reconcile_time_seconds", "Length of a reconcile", ["controller"], buckets=_SECONDS
)
ACTIVE_WORKERS = Gauge("controller_runtime_active_workers", "Reconciles in progress", ["controller"])
MAX_WORKERS = Gauge("controller_runtime_max_concurrent_reconciles", "Workers", ["controller"])

WATCH_AGE = Gauge(
    "reflector_last_event_age_seconds", "Time since the server last sent an event, bookmark or list", ["name"]
)
LISTS = Counter("reflector_lists_total", "Complete lists read", ["name"])
WATCHES = Counter("reflector_watches_total", "Watch connections opened", ["name"])
WATCH_EVENTS = Counter("reflector_events_total", "Watch events received, bookmarks included", ["name"])
WATCH_FAILURES = Counter("reflector_failures_total", "Lists and watches that ended in an error", ["name"])
CACHED_OBJECTS = Gauge("reflector_objects", "Objects in the cache", ["name"])

LEADER = Gauge("leader_election_master_status", "1 while this process holds the lease", ["name"])
LOOP_LAG = Gauge("event_loop_lag_seconds", "How late the event loop ran its last timer")
