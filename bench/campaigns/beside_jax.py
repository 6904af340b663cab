#!/usr/bin/env python3
"""Trains a compiled program and an independent JAX model from the same initial values on the same batches.

  beside_jax.py ARTEFACT TOKENS [--steps 300] [--seed 1] [--eval 8]

ARTEFACT comes from `meshc compile models/switch_tiny.rs` or `models/t5_tiny.rs` with the settings of base.toml (a
language model; `dropout` 0; `jitter` 0, or the two differ by the noise). TOKENS comes from `meshc data prepare`.
The JAX side shares nothing with the compiler: it defines layers, loss, gradients (jax.grad) and optimizers below.
Prints one JSON line with the losses of every step of both, and rows of evaluations: step, held-out loss of the
program, of the JAX model, of the JAX model with the program's parameters, and the largest difference between
parameters.

Needs the packages `jax` and `jaxlib` 0.4.38, which also run the program's HLO.
"""
import argparse
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.lib import xla_client, xla_extension

MASKED = -1e9
EPSILON = 1e-6


class Program:
    """A compiled program of one device, run by jaxlib's own CPU client."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        facts = self.manifest.get("meta") or self.manifest.get("facts")
        self.settings = dict(word.split("=", 1) for word in facts["settings"].split())
        self.client = jax.devices("cpu")[0].client
        self.functions = {}

    def function(self, name):
        if name not in self.functions:
            about = next(f for f in self.manifest["functions"] if f["name"] == name)
            module = (self.folder / about["module"]["name"]).read_bytes()
            computation = xla_client.XlaComputation(module)
            text = xla_extension.mlir.xla_computation_to_mlir_module(computation)
            self.functions[name] = about, self.client.compile(text)
        return self.functions[name]

    def call(self, name, state, **data):
        """Calls a function; returns its other outputs, and puts those that are state into `state`."""
        about, program = self.function(name)
        given = []
        for item in about["inputs"]:
            value = state[item["state"]] if item["kind"] == "state" else data[item["name"]]
            given.append(self.client.buffer_from_pyval(np.asarray(value)))
        results = [np.asarray(x) for x in program.execute(given)]
        other = {}
        for item, value in zip(about["outputs"], results):
            if item["kind"] == "state":
                state[item["state"]] = value
            else:
                other[item["name"]] = value
        return other


# ------------------------------------------------------------------------------ the model in JAX


class Model:
    """The forward pass in JAX, on parameters under the program's own names."""

    def __init__(self, settings):
        get = lambda key, kind: kind(settings[key]) if key in settings else None
        self.d_model, self.vocab = get("d_model", int), get("vocab", int)
        self.layers = {"encoder": get("encoder_layers", int), "decoder": get("decoder_layers", int)}
        self.buckets, self.distance = get("buckets", int), get("max_distance", int)
        self.z_loss, self.experts = get("z_loss", float), get("experts", int)
        if self.experts:
            self.sparse_step = {"encoder": get("sparse_step", int)}
            self.sparse_step["decoder"] = get("decoder_sparse_step", int) or self.sparse_step["encoder"]
            self.factor, self.eval_factor = get("capacity_factor", float), get("eval_capacity_factor", float)
            self.aux, self.sequences = get("aux_loss", float), get("group_sequences", int)
            self.min_capacity = get("min_capacity", int)

    def loss(self, params, batch, train):
        inputs, targets = batch["inputs"], batch["targets"]
        table = params["embedding"]
        before = jnp.concatenate([jnp.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
        pad = jnp.where(inputs == 0, MASKED, 0.0)[:, None, None, :]
        memory, aux1 = self.stack(params, "encoder", table[inputs], None, pad, train)
        x, aux2 = self.stack(params, "decoder", table[before], memory, pad, train)
        logits = jnp.einsum("blm,vm->blv", x * self.d_model**-0.5, table)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        weight = (targets != 0) / jnp.maximum((targets != 0).sum(), 1)
        loss = jnp.sum((log_z - picked) * weight)
        return loss + self.z_loss * jnp.sum(log_z**2 * weight) + aux1 + aux2, loss

    def stack(self, params, stack, x, memory, pad, train):
        length = x.shape[1]
        bias = self.bias(params[f"{stack}/relative_bias"], length, stack == "encoder")
        if stack == "encoder":
            bias = bias + pad
        else:
            bias = bias + jnp.where(np.tril(np.ones((length, length), bool)), 0.0, MASKED)
        aux = 0.0
        for i in range(self.layers[stack]):
            p = self.layer(params, stack, i)
            h = norm(x, p["attention/norm"])
            x = x + attend(p, "attention", h, h, bias)
            if memory is not None:
                x = x + attend(p, "cross_attention", norm(x, p["cross_attention/norm"]), memory, pad)
            h = norm(x, p["ffn/norm"])
            if "ffn/router" in p:
                y, more = self.switch(p, h, train)
                aux = aux + more
            else:
                hidden = jax.nn.relu(jnp.einsum("blm,mf->blf", h, p["ffn/wi"]))
                y = jnp.einsum("blf,mf->blm", hidden, p["ffn/wo"])
            x = x + y
        return norm(x, params[f"{stack}/norm"]), aux

    def layer(self, params, stack, i):
        """Parameters of a layer, without their scope and the dim of layers."""
        step = self.sparse_step[stack] if self.experts else 1
        whole = self.layers[stack] // step * step
        if step == 1:
            scope, row = f"{stack}/", i
        elif i < whole:
            scope, row = f"{stack}/block_{i % step}/", i // step
        else:
            scope, row = f"{stack}/rest/block_{i % step}/", 0
        return {name[len(scope):]: value[row] for name, value in params.items() if name.startswith(scope)}

    def switch(self, p, h, train):
        """Top-1 routing in groups of whole sequences; tokens beyond an expert's slots give 0."""
        batch, length, _ = h.shape
        tokens = (self.sequences or 1) * length
        x = h.reshape(-1, tokens, self.d_model)
        probabilities = jax.nn.softmax(jnp.einsum("gtm,me->gte", x, p["ffn/router"]), axis=-1)
        expert, gate = jnp.argmax(probabilities, -1), jnp.max(probabilities, -1)
        chosen = jax.nn.one_hot(expert, self.experts)
        place = (jnp.cumsum(chosen, 1) - chosen) * chosen
        factor = self.factor if train else self.eval_factor
        capacity = min(tokens, max(self.min_capacity, int(tokens * factor / self.experts)))
        kept = (place.sum(-1) < capacity).astype(jnp.float32)
        aux = self.experts * jnp.mean(jnp.sum(chosen.mean(1) * probabilities.mean(1), -1))
        # As many products as experts, on all tokens: slow and plain.
        hidden = jax.nn.relu(jnp.einsum("gtm,emf->gtef", x, p["ffn/wi"]))
        out = jnp.einsum("gtef,emf->gtem", hidden, p["ffn/wo"])
        y = jnp.einsum("gtem,gte->gtm", out, chosen * (gate * kept)[..., None])
        return y.reshape(batch, length, self.d_model), self.aux * aux

    def bias(self, table, length, both):
        distance = np.arange(length)[None, :] - np.arange(length)[:, None]
        buckets, offset, n = self.buckets, 0, -distance
        if both:
            buckets //= 2
            offset, n = (n < 0) * buckets, np.abs(n)
        else:
            n = np.maximum(n, 0)
        exact = buckets // 2
        large = np.log(np.maximum(n, 1) / exact) / math.log(self.distance / exact) * (buckets - exact)
        bucket = offset + np.where(n < exact, n, np.minimum(exact + large.astype(int), buckets - 1))
        return table[bucket].transpose(2, 0, 1)[None]


def norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + EPSILON) * scale


def attend(p, kind, x, memory, bias):
    q = jnp.einsum("blm,mhd->blhd", x, p[f"{kind}/q"])
    k, v = (jnp.einsum("blm,mhd->blhd", memory, p[f"{kind}/{name}"]) for name in "kv")
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias, axis=-1)
    return jnp.einsum("bhqk,bkhd,hdm->bqm", weights, v, p[f"{kind}/o"])


