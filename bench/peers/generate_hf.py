"""Measures Hugging Face transformers' `generate` for a small Switch Transformer on CPU.

Prints one JSON object. With --save DIR it writes the model (weights and config) to DIR, so that another program can
load the same model, together with `inputs.safetensors` (input_ids) and `generated.safetensors` (output ids).
"""

import argparse
import json
import os
import resource
import time


def main():
    parser = argparse.ArgumentParser()
    for name, value in [
        ("batch", 8), ("input_length", 64), ("new_tokens", 64), ("vocab", 384), ("d_model", 256), ("d_ff", 1024),
        ("heads", 8), ("d_kv", 32), ("layers", 2), ("sparse_layers", 1), ("experts", 8), ("capacity", 64),
        ("runs", 5), ("threads", 0), ("beams", 1),
    ]:
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--save")
    parser.add_argument("--load")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    config = SwitchTransformersConfig(
        vocab_size=args.vocab, d_model=args.d_model, d_kv=args.d_kv, d_ff=args.d_ff, expert_capacity=args.capacity,
        num_layers=args.layers, num_sparse_encoder_layers=args.sparse_layers, num_decoder_layers=args.layers,
        num_sparse_decoder_layers=args.sparse_layers, num_heads=args.heads, num_experts=args.experts,
        router_jitter_noise=0.0, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )
    model = SwitchTransformersForConditionalGeneration(config).eval()
    numbers = torch.arange(args.batch * args.input_length).reshape(args.batch, args.input_length)
    ids = 3 + (numbers * 7919 + 1) * 31 % (args.vocab - 3)
    if args.save:
        model.save_pretrained(args.save)

    def run():
        start, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=args.beams,
                min_new_tokens=args.new_tokens, max_new_tokens=args.new_tokens,
            )
        return time.perf_counter() - start, time.process_time() - cpu, out

    run()
    times = [run() for _ in range(args.runs)]
    out = times[0][2]
    assert out.shape == (args.batch, args.new_tokens + 1), out.shape
    if args.save:
        save_file({"input_ids": ids.to(torch.int32)}, os.path.join(args.save, "inputs.safetensors"))
        save_file({"ids": out.to(torch.int32)}, os.path.join(args.save, "generated.safetensors"))
    wall = sorted(t[0] for t in times)
    print(json.dumps({
        "transformers": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
        "ms": wall[len(wall) // 2] * 1e3, "min_ms": wall[0] * 1e3,
        "cpu_ms": sorted(t[1] for t in times)[len(times) // 2] * 1e3,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_s": args.batch * args.new_tokens / wall[len(wall) // 2],
    }))


if __name__ == "__main__":
    main()
