"""Holds our wire facts and our HLO text against XLA itself.

    python -m venv VENV && VENV/bin/pip install jax protobuf
    cargo build -p proto --example hlo_text
    VENV/bin/python proto/tests/against_jaxlib.py [PLUGIN.so ...]

Three comparisons, each an exit status of 1 if it fails:

1. Every field of our .proto files has the name, number and type that the message descriptors
   inside jaxlib, and inside the plugins given, have.
2. The text we print of jaxlib's modules is the text XLA prints, line by line.
3. XLA's parser reads our text, and what it read prints as the same text again.

Not part of `cargo test`, because it needs jaxlib; run it after touching the .proto files or the
printer, and when plugins move on.
"""

import glob
import mmap
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from google.protobuf import descriptor_pb2
from jax import lax, shard_map
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxlib import _hlo

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PRINTER = TARGET / "debug" / "examples" / "hlo_text"

# ---------------------------------------------------------------------------------------------
# 1. Descriptors


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def embedded(path, name):
    """The serialized descriptor of file `name` inside the library at `path`, or None.

    It begins with its own name (field 1); it ends where the next tag is none of a file's.
    """
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = data.find(b"\n" + bytes([len(name)]) + name.encode() + b"\x12")
    if start < 0:
        return None
    at = start
    while True:
        tag, after = varint(data, at)
        field, wire = tag >> 3, tag & 7
        if wire != 2 or field not in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12) or field == 1 and at != start:
            break
        size, after = varint(data, after)
        at = after + size
        if field == 12:
            break
    return descriptor_pb2.FileDescriptorProto.FromString(data[start:at])


TYPES = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}


def facts(file):
    """`Message.field` to (number, type, repeated), `Enum.VALUE` to number."""
    found = {}

    def enum(e, prefix):
        for value in e.value:
            found[f"{prefix}{e.name}.{value.name}"] = value.number

    def message(m, prefix):
        here = f"{prefix}{m.name}."
        maps = {n.name for n in m.nested_type if n.options.map_entry}
        for f in m.field:
            kind = TYPES.get(f.type) or f.type_name.split(".")[-1]
            is_map = kind in maps
            found[here + f.name] = (f.number, "map" if is_map else kind, f.label == 3 and not is_map)
        for e in m.enum_type:
            enum(e, here)
        for nested in m.nested_type:
            if nested.name not in maps:
                message(nested, here)

    for m in file.message_type:
        message(m, "")
    for e in file.enum_type:
        enum(e, "")
    return found


def ours(path):
    """The same of one of our .proto files, whose style is regular enough to read line by line."""
    found, stack = {}, []
    for line in path.read_text().splitlines():
        line = line.split("//")[0].strip()
        if opened := re.match(r"(message|enum|oneof) (\w+) \{$", line):
            stack.append((opened[1], opened[2]))
        elif line == "}":
            stack.pop()
        elif line and stack:
            prefix = "".join(name + "." for kind, name in stack if kind != "oneof")
            if stack[-1][0] == "enum":
                name, number = re.match(r"(\w+) = (\d+);$", line).groups()
                found[prefix + name] = int(number)
            else:
                repeated, kind, name, number = re.match(
                    r"(repeated |optional )?(map<.*>|\w+) (\w+) = (\d+);$", line
                ).groups()
                kind = "map" if kind.startswith("map<") else kind
                found[prefix + name] = (int(number), kind, repeated == "repeated ")
    return found


# Facts of ours that newer XLA has dropped, with the reason that we keep them.
GONE = {"CollectiveDeviceListProto.iota_replica_group_list"}  # read from plugins of API 0.81
# Facts of ours that older XLA has not got yet.
NEW = {
    "HloInstructionProto.iota_collective_device_list",
    "HloInstructionProto.mesh_axes_replica_group_list",
    "MeshAxesReplicaGroupListProto.mesh",
    "MeshAxesReplicaGroupListProto.axes",
    "MeshProto.iota_transform",
    "MeshProto.IotaTransform.reshape_dims",
    "MeshProto.IotaTransform.transpose_perm",
}


