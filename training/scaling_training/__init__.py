"""What trains: data, models, optimizers, the training loop, checkpoints and evaluation, and the driver over them.

The library (everything but the driver, its stages and its engine) is plain torch and fsspec: it knows
neither Ray nor Kubernetes, reads no environment variables, and runs in one process as well as in many.
Importing a package here is cheap; torch and the other heavy libraries are imported where they are used,
because start-up is where users wait.
"""
