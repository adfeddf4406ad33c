"""Times the BCQ step as a JAX user would write it: the authors' update, scanned in one program.

.venv-peers/bin/python -m tests.bench.peers.jax_step --size paper [--bf16|--tf32] [--processes 2]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tests.bench import synthetic, timing
from tests.bench.arguments import parse
from tests.bench.sizes import Sizes

GAMMA, TAU, LMBDA, PHI = 0.99, 0.005, 0.75, 0.05
CHUNK = 96  # steps of one call
Layers = list[tuple[Array, Array]]
adam = optax.adam(1e-3)


class Step:
    """One update of all networks; parameters, targets and moments are a dictionary of trees."""

    def __init__(self, sizes: Sizes, bf16: bool) -> None:
        self.sizes = sizes
        self.type = jnp.bfloat16 if bf16 else jnp.float32
        data = synthetic.transitions(sizes)
        self.data = {name: jnp.asarray(data[name], jnp.float32) for name in data}

    def init(self, key: Array) -> dict[str, Any]:
        s = self.sizes
        pair, wide = s.obs_dim + s.act_dim, s.vae_hidden[-1]
        widths = {
            "encoder": (pair, *s.vae_hidden),
            "heads": (wide, 2 * s.latent_dim),
            "decoder": (s.obs_dim + s.latent_dim, *s.vae_hidden, s.act_dim),
            "actor": (pair, *s.hidden, s.act_dim),
            "critic1": (pair, *s.hidden, 1),
            "critic2": (pair, *s.hidden, 1),
        }
        keys = jax.random.split(key, len(widths))
        made = {n: _layers(k, w) for k, (n, w) in zip(keys, widths.items(), strict=True)}
        vae = {name: made.pop(name) for name in ("encoder", "heads", "decoder")}
        networks = {"vae": vae, **made}
        return {
            "networks": networks,
            "targets": jax.tree.map(jnp.copy, made),
            "moments": {name: adam.init(network) for name, network in networks.items()},
        }

    def mlp(self, layers: Layers, *inputs: Array, relu_last: bool = False) -> Array:
        x = jnp.concatenate(inputs, -1)
        for i, (weight, bias) in enumerate(layers):
            product = jnp.matmul(
                x.astype(self.type), weight.astype(self.type), preferred_element_type=jnp.float32
            )
            x = product + bias
            if relu_last or i < len(layers) - 1:
                x = jax.nn.relu(x)
        return x

    def decode(self, vae: Any, obs: Array, latent: Array) -> Array:
        return self.sizes.max_action * jnp.tanh(self.mlp(vae["decoder"], obs, latent))

    def perturbed(self, actor: Layers, obs: Array, act: Array) -> Array:
        limit = self.sizes.max_action
        moved = act + PHI * limit * jnp.tanh(self.mlp(actor, obs, act))
        return jnp.clip(moved, -limit, limit)

    def __call__(self, state: dict[str, Any], key: Array) -> tuple[dict[str, Any], Array]:
        s, (rows, *keys) = self.sizes, jax.random.split(key, 4)
        indices = jax.random.randint(rows, (s.batch,), 0, len(self.data["rew"]))
        batch = {name: values[indices] for name, values in self.data.items()}
        obs, act = batch["obs"], batch["act"]

        def vae_loss(vae: Any) -> Array:
            heads = self.mlp(vae["heads"], self.mlp(vae["encoder"], obs, act, relu_last=True))
            mean, log_std = jnp.split(heads, 2, -1)
            std = jnp.exp(jnp.clip(log_std, -4, 15))
            latent = mean + std * jax.random.normal(keys[0], std.shape)
            kl = -0.5 * jnp.mean(1 + 2 * jnp.log(std) - mean**2 - std**2)
            return jnp.mean((self.decode(vae, obs, latent) - act) ** 2) + 0.5 * kl

        state, of_vae = _updated(state, "vae", vae_loss)
        vae, targets = state["networks"]["vae"], state["targets"]

        repeated = jnp.repeat(batch["obs_next"], s.num_sampled_action, 0)
        latent = jax.random.normal(keys[1], (len(repeated), s.latent_dim)).clip(-0.5, 0.5)
        sampled = self.decode(vae, repeated, latent)
        chosen = self.perturbed(targets["actor"], repeated, sampled)
        q1, q2 = (self.mlp(targets[f"critic{i}"], repeated, chosen) for i in (1, 2))
        q = LMBDA * jnp.minimum(q1, q2) + (1 - LMBDA) * jnp.maximum(q1, q2)
        best = q.reshape(s.batch, -1).max(1)
        y = batch["rew"] + GAMMA * (1 - batch["terminated"]) * best

        def critic_loss(critic: Layers) -> Array:
            return jnp.mean((self.mlp(critic, obs, act)[:, 0] - y) ** 2)

        state, of_critic1 = _updated(state, "critic1", critic_loss)
        state, of_critic2 = _updated(state, "critic2", critic_loss)
        critic = state["networks"]["critic1"]
        latent = jax.random.normal(keys[2], (s.batch, s.latent_dim)).clip(-0.5, 0.5)
        sampled = self.decode(vae, obs, latent)

        def actor_loss(actor: Layers) -> Array:
            return -jnp.mean(self.mlp(critic, obs, self.perturbed(actor, obs, sampled)))

        state, of_actor = _updated(state, "actor", actor_loss)
        followed = {name: state["networks"][name] for name in targets}
        moved = jax.tree.map(lambda t, n: TAU * n + (1 - TAU) * t, targets, followed)
        losses = jnp.stack([of_actor, of_critic1, of_critic2, of_vae])
        return {**state, "targets": moved}, losses


def _layers(key: Array, widths: Sequence[int]) -> Layers:
    keys = jax.random.split(key, len(widths) - 1)
    return [
        (jax.random.uniform(k, (i, o), minval=-(i**-0.5), maxval=i**-0.5), jnp.zeros(o))
        for k, (i, o) in zip(keys, pairwise(widths), strict=True)
    ]


def _updated(
    state: dict[str, Any], name: str, loss: Callable[[Any], Array]
) -> tuple[dict[str, Any], Array]:
    network = state["networks"][name]
    value, gradient = jax.value_and_grad(loss)(network)
    updates, moments = adam.update(gradient, state["moments"][name], network)
    networks = {**state["networks"], name: optax.apply_updates(network, updates)}
    moments = {**state["moments"], name: moments}
    return {**state, "networks": networks, "moments": moments}, value


def main() -> None:
    args = parse(__doc__, flags=("bf16", "tf32"), processes=True)
    if args.processes == 1:
        timing.report(**measure(args), peak_mib=timing.peak_mib())
        return
    with get_context("spawn").Pool(args.processes) as pool:
        figures = pool.map(measure, [args] * args.processes, chunksize=1)
    timing.report(value=sum(each["value"] for each in figures))


def measure(args: Any) -> dict[str, float]:
    """Steps a second of one run."""
    if not args.tf32:  # which is what JAX means by float32 on a GPU
        jax.config.update("jax_default_matmul_precision", "highest")
    step = Step(args.sizes, args.bf16)

    @partial(jax.jit, donate_argnums=0)
    def steps(state: dict[str, Any], key: Array) -> tuple[dict[str, Any], Array]:
        return jax.lax.scan(step, state, jax.random.split(key, CHUNK))

    state, key = step.init(jax.random.key(0)), jax.random.key(1)

    def advance(num_steps: int) -> None:
        nonlocal state, key
        key, drawn = jax.random.split(key)
        state, losses = steps(state, drawn)
        assert bool(jnp.isfinite(losses).all())

    return timing.steady_rate(advance, args.seconds, chunk=CHUNK)


if __name__ == "__main__":
    main()
