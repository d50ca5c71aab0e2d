"""Measures the same model in eager PyTorch, on batches that `training … write` wrote: questions a second, in training or
evaluation.

    python3 training.py BATCHES.safetensors train|evaluate fp32|bf16 [article|lstm|concat|layers=2|bidirectional|lstm,layers=2|…]

Loading is not measured: the batches, with the regions of each question's image, are in memory before the clock starts.
"""

import copy
import json
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vqa-model/pytorch-reference"))
from baseline import Baseline  # noqa: E402

CONFIG = {
    "hid_dim": 1024,
    "lm": {"word_emb_dim": 300, "rnn_type": "GRU", "n_layers": 1, "bidirectional": False, "dropout": 0.0},
    "topdown_att": {"type": "product", "hid_dim": 1024, "dropout": 0.2},
    "mlp": {"hid_dim": 2048, "dropout": 0.5},
}
# How the variants differ from the article's model.
KINDS = {
    "article": {},
    "lstm": {"lm": {"rnn_type": "LSTM"}},
    "concat": {"topdown_att": {"type": "concat"}},
    "layers=2": {"lm": {"n_layers": 2}},
    "bidirectional": {"lm": {"bidirectional": True}},
}
N_WARM, N_STEPS = 2, 8


def main():
    path, what, precision, *kind = sys.argv[1:]
    config = copy.deepcopy(CONFIG)
    for difference in kind[0].split(",") if kind else []:
        for part, values in KINDS[difference].items():
            config[part].update(values)
    with safe_open(path, "pt") as f:
        n_words = int(json.loads(f.metadata()["vqa"])["n_words"])
        get = lambda name, i: f.get_tensor(f"{name}.{i}")
        batches = []
        for i in range(sum(key.startswith("tokens.") for key in f.keys())):
            regions = get("features", i)[get("image_rows", i).long()]  # [B, K, D]
            batches.append((get("tokens", i).long(), regions, get("targets", i)))
    n_answers, dim = batches[0][2].size(1), batches[0][1].size(2)
    torch.manual_seed(1)
    model = Baseline(config, n_words, n_answers, dim)
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.002)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")

    def train(tokens, regions, targets):
        with autocast:
            logits, _ = model(tokens, regions)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets) * n_answers
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(tokens, regions, targets):
        with autocast:
            logits, _ = model(tokens, regions)
        return logits.argmax(1).tolist()

    step = {"train": train, "evaluate": evaluate}[what]
    model.train(what == "train")
    n_questions = 0
    for i in range(N_WARM + N_STEPS):
        if i == N_WARM:
            n_questions, started = 0, time.time()
        batch = batches[i % len(batches)]
        step(*batch)
        n_questions += len(batch[0])
    print(f'{{"questions_per_s": {n_questions / (time.time() - started):.1f}}}')


main()
