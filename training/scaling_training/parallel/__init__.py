"""How the work of a step is divided among processes: one mesh, and replicas of a model laid over it.

``Mesh.of`` says who takes which part, ``parallelize`` turns a task's model into this process's part and returns the
Replica that the loop steps. Whatever the mesh, the gradients and the losses are those of one process with the whole
batch. Importing this package does not import torch.
"""

from scaling_training.parallel.mesh import Mesh, MeshShape, mesh_shape

__all__ = ["Mesh", "MeshShape", "mesh_shape"]
