"""Checkpoints of a run: one folder per step, written completely or not at all.

checkpoints/step-00001200/{__0_0.distcp, …, .metadata}   tensors, sharded (torch.distributed.checkpoint)
checkpoints/step-00001200/rest.pt                        everything whose size does not depend on the networks
checkpoints/step-00001200/digests.json                   SHA-256 of the files above, written last
checkpoints/milestone-00010000/                          the same files, never removed

A checkpoint of any number of processes can be loaded by any other number. A save or a load has the same outcome in all
processes: each exchanges its result or its error with the others, so that none waits for one that has failed.
"""

from franca.pretrain.checkpoint.agreement import State
from franca.pretrain.checkpoint.layout import newest_step
from franca.pretrain.checkpoint.loader import load_newest
from franca.pretrain.checkpoint.writer import Checkpoints

__all__ = ["Checkpoints", "State", "load_newest", "newest_step"]
