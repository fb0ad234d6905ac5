"""The skeleton as a graph: which joints are how many bones apart."""

from __future__ import annotations

import torch
from torch import Tensor

from last_e.joints import BONES, NUM_JOINTS, PARENTS
from last_e.skeletons import NTU25, Skeleton

__all__ = ["BONES", "NUM_JOINTS", "PARENTS", "hop_adjacency", "hop_distance"]


def hop_distance(bones: tuple[tuple[int, int], ...] = BONES, num_joints: int = NUM_JOINTS) -> Tensor:
    """Number of bones between every two joints: (V, V) int64, ``num_joints`` where there is no way."""
    distance = torch.full((num_joints, num_joints), num_joints)
    distance.fill_diagonal_(0)
    for a, b in bones:
        distance[a, b] = distance[b, a] = 1
    for via in range(num_joints):  # Floyd-Warshall
        distance = torch.minimum(distance, distance[:, via : via + 1] + distance[via : via + 1, :])
    return distance


def hop_adjacency(max_hop: int, skeleton: Skeleton = NTU25) -> Tensor:
    """Graph subsets (K, V, V) float32, K = max_hop + 1: subset k joins the joints exactly k bones apart.

    Each subset is normalised on its own as D^-1/2 A D^-1/2; a joint without neighbours in it stays 0.
    """
    distance = hop_distance(skeleton.bones, len(skeleton.joints))
    subsets = torch.stack([(distance == hop).float() for hop in range(max_hop + 1)])
    degree = subsets.sum(dim=2)
    scale = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), torch.zeros(()))
    return scale[:, :, None] * subsets * scale[:, None, :]
