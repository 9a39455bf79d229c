"""What a training process will need, imported before it is asked for.

A node starts one process per CPU as soon as it is up, and Ray Train's workers move into those (their runtime
environment is empty for that reason). With RAY_preload_python_modules=scaling_training.engine.preload in a
worker node's environment, such a process imports Ray Train, and torch on a thread, while the head and the
driver are still coming up. On the head it must not be set: its processes train nothing.
"""

from scaling_training.engine import trainer  # noqa: F401
from scaling_training.train import preload

preload.begin(preload.OPTIMIZER_MODULES)
