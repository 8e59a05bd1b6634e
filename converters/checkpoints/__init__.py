"""Checkpoints as people have them: read without running any code, and matched to the network that takes them.

``files`` tells the kinds of files apart by their content, ``pickles`` opens those of PyTorch, ``contents`` names the
tensors of whatever they hold, ``matching`` finds those of a network among them, and ``loading`` takes them over.
"""

from converters.checkpoints.files import Checkpoint, checkpoint_from_file
from converters.checkpoints.loading import initialise_network, load_checkpoint, network_from_checkpoint
from converters.checkpoints.pickles import check_archive

__all__ = [
    "Checkpoint",
    "check_archive",
    "checkpoint_from_file",
    "initialise_network",
    "load_checkpoint",
    "network_from_checkpoint",
]
