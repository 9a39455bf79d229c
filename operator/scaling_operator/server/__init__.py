"""The HTTPS endpoint that drivers report to. Every replica serves it, the leader or not.

- `certs`: the operator's own CA, kept in a Secret, and the leaf certificate that each replica issues itself
- `tokens`: who sent a request, by TokenReview
- `senders`: whether that pod may speak for the job; pure
- `limits`: how often a job may report
- `progress`: one report from request to answer
- `https`: the port
"""
