"""Trains the article's model with one process of two threads, and with two processes of one, and prints how fast they are.

    make bench        (or, when it has run once: python3 benches/python/processes.py)

Uses the files that compare.py has made. Each setup trains some steps of 512 questions, in turn, with the gradients summed
in float32 and in bfloat16; the first steps of each round do not count. Results are medians over the rounds.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "target" / "bench-data"
VQA = str(ROOT / "target/release/vqa")
ROUNDS = int(os.environ.get("ROUNDS", 3))
STEPS, WARM = 12, 3


def write_questions():
    """The first questions about images that have features."""
    import h5py

    with h5py.File(DATA / "train36.h5") as features:
        images = set(features["image_ids"][:].tolist())
    questions = json.loads((DATA / "v2_OpenEnded_mscoco_train2014_questions.json").read_text())
    questions["questions"] = [q for q in questions["questions"] if q["image_id"] in images][: 512 * STEPS]
    ids = {question["question_id"] for question in questions["questions"]}
    annotations = json.loads((DATA / "v2_mscoco_train2014_annotations.json").read_text())
    annotations["annotations"] = [a for a in annotations["annotations"] if a["question_id"] in ids]
    (DATA / "processes_annotations.json").write_text(json.dumps(annotations))
    (DATA / "processes_questions.json").write_text(json.dumps(questions))


def train(n_processes, *settings):
    """Means over the counted steps: questions a second, ms of all-reduce, ms a step; and parameters."""
    out = DATA / "processes"
    shutil.rmtree(out, ignore_errors=True)
    source = f"""
out_dir = "{out}"
device = "cpu"
[dict]
words = "{DATA}/words.json"
answers = "{DATA}/answers.json"
[[data.train.composition]]
q_jsons = ["{DATA}/processes_questions.json"]
a_jsons = ["{DATA}/processes_annotations.json"]
features = "{DATA}/train36.h5"
[train]
n_epochs = 1
log_every = 1
"""
    config = DATA / "processes.toml"
    config.write_text(source)
    command = [VQA, "train", "--config", str(config), *[word for setting in settings for word in ("--set", setting)]]
    if n_processes > 1:
        launcher = "-m torch.distributed.run --no-python --standalone --nproc-per-node".split()
        command = [sys.executable, *launcher, str(n_processes), *command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed: {command}\n{done.stderr}")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"][WARM:STEPS]
    all_reduce = sum(step.get("all_reduce_ms", 0.0) for step in steps) / len(steps)
    ms = sum(512e3 / step["samples_per_s"] for step in steps) / len(steps)
    return 512e3 / ms, all_reduce, ms


def main():
    ways = {
        "1 process, 2 threads": (1, "train.sampler=grouped"),
        "2 processes, 1 thread each, fp32": (2, "train.sampler=grouped"),
        "2 processes, 1 thread each, bf16": (2, "train.sampler=grouped", "train.all_reduce=bf16"),
    }
    if not (DATA / "processes_questions.json").exists():
        write_questions()
    seen = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, arguments in ways.items():
            seen[way].append(train(*arguments))
    print("| training by | questions/s | of one process's | all-reduce | share of a step |\n| --- | --- | --- | --- | --- |")
    alone = None
    for way, rounds in seen.items():
        per_s, all_reduce, ms = (statistics.median(figures) for figures in zip(*rounds))
        alone = alone or per_s
        print(f"| {way} | {per_s:.0f} | {100 * per_s / alone:.0f} % | {all_reduce:.0f} ms | {100 * all_reduce / ms:.1f} % |")


main()
