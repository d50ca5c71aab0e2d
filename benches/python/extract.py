"""Does what `vqa features extract --backbone` does, in a loop of Pillow and eager PyTorch: decodes, resizes, runs batches of
16 through the network, and writes cells and the mean of the map to HDF5.

    pip install pillow h5py torchvision efficientnet_lite_pytorch
    python3 benches/python/extract.py mobilenet-v2|efficientnet-lite0 WEIGHTS.pth IMAGES OUT.h5
"""

import re
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

HEIGHT, WIDTH, ROWS, COLUMNS, BATCH = 224, 320, 5, 7, 16


def network(name, weights):
    """A network's feature map, its resizing of pictures, and its mean and deviation of pixels from 0 to 1."""
    state = torch.load(weights, weights_only=True)
    if name == "mobilenet-v2":
        from torchvision.models import mobilenet_v2

        net = mobilenet_v2()
        net.load_state_dict(state)
        mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        return net.eval().features, Image.BILINEAR, mean, deviation
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name(name)
    net.load_state_dict(state)
    return net.eval().extract_features, Image.BICUBIC, [127 / 255] * 3, [128 / 255] * 3


@torch.no_grad()
def extract(name, weights, images, out):
    net, filter, mean, deviation = network(name, weights)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (mean, deviation))
    image_id = lambda path: int(re.search(r"(\d+)$", path.stem)[1])
    paths = sorted(Path(images).glob("*.jpg"), key=image_id)
    n, k = len(paths), ROWS * COLUMNS + 1
    started = time.time()
    with h5py.File(out, "w") as h5:
        features = boxes = None
        sizes = np.zeros((n, 2), np.int64)
        for first in range(0, n, BATCH):
            batch = []
            for i, path in enumerate(paths[first : first + BATCH], first):
                image = Image.open(path).convert("RGB")
                sizes[i] = image.size
                pixels = np.asarray(image.resize((WIDTH, HEIGHT), filter))
                batch.append((torch.tensor(pixels).permute(2, 0, 1).float() / 255 - mean) / deviation)
            map = net(torch.stack(batch))
            cells = torch.nn.functional.adaptive_avg_pool2d(map, (ROWS, COLUMNS)).flatten(2).transpose(1, 2)
            regions = torch.cat([cells, map.mean((2, 3)).unsqueeze(1)], 1)
            if features is None:
                features = h5.create_dataset("image_features", (n, k, regions.shape[2]), "f")
                boxes = h5.create_dataset("image_bb", (n, k, 4), "f")
            features[first : first + len(batch)] = regions.numpy()
            for i in range(first, first + len(batch)):
                w, h = sizes[i]
                cells = [
                    [c * w / COLUMNS, r * h / ROWS, (c + 1) * w / COLUMNS, (r + 1) * h / ROWS]
                    for r in range(ROWS)
                    for c in range(COLUMNS)
                ]
                boxes[i] = cells + [[0, 0, w, h]]
        h5["image_ids"] = np.array([image_id(path) for path in paths])
        h5["image_sizes"] = sizes
    print(f"{n} images, {time.time() - started:.1f} s")


extract(*sys.argv[1:])
