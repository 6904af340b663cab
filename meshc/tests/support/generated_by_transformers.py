"""Loads a folder that `meshc convert to-hf` wrote with transformers' Auto classes, and prints greedy tokens.

    python generated_by_transformers.py FOLDER TEXTS LENGTH

Prints one JSON object for each line of the file TEXTS: the tokens of the input, and the LENGTH generated.
"""

import json
import sys

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder, texts, length = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
for text in open(texts, encoding="utf-8").read().splitlines():
    given = tokenizer(text, return_tensors="pt")
    inputs = dict(input_ids=given.input_ids, attention_mask=given.attention_mask)
    tokens = model.generate(**inputs, max_new_tokens=int(length), do_sample=False, num_beams=1)[0].tolist()
    # The first token is the decoder's start.
    print(json.dumps({"inputs": given.input_ids[0].tolist(), "tokens": tokens[1:]}))
