"""Compares data handling, training and answering with Python and PyTorch, in turn, on made-up files of VQA2.0's size, and
prints a table.

    make bench

Each round runs vqa, then Python, then the limit: the same bytes copied or written plainly. Results are medians over
the rounds. Memory is the largest resident set of the process, mapped files included.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "target" / "bench-data"
IMAGES = 3000
ROUNDS = int(os.environ.get("ROUNDS", 3))
VQA = str(ROOT / "target/release/vqa")
LOAD = str(ROOT / "target/release/examples/load")
# The variants of the article's model, as named in training.rs and training.py.
KINDS = {
    "article": "GRU, product attention",
    "lstm": "LSTM",
    "concat": "concat attention",
    "layers=2": "GRU, two layers",
    "lstm,layers=2": "LSTM, two layers",
    "bidirectional": "GRU, both directions",
    "layers=2,bidirectional": "GRU, two layers, both directions",
}
# A processor without bfloat16 arithmetic computes in float32 and rounds, which nobody would choose.
PRECISIONS = ["fp32", "bf16"] if "bf16" in Path("/proc/cpuinfo").read_text() else ["fp32"]
TRAINING = str(ROOT / "target/release/examples/training")


def run(*command, environment={}):
    """Runs a command; returns its seconds, peak MB and output."""
    started = time.time()
    environment = {**os.environ, **environment}
    child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, env=environment)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.time() - started
    if status:
        sys.exit(f"failed: {command}")
    return seconds, usage.ru_maxrss * 1.024e-3, output


def python(script, *arguments):
    return run(sys.executable, ROOT / "benches/python" / script, *arguments)


def read_all(*paths):
    """Seconds that reading files from the page cache takes."""
    started = time.time()
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            while f.read(1 << 20):
                pass
    return time.time() - started


def evict(path):
    """Evicts a file from the page cache."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_all(path, size):
    """Seconds that writing as many bytes to disk takes, including the sync."""
    block = os.urandom(1 << 20)
    started = time.time()
    with open(path, "wb", buffering=0) as f:
        for _ in range(size >> 20):
            f.write(block)
        os.fsync(f.fileno())
    seconds = time.time() - started
    os.remove(path)
    return seconds