# ------------------------------------------------------------------------------ optimizers in JAX


class Optimizer:
    """AdamW or Adafactor with clipping by the global norm and a linear warm-up with inverse square root decay."""

    def __init__(self, settings, stacked):
        self.stacked = stacked
        self.kind, self.lr, self.warmup = settings["optimizer"], float(settings["lr"]), int(settings["warmup"])
        self.clip, self.decay = float(settings["clip"]), float(settings["weight_decay"])
        assert settings["schedule"] == "rsqrt", settings["schedule"]
        self.smallest = float(settings.get("smallest", 0))

    def init(self, params):
        return {name: (jnp.zeros_like(p), jnp.zeros_like(p)) for name, p in params.items()}

    def apply(self, params, slots, grads, step):
        t = step + 1.0
        total = jnp.sqrt(sum(jnp.sum(g**2) for g in grads.values()))
        scale = self.clip / jnp.maximum(total, self.clip) if self.clip > 0 else 1.0
        rate = self.lr * jnp.minimum(t / self.warmup, 1.0) * jnp.sqrt(self.warmup / jnp.maximum(t, self.warmup))
        update = self.adamw if self.kind == "adamw" else self.adafactor
        done = {name: update(name, p, grads[name] * scale, slots[name], rate, t) for name, p in params.items()}
        return {n: d[0] for n, d in done.items()}, {n: d[1] for n, d in done.items()}, total

    def adamw(self, name, p, g, slots, rate, t):
        m, v = 0.9 * slots[0] + 0.1 * g, 0.999 * slots[1] + 0.001 * g**2
        change = m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
        # Vectors and tables do not decay.
        plain = name.split("/")[-1] in ("norm", "embedding", "relative_bias")
        return p - rate * (change + (0 if plain else self.decay) * p), (m, v)

    def adafactor(self, name, p, g, slots, rate, t):
        """With whole second moments: the matrices here are too small to be factored."""
        beta = 1 - t**-0.8
        v = beta * slots[1] + (1 - beta) * (g**2 + 1e-30)
        axes = tuple(range(1 if name in self.stacked else 0, p.ndim))  # of each layer on its own
        size = lambda x: jnp.sqrt(jnp.mean(x**2, axes, keepdims=True))
        u = g * jax.lax.rsqrt(v)
        u = u / jnp.maximum(1.0, size(u))
        return p - rate * jnp.maximum(self.smallest, size(p)) * u, (slots[0], v)


