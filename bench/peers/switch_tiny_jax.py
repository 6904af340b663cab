"""JAX implementation of models/switch_tiny for comparison: one whole train step (forward, backward, optimizer), jitted, state donated.

    pip install -r bench/peers/requirements.txt
    python bench/peers/switch_tiny_jax.py [--dtype f32|bf16] [--dispatch einsum|scatter] [--scan] ...

Prints one JSON line. The model: T5 1.0 encoder-decoder, every feed-forward layer a Switch layer (top-1, float32
router, multiplicative input jitter, capacity factor 1.25, dropped tokens contribute nothing), RMSNorm before each
block, relative position biases shared within a stack, tied embedding, dropout, cross-entropy with z-loss, AdamW.

It is written as an experienced JAX user would write it: einsum, `jax.random`, `.at[]`, `lax.scan`,
`jax.value_and_grad`, one `jax.jit`. Options that change the maths (`--dropout`, `--group`, `--optimizer`,
`--dropout-broadcast`) must be given the same value on both sides of a comparison; the others (`--dispatch`,
`--scan`, `--prng`, `--embedding`) only change the implementation, so use the fastest combination.
"""

import argparse
import functools
import json
import math
import os
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

PAD = 0
VOCAB, D_MODEL, HEADS, D_HEAD, D_FF, EXPERTS, LAYERS = 384, 256, 8, 32, 1024, 8, 2
BUCKETS, MAX_DISTANCE = 32, 128
MIN_CAPACITY, JITTER, AUX_LOSS, Z_LOSS, NORM_EPS = 4, 1e-2, 1e-2, 1e-4, 1e-6


def parse_args(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="activations; parameters stay float32")
    p.add_argument("--dispatch", choices=["einsum", "scatter"], default="scatter", help="one-hot products, or by index")
    p.add_argument("--scan", action=argparse.BooleanOptionalAction, default=False, help="lax.scan over the layers")
    p.add_argument("--embedding", choices=["gather", "onehot"], default="gather")
    p.add_argument("--prng", choices=["threefry", "rbg"], default="threefry")
    p.add_argument("--optimizer", choices=["adamw", "adafactor"], default="adamw")
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--dropout-broadcast", choices=["none", "length"], default="length",
                   help="length: one mask for all positions, as our model and Mesh-TensorFlow's and T5X's T5 have it")
    p.add_argument("--jitter", type=float, default=JITTER)
    p.add_argument("--group", type=int, default=0, help="tokens per routing group (default: one sequence)")
    p.add_argument("--capacity-factor", type=float, default=1.25)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--inputs", type=int, default=128)
    p.add_argument("--targets", type=int, default=128)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--losses", action="store_true", help="also print the loss of every step")
    return p.parse_args(argv)


# ---------------------------------------------------------------------------------------------- parameters


def init_params(key, cfg):
    """Truncated normal, sigma = sqrt(0.1 / fan_in) as in the Switch paper; embedding N(0, 1) as in T5."""
    keys = iter(jax.random.split(key, 256))

    def dense(shape, fan_in):
        return jax.random.truncated_normal(next(keys), -2.0, 2.0, shape, jnp.float32) * math.sqrt(0.1 / fan_in)

    def attention():
        return {
            "norm": jnp.ones((D_MODEL,)),
            "q": dense((D_MODEL, HEADS, D_HEAD), D_MODEL * D_HEAD),  # T5 folds 1/sqrt(d_head) into the init of q
            "k": dense((D_MODEL, HEADS, D_HEAD), D_MODEL),
            "v": dense((D_MODEL, HEADS, D_HEAD), D_MODEL),
            "o": dense((HEADS, D_HEAD, D_MODEL), HEADS * D_HEAD),
        }

    def switch():
        return {
            "norm": jnp.ones((D_MODEL,)),
            "router": dense((D_MODEL, EXPERTS), D_MODEL),
            "wi": dense((EXPERTS, D_MODEL, D_FF), D_MODEL),
            "wo": dense((EXPERTS, D_FF, D_MODEL), D_FF),
        }

    def stack(blocks):
        layers = [{name: make() for name, make in blocks.items()} for _ in range(LAYERS)]
        if cfg.scan:
            layers = jax.tree.map(lambda *xs: jnp.stack(xs), *layers)
        return {
            "layers": layers,
            "position_bias": dense((BUCKETS, HEADS), HEADS),
            "norm": jnp.ones((D_MODEL,)),
        }

    return {
        "embedding": jax.random.normal(next(keys), (VOCAB, D_MODEL)),
        "encoder": stack({"attention": attention, "ffn": switch}),
        "decoder": stack({"attention": attention, "cross": attention, "ffn": switch}),
    }


# ---------------------------------------------------------------------------------------------- layers