def check_descriptors(library):
    theirs = {}
    names = ["xla/service/hlo.proto", "xla/xla_data.proto", "xla/pjrt/proto/compile_options.proto", "xla/xla.proto"]
    for name in names:
        file = embedded(library, name)
        if file is None:
            print(f"{library}: no descriptor of {name} inside, skipped")
            return 0
        theirs.update(facts(file))
    # XLA has this enum inside a message that we do not carry.
    for key in [k for k in theirs if k.startswith("ExecutionOptions.EffortLevel.")]:
        theirs[key.removeprefix("ExecutionOptions.")] = theirs[key]
    wrong = checked = 0
    for name in ["xla_data.proto", "hlo.proto", "compile_options.proto"]:
        for key, value in ours(ROOT / "proto/protos" / name).items():
            if key not in theirs and key in GONE | NEW:
                continue
            checked += 1
            if theirs.get(key) != value:
                wrong += 1
                print(f"{library}: {name}: {key} is {value} here, {theirs.get(key)} there")
    print(f"{library}: {checked} fields and enum values compared, {wrong} wrong")
    return wrong


# ---------------------------------------------------------------------------------------------
# 2. and 3. Text


def printed(path, *flags):
    return subprocess.run([PRINTER, *flags, path], capture_output=True, text=True, check=True).stdout


def lines(text):
    """Lines in any order (XLA prints in an order of its own), without constants (XLA prints floats
    with more digits than they need; the round trip below compares those)."""
    return sorted(line for line in text.splitlines() if line.strip() and " constant(" not in line)


def check_module(name, data, scratch):
    path = scratch / "module.pb"
    path.write_bytes(data)
    options = _hlo.HloPrintOptions()
    options.print_metadata = False
    options.print_large_constants = True
    theirs = _hlo.HloModule.from_serialized_hlo_module_proto(data).to_string(options)
    mine = printed(path, "--no-metadata")
    wrong = sorted(set(lines(theirs)) ^ set(lines(mine)))
    try:
        again = _hlo.hlo_module_from_text(mine)
        _hlo.hlo_module_from_text(printed(path))
        path.write_bytes(again.as_serialized_hlo_module_proto())
        wrong += sorted(set(mine.splitlines()) ^ set(printed(path, "--no-metadata").splitlines()))
    except Exception as error:
        wrong.append(f"XLA does not read our text: {error}")
    for line in wrong[:6]:
        print(f"{name}: {line[:300]}")
    return bool(wrong)