# ------------------------------------------------------------------------------ data


class Rows:
    """Windows of prepared tokens in an order of their own; the last 2 % are held out."""

    def __init__(self, folder, batch, length, seed):
        about = json.loads((Path(folder) / "manifest.json").read_text())
        width = next((v for k, v in about.items() if k == "width"), 2)
        self.tokens = np.memmap(Path(folder) / "tokens.bin", np.uint16 if width == 2 else np.uint32, "r")
        self.batch, self.window = batch, length - 1
        rows = len(self.tokens) // self.window
        self.held_out = np.arange(int(rows * 0.98), rows)
        self.order = np.random.default_rng(seed).permutation(self.held_out[0])

    def make(self, rows):
        text = np.stack([self.tokens[r * self.window:(r + 1) * self.window] for r in rows]).astype(np.int32)
        targets = np.concatenate([text, np.ones((len(rows), 1), np.int32)], 1)
        return {"inputs": np.ones((len(rows), 1), np.int32), "targets": targets}

    def step(self, i):
        return self.make(self.order[i * self.batch:(i + 1) * self.batch])

    def evaluation(self, i):
        return self.make(self.held_out[i * self.batch:(i + 1) * self.batch])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefact", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eval", type=int, default=8, help="held-out batches of an evaluation")
    parser.add_argument("--eval-every", type=int, default=50)
    args = parser.parse_args()
    program = Program(args.artefact)
    settings = program.settings
    dims = {x["name"]: [dim["name"] for dim in x["tensor"]["dims"]] for x in program.manifest["state"]}
    model, optimizer = Model(settings), Optimizer(settings, {n for n, d in dims.items() if "layers" in d})
    rows = Rows(args.tokens, int(settings["batch"]), int(settings["target_length"]), args.seed)

    state = {}
    program.call("init", state, seed=np.uint32(args.seed))
    names = [x["name"] for x in program.manifest["state"] if x["kind"] == "param"]
    params = {name: jnp.asarray(state[name]) for name in names}
    slots = optimizer.init(params)

    @jax.jit
    def step(params, slots, batch, i):
        (_, loss), grads = jax.value_and_grad(model.loss, has_aux=True)(params, batch, True)
        params, slots, total = optimizer.apply(params, slots, grads, i)
        return params, slots, loss, total

    evaluate = jax.jit(lambda params, batch: model.loss(params, batch, False)[1])
    record = {"settings": settings, "seed": args.seed, "ours": [], "jax": [], "norm_ours": [], "norm_jax": [], "eval": []}
    for i in range(args.steps):
        batch = rows.step(i)
        said = program.call("train_step", state, seed=np.uint32(args.seed), **batch)
        params, slots, loss, total = step(params, slots, batch, float(i))
        record["ours"].append(round(float(said["loss"]), 5))
        record["jax"].append(round(float(loss), 5))
        record["norm_ours"].append(round(float(said["grad_norm"]), 5))
        record["norm_jax"].append(round(float(total), 5))
        if (i + 1) % args.eval_every == 0:
            batches = [rows.evaluation(j) for j in range(args.eval)]
            ours = np.mean([program.call("eval_step", dict(state), **b)["loss"] for b in batches])
            theirs = np.mean([evaluate(params, b) for b in batches])
            crossed = np.mean([evaluate({name: state[name] for name in names}, b) for b in batches])
            apart = max(float(jnp.max(jnp.abs(params[name] - state[name]))) for name in names)
            row = [i + 1, *(round(float(x), 5) for x in [ours, theirs, crossed, apart])]
            record["eval"].append(row)
            print(record["eval"][-1], record["ours"][-1], record["jax"][-1], flush=True)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
