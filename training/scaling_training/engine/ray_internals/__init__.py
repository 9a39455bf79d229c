"""What of Ray is private and used nevertheless, in one place; Ray is pinned to a minor version for its sake.

`process` is what a training process imports, first of all, and hence alone; `train` is Ray Train's machinery, for the
driver; `node` looks at the machine. Each says why, and tests/unit/scaling_training/engine/test_ray_internals.py holds
what is relied on, so that an upgrade fails there first. That nothing private is imported elsewhere is tested there too;
the classes of `train` are derived from in `engine.trainer`, `engine.policies` and `engine.supervisor` alone.
"""
