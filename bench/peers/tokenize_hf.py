"""Measures Hugging Face tokenizers on one core: TOKENIZER.json TEXT [MEGABYTES].

Prints one JSON object. The text is divided at line ends into parts of about 60 kB, as `data prepare` divides it.
"""

import json
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers


def parts(path, most):
    part, size, total = [], 0, 0
    with open(path, encoding="utf-8", newline="") as lines:
        for line in lines:
            part.append(line)
            size += len(line.encode())
            if size > 60_000:
                yield "".join(part)
                total, part, size = total + size, [], 0
                if total > most:
                    return
    yield "".join(part)


def main():
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    texts = list(parts(sys.argv[2], float(sys.argv[3] if len(sys.argv) > 3 else 100) * 1e6))
    size = sum(len(text.encode()) for text in texts)
    rates = {}
    for name in ["encode_batch", "encode_batch_fast"]:
        encode, start, tokens = getattr(tokenizer, name), time.process_time(), 0
        for text in texts:
            tokens += len(encode([text], add_special_tokens=False)[0].ids)
        rates[name] = size / 1e6 / (time.process_time() - start)
    result = {"peer": f"tokenizers {tokenizers.__version__}", "bytes": size, "tokens": tokens, "rates": rates}
    print(json.dumps(result | {"mb_per_cpu_s": max(rates.values())}))


if __name__ == "__main__":
    main()