def modules():
    """Pairs of name and serialized module, as lowered and as optimized."""
    f32, i32 = jnp.float32, jnp.int32
    x, w, ids = jnp.ones((4, 8)), jnp.ones((8, 16)), jnp.zeros((5,), i32)
    ints = jnp.arange(12, dtype=i32).reshape(3, 4)
    bf = lambda *shape: jnp.ones(shape, jnp.bfloat16)
    random = np.random.RandomState(0)
    constants = [
        random.randn(3, 4).astype(np.float32) * 10.0 ** random.randint(-30, 30, (3, 4)).astype(np.float32),
        jnp.asarray(random.randn(5), jnp.bfloat16),
        jnp.asarray(random.randn(5), jnp.float16),
        np.array([[True, False], [False, True]]),
        np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, 3.4e38], np.float32),
        random.randint(-5, 5, (2, 2, 2)).astype(np.int32),
        *(np.array(v, t) for v, t in [([-1, 2], np.int8), ([1, 255], np.uint8), ([1, 2**32 - 1], np.uint32)]),
        *(np.array(v, t) for v, t in [([-3, 4], np.int16), ([3, 65535], np.uint16)]),
        np.zeros((0, 3), np.float32),
    ]
    window = dict(base_dilation=(2, 1), window_dilation=(1, 2))
    batched = (((2,), (1,)), ((0,), (0,)))
    algorithm = lax.DotAlgorithmPreset.BF16_BF16_F32
    fry = lax.RandomAlgorithm.RNG_THREE_FRY
    two = jnp.full_like(ints, 2)
    programs = {
        "dot": (lambda x, w: jnp.dot(x, w, precision="highest"), x, w),
        "dot_bf16": (lambda a, b: lax.dot_general(a, b, batched, preferred_element_type=f32), bf(3, 4, 8), bf(3, 8, 2)),
        "dot_algorithm": (lambda a, b: lax.dot_general(a, b, (((1,), (0,)), ((), ())), precision=algorithm), x, w),
        "gather": (lambda x, i: x[i], x, ids),
        "gather_batched": (lambda x, i: jnp.take_along_axis(x, i, axis=1), x, jnp.zeros((4, 3), i32)),
        "scatter": (lambda x, i, u: x.at[i].add(u), x, ids, jnp.ones((5, 8))),
        "reduce": (lambda x: (x.sum(0), x.max(1), jnp.argmax(x, 1), x.sum()), x),
        "while": (lambda x: lax.fori_loop(0, 5, lambda i, c: c * 2 + i, x), x),
        "scan": (lambda x: lax.scan(lambda c, y: (c + y, c * y), x[0], x), x),
        "cond": (lambda p, x: lax.cond(p, lambda a: a + 1, lambda a: a * 2, x), True, x),
        "switch": (lambda p, x: lax.switch(p, [lambda a: a + 1, lambda a: a * 2, lambda a: a - 1], x), 1, x),
        "sort": (lambda x: (jnp.sort(x, 0), jnp.argsort(x, 1)), x),
        "sort_unstable": (lambda x: lax.sort((x, x * 2), dimension=0, num_keys=2, is_stable=False), x),
        "topk": (lambda x: lax.top_k(x, 3), x),
        "cumsum": (lambda x: (jnp.cumsum(x, 0), lax.cumsum(x, 1, reverse=True), lax.cumlogsumexp(x)), x),
        "dynamic": (lambda x, i: (lax.dynamic_slice(x, (i, 0), (2, 8)), lax.dynamic_update_slice(x, x[:1] * 2, (i, 0))), x, 2),
        "rng": (lambda k: lax.rng_bit_generator(k, (4, 5)), jnp.zeros((4,), jnp.uint32)),
        "rng_threefry": (lambda k: lax.rng_bit_generator(k, (4, 5), algorithm=fry), jnp.zeros((4,), jnp.uint32)),
        "normal": (lambda k: jax.random.normal(k, (4, 5)), jax.random.key(0)),
        "pad": (lambda x: (lax.pad(x, 0.5, ((1, 2, 0), (0, -1, 1))), lax.pad(x, 0.0, ((1, 0, 0), (0, 3, 0)))), x),
        "shape": (
            lambda x: (
                *(jnp.concatenate([x, x * 2], 1), x[1:3, ::2], x.T, x.reshape(2, 16), jnp.flip(x, 0)),
                *(lax.squeeze(x[:1], (0,)), lax.broadcast_in_dim(x, (4, 3, 8), (0, 2)), jnp.broadcast_to(1.5, (2, 3))),
            ),
            x,
        ),
        "elementwise": (
            lambda x, y: (
                *(jnp.exp(x), jnp.log1p(x), jnp.expm1(x), lax.rsqrt(x), jnp.tanh(x), jax.nn.gelu(x), jax.nn.sigmoid(x)),
                *(jnp.where(x > y, x, y), x**y, jnp.clip(x, 0, 1), jnp.sign(x), jnp.floor(x), jnp.isfinite(x), lax.erf(x)),
                *(x.astype(jnp.bfloat16), x.astype(i32), lax.bitcast_convert_type(x, jnp.uint32), ~(x > y), -x, abs(x)),
                *(jnp.remainder(x, y), lax.reduce_precision(x, 8, 7), jnp.cos(x), lax.atan2(x, y), jnp.round(x)),
            ),
            x,
            x + 1,
        ),
        "integers": (
            lambda x: (
                *(x // 3, x % 5, x << 2, x & 3, x | 4, x ^ 5, x.astype(jnp.uint8), x == 2, lax.population_count(x)),
                *(lax.shift_right_logical(x, two), lax.shift_right_arithmetic(x, two), lax.clz(x)),
            ),
            ints,
        ),
        "iota": (lambda: (lax.broadcasted_iota(i32, (4, 5), 1), lax.iota(jnp.uint32, 7)),),
        "reduce_window": (
            lambda x: (
                lax.reduce_window(x, -jnp.inf, lax.max, (1, 3), (1, 2), "SAME"),
                lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), ((1, 0), (0, 1)), **window),
            ),
            x,
        ),
        "constants": (lambda: tuple(jnp.asarray(c) for c in constants),),
        "barrier": (lambda x: lax.optimization_barrier((x, x + 1)), x),
        "remat": (lambda x: jax.grad(lambda x: jax.checkpoint(lambda y: jnp.sin(jnp.sin(y)))(x).sum())(x), x),
    }
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    big, ab = jnp.ones((16, 32)), P("a", "b")
    ring = [(0, 1), (1, 2), (2, 3), (3, 0)]
    sharded = {
        "psum": (lambda x: (lax.psum(x, "a"), lax.psum(x, ("a", "b")), lax.pmax(x, "b")), ab),
        "all_to_all": (lambda x: lax.all_to_all(x, "b", 0, 1, tiled=True), ab),
        "all_to_all_one": (lambda x: lax.all_to_all(x.reshape(4, 2, 8), "b", 0, 0), P(None, "a", "b")),
        "reduce_scatter": (lambda x: lax.psum_scatter(x, "b", scatter_dimension=0, tiled=True), ab),
        "all_gather": (lambda x: lax.all_gather(x, "a", axis=1, tiled=True), ab),
        "permute": (lambda x: lax.ppermute(x, "b", ring), ab),
        "axis_index": (lambda x: x + lax.axis_index("a") * 4 + lax.axis_index("b"), ab),
    }
    for name, (function, out) in sharded.items():
        programs[name] = (shard_map(function, mesh=mesh, in_specs=ab, out_specs=out, check_vma=False), big)
    named = lambda spec: NamedSharding(mesh, spec)
    programs["propagated"] = (lambda x: lax.with_sharding_constraint(x * 2, named(P("b", None))), jax.device_put(big, named(ab)))
    lowered = {name: jax.jit(function).lower(*args) for name, (function, *args) in programs.items()}
    lowered["donated"] = jax.jit(lambda x, y: (x + y, y * 2), donate_argnums=(0,)).lower(x, x)
    foreign = jax.ffi.ffi_call("nowhere", jax.ShapeDtypeStruct((4, 8), f32), has_side_effect=True)
    yield "custom_call", jax.jit(lambda x: foreign(x, a=1, b='say "hi"')).lower(x).compiler_ir("hlo").as_serialized_hlo_module_proto()
    for name, program in lowered.items():
        yield name, program.compiler_ir("hlo").as_serialized_hlo_module_proto()
        optimized = program.compile().runtime_executable().hlo_modules()[0]
        yield name + " optimized", optimized.as_serialized_hlo_module_proto()


def main():
    library = glob.glob(os.path.join(os.path.dirname(jaxlib.__file__), "libjax_common.so"))
    wrong = sum(check_descriptors(path) for path in library + sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        results = [check_module(name, data, pathlib.Path(scratch)) for name, data in modules()]
    print(f"{len(results)} modules compared, {sum(results)} wrong")
    return 1 if wrong or any(results) else 0


if __name__ == "__main__":
    sys.exit(main())