def dropout(x, key, cfg):
    if cfg.dropout == 0.0:
        return x
    shape = list(x.shape)
    if cfg.dropout_broadcast == "length":
        shape[-2] = 1
    keep = 1.0 - cfg.dropout
    mask = jax.random.bernoulli(key, keep, shape)
    return jnp.where(mask, x * jnp.asarray(1.0 / keep, x.dtype), jnp.zeros((), x.dtype))


def rms_norm(x, scale):
    x32 = x.astype(jnp.float32)
    y = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + NORM_EPS)
    return y.astype(x.dtype) * scale.astype(x.dtype)


def relative_bucket(distance, bidirectional):
    """T5's buckets of key position minus query position; static, so numpy."""
    buckets, offset = BUCKETS, 0
    n = -distance
    if bidirectional:
        buckets //= 2
        offset = (n < 0) * buckets
        n = np.abs(n)
    else:
        n = np.maximum(n, 0)
    exact = buckets // 2
    large = exact + (np.log(np.maximum(n, 1) / exact) / math.log(MAX_DISTANCE / exact) * (buckets - exact)).astype(int)
    return offset + np.where(n < exact, n, np.minimum(large, buckets - 1))


def position_bias(table, length, bidirectional, dtype):
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    return table.astype(dtype)[relative_bucket(distance, bidirectional)].transpose(2, 0, 1)[None]


def attention(p, x, memory, bias, keys, cfg):
    """x: [batch, query, d_model]; memory: the input of keys and values (None means x)."""
    dt = x.dtype
    h = rms_norm(x, p["norm"])
    m = h if memory is None else memory
    q = jnp.einsum("bqm,mhd->bqhd", h, p["q"].astype(dt))
    k = jnp.einsum("bkm,mhd->bkhd", m, p["k"].astype(dt))
    v = jnp.einsum("bkm,mhd->bkhd", m, p["v"].astype(dt))
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias
    probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(dt)
    probs = dropout(probs, keys[0], cfg)
    out = jnp.einsum("bhqk,bkhd->bqhd", probs, v)
    out = jnp.einsum("bqhd,hdm->bqm", out, p["o"].astype(dt))
    return x + dropout(out, keys[1], cfg)


def route(p, h, key, cfg, capacity):
    """h: [group, token, d_model] -> expert index, gate, position in the expert, auxiliary loss; all in float32."""
    r = h.astype(jnp.float32)
    if cfg.jitter > 0.0:
        r = r * jax.random.uniform(key, r.shape, jnp.float32, 1.0 - cfg.jitter, 1.0 + cfg.jitter)
    probs = jax.nn.softmax(jnp.einsum("gtm,me->gte", r, p["router"]), axis=-1)
    expert = jnp.argmax(probs, axis=-1)
    gate = jnp.max(probs, axis=-1)
    chosen = jax.nn.one_hot(expert, EXPERTS, dtype=jnp.int32)
    position = jnp.sum((jnp.cumsum(chosen, axis=1) - chosen) * chosen, axis=-1)
    fraction = jnp.mean(chosen.astype(jnp.float32), axis=1)
    aux = EXPERTS * jnp.mean(jnp.sum(fraction * jnp.mean(probs, axis=1), axis=-1))
    return expert, gate, position, AUX_LOSS * aux


def switch_ffn(p, x, keys, cfg):
    dt = x.dtype
    batch, length, _ = x.shape
    tokens = cfg.group or length
    groups = batch * length // tokens
    capacity = max(MIN_CAPACITY, min(tokens, int(tokens * cfg.capacity_factor / EXPERTS)))
    h = rms_norm(x, p["norm"]).reshape(groups, tokens, D_MODEL)
    expert, gate, position, aux = route(p, h, keys[0], cfg, capacity)
    if cfg.dispatch == "einsum":
        mask = (
            jax.nn.one_hot(expert, EXPERTS, dtype=dt)[..., None]
            * jax.nn.one_hot(position, capacity, dtype=dt)[..., None, :]  # all zero beyond the capacity
        )
        slots = jnp.einsum("gtec,gtm->egcm", mask, h)
    else:
        group = jnp.arange(groups)[:, None]
        slots = jnp.zeros((EXPERTS, groups, capacity, D_MODEL), dt)
        slots = slots.at[expert, group, position].set(h, mode="drop", unique_indices=True)
    hidden = jax.nn.relu(jnp.einsum("egcm,emf->egcf", slots, p["wi"].astype(dt)))
    hidden = dropout(hidden, keys[1], cfg)
    out = jnp.einsum("egcf,efm->egcm", hidden, p["wo"].astype(dt))
    if cfg.dispatch == "einsum":
        y = jnp.einsum("gtec,egcm->gtm", mask * gate.astype(dt)[..., None, None], out)
    else:
        y = out.at[expert, group, position].get(mode="fill", fill_value=0, unique_indices=True)
        y = y * gate.astype(dt)[..., None]
    return x + dropout(y.reshape(x.shape), keys[2], cfg), aux


