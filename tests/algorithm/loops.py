"""What references by loops share: a descent step, Polyak averages, and a comparison of networks."""

import torch


def descend(optimizer, loss):
    """One step against a loss's gradient; its number."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def follow(targets, sources, tau):
    """target = tau * source + (1 - tau) * target, parameter by parameter."""
    for target, source in zip(targets, sources, strict=True):
        for old, new in zip(target.parameters(), source.parameters(), strict=True):
            old.copy_(tau * new + (1 - tau) * old)


def assert_same_parameters(ours, theirs, rtol=1e-9, atol=1e-12):
    """Of networks, one by one."""
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
