"""Writes pickles.json: what Python's pickle makes of some values in each of its protocols, in hexadecimal.

    python3 make_pickles.py        with NumPy
"""

import json
import pickle
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np

# Rows in another order than images.
rows = {30: 2, 20: 1, 10: 0}
counted = defaultdict(int)
counted.update(rows)
words = ["what", "'s", "café", "☃ 😀", "a\\u0041\\", 'q"\'\n', ""]
values = {
    "dict": rows,
    "ordered": OrderedDict(rows),
    "default": counted,
    "counter": Counter(rows),
    "numpy": {np.int64(30): np.int32(2), np.uint16(20): np.float64(1), np.array(10, ">i8")[()]: np.uint8(0)},
    "text_keys": {str(image): row for image, row in rows.items()},
    "numpy_text": {np.str_(image): row for image, row in rows.items()},
    "label2ans": words,
    "dictionary": [{word: index for index, word in enumerate(words)}, words],
    "ans2label": {word: index for index, word in reversed(list(enumerate(words)))},
    "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**31, 2**63 - 1, -(2**63)]
    + [0.5, 9.0, True, False, None, b"\xff", ()],
}
protocols = range(pickle.HIGHEST_PROTOCOL + 1)
pickles = {name: [pickle.dumps(value, protocol).hex() for protocol in protocols] for name, value in values.items()}
Path(__file__).with_name("pickles.json").write_text(json.dumps(pickles, indent=0) + "\n")
