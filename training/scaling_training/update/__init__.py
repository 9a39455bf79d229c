"""When the work of several training processes becomes one model: modes of update other than the plain one.

Mode local (`averaging`) lets each process take steps by itself and averages the weights. Mode async is a sharded
parameter server: `staleness` decides who may push, `samples` who takes which samples, `shard` holds the parameters,
`coordinator` puts these together, and `server` is what a training process sees of them; its loop is
`scaling_training.train.async_loop`. `elastic` says what a change of the number of workers does to batch size and rate.

Nothing here knows Ray: the actors that carry the server over several machines are in `engine.parameter_server`.
Importing this package does not import torch.
"""
