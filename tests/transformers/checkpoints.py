"""Writes checkpoints with the libraries of T5X and TensorFlow, for tests/tests/reference.rs.

    checkpoints.py hf CASE OUT         a Hugging Face folder of a case in tests/transformers/cases
    checkpoints.py t5x HF OUT [DTYPE]  the same model as T5X stores it: tensorstore and flax
    checkpoints.py scanned HF OUT      the same, with scanned layers
    checkpoints.py tf HF OUT           the same model as Mesh TensorFlow names it, in two files: tensorflow
    checkpoints.py compare A B         compares two checkpoints of T5X, read by flax and tensorstore

Matrices of Hugging Face are [out, in], those of T5X and Mesh TensorFlow [in, out]; tables of position biases are
[buckets, heads] there and [heads, buckets] here. Slots are those of Adafactor with a minimum size of 4.
"""

import json
import pathlib
import re
import sys

import numpy as np

from elements import element

SMALLEST = 4


def hf(case, out):
    from safetensors.numpy import save_file

    case = json.loads(pathlib.Path(case).read_text())
    out.mkdir()
    (out / "config.json").write_text(json.dumps(case["config"]))
    dtype = np.dtype(case["dtype"])
    tensors = {}
    for name, sizes in case["tensors"].items():
        like = case["same_as"].get(name, name)
        tensors[name] = element(like, int(np.prod(sizes))).reshape(sizes).astype(dtype)
    save_file(tensors, out / "model.safetensors")


def variables(folder):
    """The model of a Hugging Face folder, by T5X's names, with layers apart."""
    from safetensors.numpy import load_file

    theirs = load_file(folder / "model.safetensors")
    tied = json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    attention = {"q": "query", "k": "key", "v": "value", "o": "out"}
    found, experts = {}, {}
    for name, value in theirs.items():
        if name == "shared.weight":
            found["token_embedder/embedding"] = value
        elif name == "lm_head.weight":
            if not tied:
                found["decoder/logits_dense/kernel"] = value.T
        elif match := re.fullmatch(r"(\w+)\.final_layer_norm\.weight", name):
            found[f"{match[1]}/{match[1]}_norm/scale"] = value
        elif match := re.fullmatch(r"(\w+)\.block\.(\d+)\.layer\.(\d+)\.(.*)\.weight", name):
            stack, block, layer, rest = match[1], match[2], int(match[3]), match[4]
            at = f"{stack}/layers_{block}"
            decoder = stack == "decoder"
            norms = ["self_attention", "cross_attention", "mlp"] if decoder else ["attention", "mlp"]
            if rest == "layer_norm":
                found[f"{at}/pre_{norms[layer]}_layer_norm/scale"] = value
            elif rest.endswith("relative_attention_bias"):
                per_layer = any(".block.1." in n and n.endswith("relative_attention_bias.weight") for n in theirs)
                found[f"{at if per_layer else stack}/relpos_bias/rel_embedding"] = value.T
            elif "Attention" in rest:
                kind = ("self_attention" if decoder else "attention") if layer == 0 else "encoder_decoder_attention"
                found[f"{at}/{kind}/{attention[rest[-1]]}/kernel"] = value.T
            elif rest == "mlp.router.classifier":
                found[f"{at}/mlp/router/router_weights/w/kernel"] = value.T
            elif expert := re.fullmatch(r"mlp\.experts\.expert_(\d+)\.(\w+)", rest):
                experts.setdefault(f"{at}/mlp/expert/{expert[2]}/kernel", {})[int(expert[1])] = value.T
            else:
                found[f"{at}/mlp/{rest.split('.')[-1]}/kernel"] = value.T
    for name, parts in experts.items():
        found[name] = np.stack([parts[i] for i in range(len(parts))])
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def scanned(found):
    """Joins the variables of layers along the second axis."""
    joined, rest = {}, {}
    for name, value in found.items():
        if match := re.fullmatch(r"(encoder|decoder)/layers_(\d+)/(.*)", name):
            joined.setdefault(f"{match[1]}/{match[1]}/{match[3]}", {})[int(match[2])] = value
        else:
            rest[name] = value
    stacked = {name: np.stack([of[i] for i in range(len(of))], axis=1) for name, of in joined.items()}
    return {**rest, **stacked}


def random(name, shape):
    return (np.abs(element(name, int(np.prod(shape)))).reshape(shape) + 0.01).astype(np.float32)


def slots(name, shape):
    """The slots of T5X's Adafactor: by the rules for names if there are layers or experts, else by size."""
    unused = np.zeros((1,), np.float32)
    made = {slot: unused for slot in ("v_row", "v_col", "v", "m")}
    stacked = "/expert/" in name or re.match(r"(encoder/encoder|decoder/decoder)/", name)
    if stacked and ("relpos" in name or "router" in name or name.endswith("scale")):
        axes = None
    elif stacked:
        a, b = [i for i in range(len(shape)) if i != (1 if len(shape) == 4 or "/expert/" not in name else 0)][-2:]
        rows = b if re.search(r"(out|wo)/kernel$", name) else a
        axes = (rows, a + b - rows)
    elif len(shape) == 2 and min(shape) >= SMALLEST:
        small, large = np.argsort(shape)
        axes = (int(small), int(large))
    else:
        axes = None
    if axes is None:
        made["v"] = random(f"{name}/v", shape)
    else:
        made["v_row"] = random(f"{name}/v_row", np.delete(shape, axes[1]))
        made["v_col"] = random(f"{name}/v_col", np.delete(shape, axes[0]))
    return made


