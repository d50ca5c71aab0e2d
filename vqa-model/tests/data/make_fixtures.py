"""Writes the .pth files for the tests in this directory: python3 make_fixtures.py, with PyTorch 2.11."""

import collections
import os
import pickle

import torch

os.chdir(os.path.dirname(os.path.abspath(__file__)))
table = torch.arange(12, dtype=torch.float32).view(3, 4) / 8
state = collections.OrderedDict(
    [("layer.weight", table), ("layer.bias", torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))]
)
torch.save(state, "plain.pth")
torch.save(state, "legacy.pth", _use_new_zipfile_serialization=False)
# Half precision, a view with strides and parameters that require gradients, in a DataParallel checkpoint beside others.
parallel = {
    "module.layer.weight": torch.nn.Parameter(table.half().t().contiguous().t()),
    "module.layer.bias": state["layer.bias"].bfloat16(),
}
torch.save({"epoch": 3, "state_dict": parallel, "optimizer": {"lr": 0.1, "exp_avg": torch.ones(2)}}, "checkpoint.pth")
torch.save({"layer.weight": table, "layer.bias": torch.tensor([1, 2, 3])}, "integers.pth")
torch.save({"epoch": 3}, "empty.pth")


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil_was_here",)


torch.save({"layer.weight": table, "layer.bias": Evil()}, "evil.pth")
with open("evil_pickle.pth", "wb") as file:
    pickle.dump(Evil(), file)
