"""Trains the article's model with several numbers of threads, and beside other processes that keep all cores busy.

    make bench        (or, when it has run once: python3 benches/python/busy.py)

Uses the files that compare.py has made. Runs with more threads than cores only show that nothing breaks. The fair share of
a process is the speed that it would have if the threads of all processes took turns: half, with as many busy processes as
cores beside it and as many threads of its own. Results are medians over the rounds.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "target" / "bench-data"
TRAINING = str(ROOT / "target/release/examples/training")
ROUNDS = int(os.environ.get("ROUNDS", 3))
CORES = os.cpu_count()


def train(n_threads):
    """Questions a second."""
    questions = DATA / "v2_OpenEnded_mscoco_train2014_questions.json"
    n = str(n_threads)
    # The wait policy that `vqa` sets for itself.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": n, "RAYON_NUM_THREADS": n}
    command = [TRAINING, DATA / "train36.h5", questions, "train", "fp32", "grouped"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"failed: {command}")
    return json.loads(done.stdout)["questions_per_s"]


def beside_others():
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(CORES)]
    try:
        return train(CORES)
    finally:
        for other in others:
            other.kill()
            other.wait()


def main():
    figures = {n: [] for n in sorted({1, 2, 4, 8, 16, CORES})}
    beside = []
    for _ in range(ROUNDS):
        for n, rounds in figures.items():
            rounds.append(train(n))
        beside.append(beside_others())
    print(f"{CORES} cores\n\n| threads | questions/s |\n| --- | --- |")
    for n, rounds in figures.items():
        print(f"| {n} | {statistics.median(rounds):.0f} |")
    alone, beside = statistics.median(figures[CORES]), statistics.median(beside)
    print(f"| {CORES}, beside {CORES} busy processes | {beside:.0f}, {2 * beside / alone:.2f} of the fair share |")


main()
