"""Writes cases.json: what other programs compute for the texts and classes of ../metrics.rs.

    python -m venv v
    v/bin/pip install sacrebleu==2.4.3 rouge-score==0.1.2 scikit-learn==1.5.2 scipy==1.14.1 absl-py
    v/bin/pip install --no-deps t5==0.9.4
    v/bin/python reference.py

Texts are functions of a seed (`Random`, `text`, `changed`), which the test computes again; only the words they
are made of and the results are stored. F1 and exact match of SQuAD are those of t5's qa_utils.
"""

import importlib.util
import json
import pathlib

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

WORDS = [
    "the", "a", "an", "The", "A", "cat", "dog's", "sat.", "on", "mat,", "U.S.", "3.14", "1,000", "10-20",
    "well-known", "(yes)", "no!", "\"quoted\"", "Élan", "naïve", "İstanbul", "der", "Straße", "&amp;", "x&lt;y",
    "end.", "...", "red", "blue", "green", "run", "runs", "running", "2", "7,", "-", "5-", "/", "a/b", "what?",
    "it's", "its", "_under_", "日本", "語。", ". ", ".", "$5", "50%", "#1", "@home", "e.g.,",
]
PAIRS = 300


class Random:
    """A linear congruential generator (Knuth's MMIX constants)."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


def text(random):
    """Words, separated by spaces and some line ends."""
    out = ""
    for at in range(random.below(30)):
        out += ("" if at == 0 else "\n" if random.below(9) == 0 else " ") + WORDS[random.below(len(WORDS))]
    return out


def changed(random, reference):
    """The words of a text, some of them left out or replaced."""
    words = []
    for word in reference.split(" "):
        kind = random.below(6)
        if kind == 0:
            words.append(WORDS[random.below(len(WORDS))])
        elif kind > 1:
            words.append(word)
    return " ".join(words)


def pair(number):
    """A prediction and its references."""
    random = Random(number)
    references = [text(random) for _ in range(1 + random.below(2))]
    return changed(random, references[random.below(len(references))]), references


def qa_utils():
    found = importlib.util.find_spec("t5").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("qa_utils", f"{found}/evaluation/qa_utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rouge(pairs):
    scorer = RougeScorer(["rouge1", "rouge2", "rougeLsum"])
    lines = lambda text: text.replace(" . ", " .\n")
    rows = []
    for prediction, references in pairs:
        all = [scorer.score(lines(reference), lines(prediction)) for reference in references]
        rows.append([max(one[name].fmeasure for one in all) for name in ["rouge1", "rouge2", "rougeLsum"]])
    return rows


def squad(pairs):
    qa = qa_utils()
    rows = []
    for prediction, references in pairs:
        references = [qa.normalize_squad(reference) for reference in references]
        prediction = qa.normalize_squad(prediction)
        most = qa._metric_max_over_ground_truths
        rows.append([int(most(qa._exact_match_score, references, prediction)), most(qa._f1_score, references, prediction)])
    return rows


def bleu(pairs):
    """BLEU of every ten pairs, and of all."""

    def of(some):
        most = max(len(references) for _, references in some)
        references = [[r[i] if i < len(r) else None for _, r in some] for i in range(most)]
        predictions = [prediction for prediction, _ in some]
        return sacrebleu.corpus_bleu(predictions, references, smooth_method="exp", tokenize="13a").score

    return [of(pairs[at : at + 10]) for at in range(0, len(pairs), 10)] + [of(pairs)]


def classes(seed, count):
    random = Random(seed)
    targets = [random.below(count) for _ in range(PAIRS)]
    # One more class is a prediction that is none of them.
    return targets, [t if random.below(3) else random.below(count + 1) for t in targets]


def classification():
    two, three = classes(1, 2), classes(2, 3)
    wrong = [1 - t if p == 2 else p for t, p in zip(*two)]
    return {
        "f1": f1_score(two[0], wrong),
        "macro_f1": f1_score(*three, average="macro", labels=range(3)),
        "matthews_2": matthews_corrcoef(*two),
        "matthews_3": matthews_corrcoef(*three),
    }


def multi_label():
    random = Random(3)
    row = lambda: [random.below(3) == 0 for _ in range(5)]
    targets = [row() for _ in range(PAIRS)]
    predictions = [[t if random.below(4) else random.below(2) == 1 for t in row] for row in targets]
    return f1_score(targets, predictions, average="micro")


def correlation():
    random = Random(4)
    pairs = [(random.below(26) / 5, random.below(26) / 5) for _ in range(PAIRS)]
    a, b = [a for a, _ in pairs], [(a + b) / 2 for a, b in pairs]
    return {"pearson": pearsonr(a, b)[0], "spearman": spearmanr(a, b)[0]}


def main():
    pairs = [pair(number) for number in range(PAIRS)]
    cases = {
        "words": WORDS,
        "pairs": PAIRS,
        "rouge": rouge(pairs),
        "squad": squad(pairs),
        "bleu": bleu(pairs),
        "classification": {name: float(value) for name, value in classification().items()},
        "multi_label_f1": float(multi_label()),
        "correlation": {name: float(value) for name, value in correlation().items()},
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in cases.items()]
    path = pathlib.Path(__file__).parent / "cases.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


main()
