"""Loads random batches of 512 images as PyTorch users do: h5py in a DataLoader.

    python3 benches/python/loader.py FEATURES.h5 [BATCHES]
"""

import sys
import time

import h5py
import torch
from torch.utils.data import DataLoader, Dataset


class Features(Dataset):
    def __init__(self, path):
        self.path, self.file = path, None
        with h5py.File(path) as f:
            self.n = len(f["image_features"])

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if self.file is None:  # HDF5 files do not survive a fork
            self.file = h5py.File(self.path)
        return torch.from_numpy(self.file["image_features"][i]), torch.from_numpy(self.file["image_bb"][i])


def main(path, n_batches=12):
    data = Features(path)
    order = torch.randint(len(data), (512 * int(n_batches),)).tolist()
    rates = []
    for workers in (0, 2):
        loader = iter(DataLoader(data, 512, sampler=order, num_workers=workers))
        next(loader)  # workers start
        started, size = time.time(), 0
        for features, _ in loader:
            size += features.numel() * 4
        rates.append(size / (time.time() - started) / 1e9)
    print(f"{rates[0]:.2f} GB/s in the main process, {rates[1]:.2f} GB/s with 2 workers")


main(*sys.argv[1:])
