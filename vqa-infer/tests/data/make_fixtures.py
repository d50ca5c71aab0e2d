"""Writes attention_maps.json and map_N.png: some boxes and weights, and the maps that the seed's code draws from them.

    pip install opencv-python-headless numpy
    python3 make_fixtures.py

The picture is red 255 x / width, green 255 y / height, blue (3 x + 5 y) mod 256.
"""

import json
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).parent


def attention_map(im, boxes, atts, p=0.8, bgc=1.0, compress=0.85, box_color=(65, 81, 226)):
    """The seed's function, with `int` for NumPy's removed `np.int`."""
    height, width, channel = im.shape
    im = im / 255.0
    att_map = np.zeros([height, width])
    boxes = boxes.astype(int)
    for box, att in zip(boxes, atts):
        x1, y1, x2, y2 = box
        roi = att_map[y1:y2, x1:x2]
        roi[roi < att] = att
    att_map /= att_map.max()
    att_map = att_map**p
    att_map = att_map * compress + (1 - compress)
    att_map = cv2.resize(att_map, (int(width / 16), int(height / 16)))
    att_map = cv2.resize(att_map, (width, height))
    att_map = np.expand_dims(att_map, axis=2)
    bg = np.ones_like(att_map) * bgc
    att_im = im * att_map + bg * (1 - att_map)
    att_im = (att_im * 255).astype(np.uint8)
    x1, y1, x2, y2 = [int(corner) for corner in boxes[np.argmax(atts)]]
    cv2.rectangle(att_im, (x1, y1), (x2, y2), box_color, 5)
    return att_im


rng = np.random.default_rng(0)
cases = []
for n, (w, h, k) in enumerate([(100, 75, 6), (64, 64, 3), (133, 50, 8)]):
    y, x = np.mgrid[0:h, 0:w]
    im = np.stack([x * 255 / w, y * 255 / h, (x * 3 + y * 5) % 256], 2).astype(np.uint8)
    b = rng.uniform(0, 1, (k, 4)).astype(np.float32)
    first, last = np.minimum(b[:, :2], b[:, 2:]), np.maximum(b[:, :2], b[:, 2:])
    boxes = np.concatenate([first, last], 1) * np.array([w - 1, h - 1, w - 1, h - 1])
    boxes = boxes.astype(np.float32)
    attention = rng.dirichlet(np.ones(k) * 0.7).astype(np.float32)
    blue_first = np.ascontiguousarray(im[:, :, ::-1])
    cv2.imwrite(str(HERE / f"map_{n}.png"), attention_map(blue_first, boxes, attention))
    cases.append(dict(width=w, height=h, boxes=boxes.tolist(), attention=attention.tolist()))
(HERE / "attention_maps.json").write_text(json.dumps({"cases": cases}, indent=1))
