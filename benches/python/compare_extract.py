"""Compares `vqa features extract --backbone` with a loop of Pillow and eager PyTorch, in turn, on the same pictures with
the same weights and number of threads, and prints a row of a table. The features must agree.

    python3 benches/python/compare_extract.py mobilenet-v2|efficientnet-lite0 WEIGHTS.pth IMAGES

The two use different JPEG decoders, so features differ slightly; on PNG pictures only rounding differs.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("ROUNDS", 3))
VQA = str(ROOT / "target/release/vqa")


def run(*command):
    """Runs a command; returns its peak MB and output."""
    child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"failed: {command}")
    return usage.ru_maxrss * 1.024e-3, output


def main(name, weights, images):
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = Path(directory) / "vqa.h5", Path(directory) / "python.h5"
        # Pictures are identified by the number at the end of their names.
        paths = {re.search(r"(\d+)$", path.stem)[1]: str(path.resolve()) for path in Path(images).glob("*.jpg")}
        listed = Path(directory) / "images.json"
        listed.write_text(json.dumps(paths))
        figures = {"vqa": [], "python": []}
        memory = {}
        for round in range(ROUNDS):
            print(f"round {round + 1} of {ROUNDS}", file=sys.stderr)
            command = ["features", "extract", "--images", listed, "--backbone", name, "--weights", weights]
            memory["vqa"], output = run(VQA, *command, "--out", ours, "--force", "--device", "cpu")
            figures["vqa"].append(float(re.search(r"([\d.]+) images/s", output)[1]))
            memory["python"], output = run(
                sys.executable, ROOT / "benches/python/extract.py", name, weights, images, theirs
            )
            n, seconds = re.search(r"(\d+) images, ([\d.]+) s", output).groups()
            figures["python"].append(int(n) / float(seconds))
        with h5py.File(ours) as a, h5py.File(theirs) as b:
            assert (a["image_ids"][:] == b["image_ids"][:]).all() and np.allclose(a["image_bb"], b["image_bb"])
            a, b = a["image_features"][:], b["image_features"][:]
            difference, scale = np.abs(a - b), np.abs(b).mean()
        print(f"features differ by {difference.mean() / scale:.2%} of their mean size on average, {difference.max():.3f} at most")
        rates = {key: statistics.median(values) for key, values in figures.items()}
        print(
            f"| {name}, 224 x 320, images/s | {rates['python']:.1f}, {memory['python']:.0f} MB "
            f"| {rates['vqa']:.1f}, {memory['vqa']:.0f} MB | {rates['vqa'] / rates['python']:.1f} x |"
        )


main(*sys.argv[1:])
