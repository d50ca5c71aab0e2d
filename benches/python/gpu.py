"""PyTorch's best effort at the training that `bench_gpu` measures. Reads the files that `bench_gpu` writes.

    python3 gpu.py always|never bf16|tf32|fp32

always: features stay on the device, and batches are gathered there. never: a DataLoader with workers, pinned memory and
non-blocking copies. Each runs eagerly, compiled, and compiled with the recurrent network as CUDA graphs, and prints one
line of JSON with the questions a second.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from baseline import Baseline  # noqa: E402

N_WARM = 20


def read(name, dtype):
    path = HERE / name
    return torch.from_file(str(path), size=path.stat().st_size // 4, dtype=dtype)


class Batches(torch.utils.data.Dataset):
    """A dataset of full batches, so that a worker gathers each batch in one go."""

    def __init__(self, order, make):
        self.order, self.make = order, make

    def __len__(self):
        return len(self.order)

    def __getitem__(self, i):
        return self.make(self.order[i])


def main():
    features_on_device, precision = sys.argv[1:]
    spec = json.loads((HERE / "spec.json").read_text())
    device = torch.device(spec["device"])
    on_gpu = device.type == "cuda"
    b, n_answers = spec["batch_size"], spec["n_answers"]
    tokens = read("tokens.i32", torch.int32).view(-1, spec["max_len"]).long()
    images = read("images.i32", torch.int32).long()
    ends = read("ends.i32", torch.int32).long()
    answers, scores = read("answers.i32", torch.int32).long(), read("scores.f32", torch.float32)
    # At most ten candidates a question, the others of score 0 in a column of their own.
    starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
    place = starts[:, None] + torch.arange(10)
    there = place < ends[:, None]
    place = torch.where(there, place, 0)
    answers = torch.where(there, answers[place], n_answers)
    scores = torch.where(there, scores[place], 0.0)

    torch.manual_seed(1)
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    resident = features_on_device == "always"
    shape = (spec["n_images"], spec["n_regions"], spec["feature_dim"])
    regions = torch.empty(shape, dtype=dtype, device=device if resident else "cpu")
    for some in regions.split(1024):
        some.uniform_(-2, 2).relu_()

    n_steps = N_WARM + spec["n_steps"] if on_gpu else 1 + spec["n_steps"]
    n_warm = n_steps - spec["n_steps"]
    generator = torch.Generator().manual_seed(1)

    def order():
        batches = []
        while len(batches) < n_steps:
            batches += torch.randperm(len(tokens), generator=generator).split(b)[: len(tokens) // b]
        return batches[:n_steps]

    def gather(questions, tokens, images, answers, scores):
        return tokens[questions], regions[images[questions]], answers[questions], scores[questions]

    def batches():
        if resident:
            of_all = [numbers.to(device) for numbers in (tokens, images, answers, scores)]
            for questions in order():
                yield gather(questions.to(device, non_blocking=True), *of_all)
        else:
            n_workers = min(8, os.cpu_count() or 1) if on_gpu else 0
            dataset = Batches(order(), lambda questions: gather(questions, tokens, images, answers, scores))
            for batch in DataLoader(dataset, batch_size=None, num_workers=n_workers, pin_memory=on_gpu):
                yield [numbers.to(device, non_blocking=True) for numbers in batch]

    def measure(way):
        torch.compiler.reset()
        torch._dynamo.config.allow_rnn = way == "CUDA graphs"
        model = Baseline(spec["model"], spec["n_words"], n_answers, spec["feature_dim"]).to(device)
        optimizer = torch.optim.Adamax(model.parameters(), lr=0.002, foreach=True, capturable=on_gpu)
        compiled = {"compiled": None, "CUDA graphs": "reduce-overhead"}
        run = torch.compile(model, mode=compiled[way]) if way in compiled else model
        started = None
        for i, (tokens, regions, answers, scores) in enumerate(batches()):
            if i == n_warm:
                if on_gpu:
                    torch.cuda.synchronize()
                started = time.time()
            targets = torch.zeros(b, n_answers + 1, device=device).scatter_(1, answers, scores)[:, :n_answers]
            with autocast:
                logits, _ = run(tokens, regions)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets) * n_answers
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
        loss = loss.item()
        return spec["n_steps"] * b / (time.time() - started), loss

    for way in ["eager", "compiled", "CUDA graphs"] if on_gpu else ["eager"]:
        how = ("on the device, " if resident else "pinned loader, ") + way
        try:
            questions_per_s, loss = measure(way)
        except Exception as error:
            print(f"{how}: {str(error)[:300]}", file=sys.stderr)
            continue
        figures = {"how": how, "precision": precision, "questions_per_s": round(questions_per_s, 1), "loss": round(loss, 3)}
        print(json.dumps(figures), flush=True)


main()
