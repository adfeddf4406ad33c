"""A critic as a user's own package has it: layers with LayerNorm between them."""

from itertools import pairwise

import torch
from torch import nn

from bcq_exp.algorithm.networks import concatenated


class LayerNormCritic(nn.Module):
    pure = True

    def __init__(self, *, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        hidden = [
            layer
            for i, o in pairwise([obs_dim + act_dim, *hidden_sizes])
            for layer in (nn.Linear(i, o), nn.LayerNorm(o), nn.ReLU())
        ]
        self.net = nn.Sequential(*hidden, nn.Linear(hidden_sizes[-1], 1))

    def forward(self, obs, act):
        return self.net(concatenated(obs, act))  # (B, 1, O) beside (B, n, A)


class UndeclaredCritic(LayerNormCritic):
    pure = False


class FlatCritic(LayerNormCritic):
    """Returns (B,) in place of (B, 1)."""

    pure = False

    def forward(self, obs, act):
        return super().forward(obs, act).squeeze(-1)


class LyingCritic(LayerNormCritic):
    """Declares what it does not do."""

    def forward(self, obs, act):
        return self.net(torch.cat([obs, act], -1))