def run_stack(p, x, memory, self_bias, cross_bias, key, cfg):
    """Runs the layers, then the final norm; returns activations and the sum of the auxiliary losses."""

    def layer(carry, params_and_key):
        x, aux = carry
        params, key = params_and_key
        keys = jax.random.split(key, 7)
        x = attention(params["attention"], x, None, self_bias, keys[0:2], cfg)
        if memory is not None:
            x = attention(params["cross"], x, memory, cross_bias, keys[2:4], cfg)
        x, layer_aux = switch_ffn(params["ffn"], x, keys[4:7], cfg)
        return (x, aux + layer_aux), None

    keys = jax.random.split(key, LAYERS + 2)
    carry = (dropout(x, keys[LAYERS], cfg), jnp.zeros(()))
    if cfg.scan:
        carry, _ = lax.scan(layer, carry, (p["layers"], keys[:LAYERS]))
    else:
        for params, k in zip(p["layers"], keys[:LAYERS]):
            carry, _ = layer(carry, (params, k))
    x, aux = carry
    return dropout(rms_norm(x, p["norm"]), keys[LAYERS + 1], cfg), aux


def embed(table, ids, cfg, dtype):
    table = table.astype(dtype)
    if cfg.embedding == "onehot":
        return jnp.einsum("blv,vm->blm", jax.nn.one_hot(ids, VOCAB, dtype=dtype), table)
    return table[ids]


def loss_fn(params, batch, key, cfg):
    dtype = jnp.float32 if cfg.dtype == "f32" else jnp.bfloat16
    enc_key, dec_key = jax.random.split(key)
    inputs, targets = batch["inputs"], batch["targets"]
    decoder_in = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))  # shifted right, pad starts the sequence
    masked = jnp.asarray(-1e9, dtype)
    pad_bias = jnp.where(inputs == PAD, masked, 0)[:, None, None, :]
    enc, dec, table = params["encoder"], params["decoder"], params["embedding"]
    length = targets.shape[1]

    enc_bias = position_bias(enc["position_bias"], inputs.shape[1], True, dtype) + pad_bias
    memory, enc_aux = run_stack(enc, embed(table, inputs, cfg, dtype), None, enc_bias, None, enc_key, cfg)
    causal = jnp.where(np.tril(np.ones((length, length), bool)), 0, masked)
    dec_bias = position_bias(dec["position_bias"], length, False, dtype) + causal
    y, dec_aux = run_stack(dec, embed(table, decoder_in, cfg, dtype), memory, dec_bias, pad_bias, dec_key, cfg)

    y = y * jnp.asarray(D_MODEL**-0.5, dtype)
    logits = jnp.einsum("blm,vm->blv", y, table.astype(dtype)).astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    weight = (targets != PAD).astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)
    xent = jnp.sum((log_z - picked) * weight) / count
    z_loss = Z_LOSS * jnp.sum(jnp.square(log_z) * weight) / count
    return xent + z_loss + enc_aux + dec_aux, xent


# ---------------------------------------------------------------------------------------------- optimizers


def adamw(params, grads, slots, step, lr, b1=0.9, b2=0.999, eps=1e-8, decay=0.01):
    t = step.astype(jnp.float32) + 1.0
    c1, c2 = 1.0 - b1**t, 1.0 - b2**t

    def update(p, g, m, v):
        m = b1 * m + (1.0 - b1) * g
        v = b2 * v + (1.0 - b2) * jnp.square(g)
        return p - lr * (m / c1 / (jnp.sqrt(v / c2) + eps) + decay * p), m, v

    out = jax.tree.map(update, params, grads, slots["m"], slots["v"])
    pick = lambda i: jax.tree.map(lambda t: t[i], out, is_leaf=lambda t: isinstance(t, tuple))
    return pick(0), {"m": pick(1), "v": pick(2)}


def adafactor(params, grads, slots, step, lr, decay=0.8, eps1=1e-30, eps2=1e-3, clip=1.0):
    """Factored second moments over the last two dims, no momentum, update clipping, step scaled by the parameter."""
    beta = 1.0 - (step.astype(jnp.float32) + 1.0) ** -decay

    def update(p, g, s):
        g2 = jnp.square(g) + eps1
        if p.ndim >= 2:
            row = beta * s["row"] + (1 - beta) * g2.mean(-1)
            col = beta * s["col"] + (1 - beta) * g2.mean(-2)
            u = g * lax.rsqrt(row / row.mean(-1, keepdims=True))[..., None] * lax.rsqrt(col)[..., None, :]
            s = {"row": row, "col": col}
        else:
            v = beta * s["v"] + (1 - beta) * g2
            u, s = g * lax.rsqrt(v), {"v": v}
        u = u / jnp.maximum(1.0, jnp.sqrt(jnp.mean(jnp.square(u))) / clip)
        return p - lr * jnp.maximum(eps2, jnp.sqrt(jnp.mean(jnp.square(p)))) * u, s

    leaves, tree = jax.tree.flatten(params)
    out = [update(p, g, s) for p, g, s in zip(leaves, tree.flatten_up_to(grads), tree.flatten_up_to(slots))]
    return tree.unflatten([o[0] for o in out]), tree.unflatten([o[1] for o in out])


