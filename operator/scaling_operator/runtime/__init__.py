"""A small controller runtime on asyncio: what controller-runtime and client-go are to Go operators.

It knows Kubernetes and nothing of the resources that are operated on. Bottom to top:

- `errors`, `objects`, `metrics`, `logs`, `backoff`, `ratelimit`, `sockets`: values and small mechanisms
- `connection`, `transport`, `client`: one API server, JSON dicts in and out
- `store`, `reflector`: a collection mirrored into memory, with indexes and change handlers
- `workqueue`, `tracker`, `controller`: keys that need attention, and the loop that gives it to them
- `leader`: a lease that lets one replica work, and stops it in time
- `health`, `manager`: the process: start, readiness, metrics, graceful end

Everything runs in one event loop and nothing blocks it. Import from the modules; this package re-exports
nothing, so that pure code can use `objects` and `errors` without paying for HTTP.
"""
