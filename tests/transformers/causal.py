"""Writes the cases of tests/tests/causal.rs: folders of Hugging Face's decoder-only models, each with its logits.

    v4/bin/python tests/transformers/causal.py FOLDERS
    v5/bin/python tests/transformers/causal.py FOLDERS

The virtual environments are those of folders.py, and the descriptions have the same form: the configuration, the
tensors, inputs, logits and greedy tokens, without weights (elements.py). FOLDERS receives the folders.

    v4/bin/python tests/transformers/causal.py check FOLDER CASE

loads a folder that `meshc convert to-hf` wrote, and compares its logits with those of a case.
"""

import json
import pathlib
import sys

import torch
import transformers
from elements import element
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

HERE = pathlib.Path(__file__).parent
MAJOR = transformers.__version__.split(".")[0]
SIZES = dict(
    vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
)
INPUT = [[1, 9, 23, 3, 14, 6, 8, 20, 5], [1, 4, 7, 12, 20, 8, 11, 19, 22]]

CASES = {
    "mistral": (MistralForCausalLM, MistralConfig, dict(sliding_window=4, tie_word_embeddings=True)),
    "mixtral": (MixtralForCausalLM, MixtralConfig, dict(num_local_experts=3, num_experts_per_tok=2)),
    "glm4_moe": (
        Glm4MoeForCausalLM,
        Glm4MoeConfig,
        dict(
            n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, n_shared_experts=2,
            first_k_dense_replace=0, routed_scaling_factor=1.5,
        ),
    ),
}


def rotary(name):
    """Both versions state the base of rotary positions in their own way."""
    theta, whole = 100.0, dict(partial_rotary_factor=1.0) if name == "glm4_moe" else {}
    if MAJOR == "5":
        return dict(rope_parameters=dict(rope_theta=theta, rope_type="default", **whole))
    return dict(rope_theta=theta, **whole)


def fill(folder):
    """Gives every tensor of a folder the elements of its name."""
    from safetensors.torch import save_file

    tensors = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            shape = file.get_slice(name).get_shape()
            count = int(torch.tensor(shape).prod())
            tensors[name] = torch.tensor(element(name, count).reshape(shape), dtype=torch.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor(INPUT)).logits.double().flatten()


def write(out):
    for name, (model, config, more) in CASES.items():
        folder = out / f"{name}_v{MAJOR}"
        model(config(**{**SIZES, **rotary(name), **more})).save_pretrained(folder)
        sizes = fill(folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        prompt = torch.tensor([row[:4] for row in INPUT])
        greedy = model.generate(prompt, max_new_tokens=6, do_sample=False, num_beams=1, pad_token_id=0)
        said = {
            "transformers": transformers.__version__,
            "config": json.loads((folder / "config.json").read_text()),
            "dtype": "float32",
            "tensors": sizes,
            "same_as": {},
            "inputs": {"input_ids": INPUT},
            "logits": [float(f"{x:.7g}") for x in logits_of(model)],
            "greedy": greedy.tolist(),
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in said.items()]
        (HERE / "cases" / f"{folder.name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(folder.name, transformers.__version__)


def check(folder, case):
    want = torch.tensor(json.loads((HERE / "cases" / f"{case}.json").read_text())["logits"], dtype=torch.float64)
    have = logits_of(AutoModelForCausalLM.from_pretrained(folder).eval())
    off = float((have - want).abs().max())
    print(f"{folder}: logits differ by {off:.3g}")
    assert off < 5e-5


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(pathlib.Path(sys.argv[2]), sys.argv[3])
    else:
        write(pathlib.Path(sys.argv[1]))