def t5x(folder, out, dtype=None, scan=False):
    import flax.serialization
    import flax.traverse_util
    import tensorstore as ts

    found = variables(folder)
    found = scanned(found) if scan else found
    out.mkdir()
    tree = {"state/step": np.array(1234, np.int32)}
    for number, (name, value) in enumerate(found.items()):
        path = f"target/{name}"
        value = value.astype(ts.bfloat16.numpy_dtype) if dtype == "bfloat16" else value
        compressor = [{"id": "gzip"}, None][number % 2]
        # Chunks that divide the array, and chunks that do not.
        chunks = [max(1, size // 2) if number % 3 else size for size in value.shape]
        spec = ts.Spec({
            "driver": "zarr",
            "dtype": value.dtype.name,
            "kvstore": {"driver": "file", "path": path.replace("/", ".")},
            "metadata": {"compressor": compressor, "shape": value.shape, "chunks": chunks},
        })
        absolute = spec.to_json()
        absolute["kvstore"]["path"] = str(out / absolute["kvstore"]["path"])
        ts.open(absolute, create=True, open=True).result().write(value).result()
        tree[f"optimizer/{path}"] = spec.to_json()
        for slot, value in slots(name, value.shape).items():
            tree[f"optimizer/state/param_states/{name}/{slot}"] = value
    tree["optimizer/state/step"] = tree.pop("state/step")
    tree["version"] = 3
    nested = flax.traverse_util.unflatten_dict(tree, sep="/")
    (out / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(nested))


def read(folder):
    """All arrays of a checkpoint of T5X."""
    import flax.serialization
    import tensorstore as ts

    found = {}

    def walk(path, value):
        if isinstance(value, dict) and "driver" in value:
            spec = json.loads(json.dumps(value))
            spec["kvstore"]["path"] = str(folder / spec["kvstore"]["path"])
            found[path] = np.asarray(ts.open(spec, open=True).result().read().result())
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{path}/{name}", inner)
        else:
            found[path] = np.asarray(value)

    walk("", flax.serialization.msgpack_restore((folder / "checkpoint").read_bytes()))
    return found


def compare(one, two):
    a, b = read(one), read(two)
    assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
    for name in a:
        same = a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        assert same and a[name].tobytes() == b[name].tobytes(), name
    print(f"{len(a)} arrays are bit-equal")


def tf(folder, out):
    import tensorflow

    found = variables(folder)
    out.mkdir()
    attention = {"query": "q", "key": "k", "value": "v", "out": "o"}
    tensors = {"global_step": np.array(1234, np.int64)}
    for name, value in found.items():
        own = name.replace("token_embedder/embedding", "shared/embedding").replace("logits_dense", "logits")
        own = re.sub(r"(encoder|decoder)/\1_norm", r"\1/rms_norm", own)
        own = re.sub(r"(encoder|decoder)/relpos_bias/rel_embedding",
                     r"\1/block_000/layer_000/SelfAttention/relative_attention_bias", own)
        if match := re.fullmatch(r"(encoder|decoder)/layers_(\d+)/(.*)", own):
            stack, block, rest = match[1], int(match[2]), match[3]
            mlp = 2 if stack == "decoder" else 1
            at = f"{stack}/block_{block:03}/layer_"
            if rest.startswith("pre_"):
                number = mlp if "mlp" in rest else 1 if "cross" in rest else 0
                own = f"{at}{number:03}/rms_norm/scale"
            elif rest.startswith("mlp/router"):
                own = f"{at}{mlp:03}/MoE1D/switch_gating/kernel"
            elif rest.startswith("mlp/expert"):
                own = f"{at}{mlp:03}/MoE1D/{rest.split('/')[2]}/kernel"
            elif rest.startswith("mlp/"):
                own = f"{at}{mlp:03}/DenseReluDense/{rest.split('/')[1]}/kernel"
            else:
                kind, part, _ = rest.split("/")
                cross = kind == "encoder_decoder_attention"
                kind = "EncDecAttention" if cross else "SelfAttention"
                own = f"{at}{int(cross):03}/{kind}/{attention[part]}"
        value = value.astype(np.float32)
        tensors[own] = value
        order = sorted(range(value.ndim), key=lambda axis: -value.shape[axis])
        if value.ndim > 1 and value.shape[order[1]] >= SMALLEST:
            tensors[f"{own}_slot_vr"] = random(f"{own}_slot_vr", np.delete(value.shape, order[0]))
            tensors[f"{own}_slot_vc"] = random(f"{own}_slot_vc", np.delete(value.shape, order[1]))
        else:
            tensors[f"{own}_slot_v"] = random(f"{own}_slot_v", value.shape)
    parts = []
    names = sorted(tensors)
    for i, half in enumerate([names[::2], names[1::2]]):
        parts.append(str(out / f"part-{i}"))
        tensorflow.raw_ops.SaveV2(
            prefix=parts[-1], tensor_names=half, shape_and_slices=[""] * len(half),
            tensors=[tensorflow.constant(tensors[name]) for name in half])
    prefix = str(out / "model.ckpt-1234")
    tensorflow.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=prefix)
    (out / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1234"\n')
    reader = tensorflow.train.load_checkpoint(prefix)
    assert all(np.array_equal(reader.get_tensor(name), tensors[name]) for name in names)
    print(f"tensorflow {tensorflow.__version__}: {len(names)} tensors")


if __name__ == "__main__":
    command, paths = sys.argv[1], [pathlib.Path(word) for word in sys.argv[2:4]]
    if command == "t5x":
        t5x(*paths, *sys.argv[4:])
    elif command == "scanned":
        t5x(*paths, scan=True)
    else:
        {"hf": hf, "tf": tf, "compare": compare}[command](*paths)
