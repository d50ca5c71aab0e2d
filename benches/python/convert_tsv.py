"""Does what `vqa features convert` does, in the way of bottom-up-attention-vqa: csv, base64, h5py.

    python3 benches/python/convert_tsv.py --make N IN.tsv     # a file of N images, 36 x 2048
    python3 benches/python/convert_tsv.py IN.tsv OUT.h5
"""

import base64
import csv
import sys
import time

import h5py
import numpy as np

FIELDS = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
csv.field_size_limit(sys.maxsize)


def make(n, path):
    rng = np.random.default_rng(0)
    encode = lambda array: base64.b64encode(array).decode()
    with open(path, "w") as f:
        for i in range(n):
            boxes, features = rng.random((36, 4), np.float32), rng.random((36, 2048), np.float32)
            f.write("\t".join([str(i + 1), "640", "480", "36", encode(boxes), encode(features)]) + "\n")


def convert(source, out):
    started = time.time()
    n = sum(1 for _ in open(source, "rb"))
    with h5py.File(out, "w") as h5, open(source) as tsv:
        features = h5.create_dataset("image_features", (n, 36, 2048), "f")
        boxes = h5.create_dataset("image_bb", (n, 36, 4), "f")
        ids = np.zeros(n, np.int64)
        for i, item in enumerate(csv.DictReader(tsv, delimiter="\t", fieldnames=FIELDS)):
            k = int(item["num_boxes"])
            ids[i] = int(item["image_id"])
            boxes[i] = np.frombuffer(base64.b64decode(item["boxes"]), np.float32).reshape(k, -1)
            features[i] = np.frombuffer(base64.b64decode(item["features"]), np.float32).reshape(k, -1)
        h5["image_ids"] = ids
    print(f"{n} images, {time.time() - started:.1f} s")


if sys.argv[1] == "--make":
    make(int(sys.argv[2]), sys.argv[3])
else:
    convert(sys.argv[1], sys.argv[2])
