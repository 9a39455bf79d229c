"""Builders of the Kubernetes objects of a job: values in, plain dicts out.

Nothing here reads a clock, a cache or the network, so the command line renders exactly what the operator
creates. `attempt` is the door; a module per kind lies behind it.
"""