def init_slots(params, cfg):
    if cfg.optimizer == "adamw":
        return {"m": jax.tree.map(jnp.zeros_like, params), "v": jax.tree.map(jnp.zeros_like, params)}
    return jax.tree.map(
        lambda p: {"row": jnp.zeros(p.shape[:-1]), "col": jnp.zeros(p.shape[:-2] + p.shape[-1:])}
        if p.ndim >= 2 else {"v": jnp.zeros(p.shape)}, params)


# ---------------------------------------------------------------------------------------------- train step


def init_state(cfg):
    params = init_params(jax.random.key(cfg.seed), cfg)
    return {"params": params, "slots": init_slots(params, cfg), "step": jnp.zeros((), jnp.int32)}


def train_step(state, batch, cfg):
    impl = {"threefry": "threefry2x32", "rbg": "rbg"}[cfg.prng]
    key = jax.random.fold_in(jax.random.key(cfg.seed + 1, impl=impl), state["step"])
    (loss, xent), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"], batch, key, cfg)
    optimizer = {"adamw": adamw, "adafactor": adafactor}[cfg.optimizer]
    params, slots = optimizer(state["params"], grads, state["slots"], state["step"], cfg.lr)
    return {"params": params, "slots": slots, "step": state["step"] + 1}, {"loss": loss, "xent": xent}


def make_batch(cfg, step):
    """Byte-like ids with a skewed distribution and a padded tail, which exercise routing and masks."""
    rng = np.random.default_rng(1000 + step)

    def ids(length):
        x = np.minimum(3 + rng.zipf(1.3, (cfg.batch, length)), VOCAB - 1).astype(np.int32)
        lengths = rng.integers(length * 3 // 4, length + 1, (cfg.batch, 1))
        return np.where(np.arange(length) < lengths, x, PAD)

    return {"inputs": ids(cfg.inputs), "targets": ids(cfg.targets)}


def main():
    cfg = parse_args()
    state = jax.jit(functools.partial(init_state, cfg))()
    step = jax.jit(functools.partial(train_step, cfg=cfg), donate_argnums=0)
    batches = [make_batch(cfg, i) for i in range(4)]
    t0 = time.perf_counter()
    compiled = step.lower(state, batches[0]).compile()
    compile_s = time.perf_counter() - t0
    wall, cpu, losses = [], [], []
    for i in range(cfg.warmup + cfg.steps):
        w, c = time.perf_counter(), time.process_time()
        state, metrics = compiled(state, batches[i % len(batches)])
        losses.append(float(metrics["loss"]))  # also waits for the step
        if i >= cfg.warmup:
            wall.append(time.perf_counter() - w)
            cpu.append(time.process_time() - c)
    ms = statistics.median(wall) * 1e3
    tokens = cfg.batch * (cfg.inputs + cfg.targets)
    record = {
        "peer": "jax", "model": "switch_tiny", "dtype": cfg.dtype, "dispatch": cfg.dispatch, "scan": cfg.scan,
        "embedding": cfg.embedding, "prng": cfg.prng, "optimizer": cfg.optimizer, "dropout": cfg.dropout,
        "dropout_broadcast": cfg.dropout_broadcast, "group": cfg.group or "sequence",
        "batch": cfg.batch, "inputs": cfg.inputs, "targets": cfg.targets, "steps": cfg.steps, "warmup": cfg.warmup,
        "step_ms": round(ms, 1), "step_ms_min": round(min(wall) * 1e3, 1), "step_ms_max": round(max(wall) * 1e3, 1),
        "cpu_ms": round(statistics.median(cpu) * 1e3, 1), "tokens_per_s": round(tokens / ms * 1e3),
        "compile_s": round(compile_s, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "parameters": sum(p.size for p in jax.tree.leaves(state["params"])),
        "first_loss": losses[0], "last_loss": losses[-1],
        "jaxlib": jax.lib.__version__, "backend": jax.devices()[0].platform, "cores": os.cpu_count(),
    }
    if cfg.losses:
        record["losses"] = losses
    print(json.dumps(record))


if __name__ == "__main__":
    main()