def main():
    tsv, h5 = DATA / "train36.tsv", DATA / "train36.h5"
    if not tsv.exists():
        run(ROOT / "target/release/examples/generate", DATA, IMAGES, IMAGES)
    jsons = sorted(DATA.glob("v2_*.json"))
    questions, annotations = (DATA / f"v2_{name}_val2014_{kind}.json" for name, kind in
                              [("OpenEnded_mscoco", "questions"), ("mscoco", "annotations")])
    results = DATA / "results_val.json"
    train_questions = DATA / "v2_OpenEnded_mscoco_train2014_questions.json"
    batches = DATA / "batches.safetensors"
    if not batches.exists():
        run(TRAINING, h5, train_questions, "write", batches)
    figures = {}
    add = lambda key, value: figures.setdefault(key, []).append(value)

    def vqa(what, precision, sampler, kind):
        # As `vqa` sets it for itself.
        environment = {"OMP_WAIT_POLICY": "passive"}
        figure = json.loads(run(TRAINING, h5, train_questions, what, precision, sampler, kind, environment=environment)[2])
        name = f"{what} {kind} {precision}"
        add(f"{name} {sampler}", figure["questions_per_s"])
        add(f"{name} {sampler} of products", figure["products_gflop_per_s"] / figure["products_alone_gflop_per_s"])
        add(f"{name} {sampler} of peak", figure["products_gflop_per_s"] / figure["matmul_peak_gflop_per_s"])
        add(f"{precision} peak", figure["matmul_peak_gflop_per_s"])

    def pytorch(what, precision, kind):
        figure = json.loads(python("training.py", batches, what, precision, kind)[2])
        add(f"{what} {kind} {precision} py", figure["questions_per_s"])

    for path in [*jsons, results, tsv, h5]:
        read_all(path)
    for round in range(ROUNDS):
        print(f"round {round + 1} of {ROUNDS}", file=sys.stderr)
        _, memory, output = run(VQA, "prepare", "--config", DATA / "config.toml", "--json")
        add("prepare", json.loads(output)["seconds"])
        add("prepare MB", memory)
        _, memory, output = python("prepare.py", DATA)
        add("prepare py", float(re.search(r"([\d.]+) s$", output.strip())[1]))
        add("prepare py MB", memory)
        add("prepare limit", read_all(*jsons))

        seconds, memory, _ = run(VQA, "score", "--questions", questions, "--annotations", annotations, "--results", results)
        add("score", seconds)
        add("score MB", memory)
        seconds, memory, _ = python("score.py", annotations, results)
        add("score py", seconds)
        add("score py MB", memory)
        add("score limit", read_all(questions, annotations, results))

        out = DATA / "out.h5"
        seconds, memory, _ = run(VQA, "features", "convert", tsv, "--out", out)
        add("convert", seconds)
        add("convert MB", memory)
        size = out.stat().st_size
        out.unlink()
        seconds, memory, _ = python("convert_tsv.py", tsv, out)
        started = time.time()
        with open(out, "rb+") as f:
            os.fsync(f.fileno())
        add("convert py", seconds + time.time() - started)
        add("convert py MB", memory)
        out.unlink()
        add("convert limit", write_all(DATA / "plain", size))

        for sampler in ["random", "grouped"]:
            figure = json.loads(run(LOAD, h5, train_questions, sampler)[2])
            add(f"load {sampler}", figure["loader_gb_s"])
            add(f"load {sampler} first", figure["first_epoch_gb_s"])
            add("private MB", figure["private_mb"])
        evict(h5)
        add("load disk limit", h5.stat().st_size / read_all(h5) / 1e9)
        evict(h5)
        # In this order each image is read once.
        add("load disk", json.loads(run(LOAD, h5, train_questions, "grouped")[2])["first_epoch_gb_s"])
        add("load limit", figure["memcpy_gb_s"])
        add("load limit all", figure["memcpy_all_cores_gb_s"])
        output = python("loader.py", h5)[2]
        add("load py", max(float(rate) for rate in re.findall(r"([\d.]+) GB/s", output)))

        for precision in PRECISIONS:
            for kind in KINDS:
                for sampler in ["grouped", "random"]:
                    vqa("train", precision, sampler, kind)
                pytorch("train", precision, kind)
            vqa("evaluate", precision, "sequential", "article")
            pytorch("evaluate", precision, "article")

    median = {key: statistics.median(values) for key, values in figures.items()}
    print(f"{os.cpu_count()} cores; medians of {ROUNDS} rounds; {sum(p.stat().st_size for p in jsons) / 1e6:.0f} MB of JSON\n")
    print("| what | Python | vqa | ratio | limit | |\n| --- | --- | --- | --- | --- | --- |")
    for key, title, limit in [
        ("prepare", "four JSON files to dictionaries, tokens, soft targets", "reading them"),
        ("score", "official accuracy of 214,354 answers", "reading the files"),
        ("convert", f"TSV to HDF5, {IMAGES} images of 36 x 2048, fsync included", "writing and fsync"),
    ]:
        ours, theirs, bound = median[key], median[f"{key} py"], median[f"{key} limit"]
        print(
            f"| {title} | {theirs:.1f} s, {median[f'{key} py MB']:.0f} MB | {ours:.2f} s, {median[f'{key} MB']:.0f} MB "
            f"| {theirs / ours:.1f} x | {bound:.2f} s {limit} | {100 * bound / ours:.0f} % of it |"
        )
    for sampler in ["random", "grouped"]:
        ours, theirs, bound = median[f"load {sampler}"], median["load py"], median["load limit"]
        print(
            f"| {sampler} batches of 512 questions, float32 | {theirs:.2f} GB/s "
            f"| {ours:.1f} GB/s, {median[f'load {sampler} first']:.1f} in the first epoch | {ours / theirs:.1f} x "
            f"| {bound:.1f} GB/s memcpy on one core, {median['load limit all']:.1f} on all | {100 * ours / bound:.0f} % of one core's |"
        )
    ours, bound = median["load disk"], median["load disk limit"]
    print(
        f"| the first epoch of grouped batches, from the disk | | {ours:.2f} GB/s | | {bound:.2f} GB/s, the file read from end to end "
        f"| {100 * ours / bound:.0f} % of it |"
    )
    print(f"\nprivate memory while loading: {max(figures['private MB']):.0f} MB")
    for precision in PRECISIONS:
        print(
            f"\n{precision}, questions a second; a large matrix product does {median[f'{precision} peak']:.0f} GFLOP/s\n\n"
            "| | PyTorch | vqa | ratio | of its products alone, of a large product's speed |\n| --- | --- | --- | --- | --- |"
        )
        for what, kind, sampler, title in [
            *[("train", kind, sampler, f"{title}, {sampler}") for kind, title in KINDS.items() for sampler in ["grouped", "random"]],
            ("evaluate", "article", "sequential", "answering"),
        ]:
            name = f"{what} {kind} {precision}"
            ours, theirs = median[f"{name} {sampler}"], median[f"{name} py"]
            shares = ", ".join(f"{100 * median[f'{name} {sampler} of {whole}']:.0f} %" for whole in ["products", "peak"])
            print(f"| {title} | {theirs:.0f} | {ours:.0f} | {ours / theirs:.1f} x | {shares} |")


main()
