"""Saves one model in every form in which people save models, as DIR/*, and its plain weights as
DIR/expected.safetensors; a module with a batch norm, as DIR/modules/*; and files that must be refused, as
DIR/refused/*."""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import baseline
from baseline import Baseline


def with_new_weight_norm(spec, state):
    old = baseline.weight_norm
    baseline.weight_norm = torch.nn.utils.parametrizations.weight_norm
    model = Baseline(spec["config"], **spec["dims"])
    baseline.weight_norm = old
    model.load_state_dict(state)  # PyTorch maps the old names to the new ones.
    return model


def prefixed(state, prefix):
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def main(directory):
    spec = json.loads((directory / "spec.json").read_text())
    torch.manual_seed(5)
    model = Baseline(spec["config"], **spec["dims"])
    state = OrderedDict((name, tensor.detach().clone()) for name, tensor in model.state_dict().items())
    save_file(state, directory / "expected.safetensors")

    def save(value, name, **options):
        torch.save(value, directory / name, **options)

    legacy = {"_use_new_zipfile_serialization": False}
    save(state, "plain.pth")
    save(state, "legacy.pt", **legacy)
    save(state, "plain.pth.tar")
    save(state, "legacy.safetensors", **legacy)
    save(state, "pytorch_model")
    save_file(state, directory / "safetensors.pth")
    for protocol in (3, 4, 5):
        save(state, f"protocol_{protocol}.pth", pickle_protocol=protocol)
        save(state, f"legacy_protocol_{protocol}.pth", pickle_protocol=protocol, **legacy)
    torch.serialization.set_crc32_options(False)
    save(state, "no_checksums.pth")
    torch.serialization.set_crc32_options(True)

    # Parameters that require gradients, beside an optimiser's tensors.
    optimizer = torch.optim.Adamax(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    model.load_state_dict(state)
    beside = {"epoch": 3, "optimizer_state": optimizer.state_dict(), "best": torch.tensor(0.5), "args": ["--lr", 0.1]}
    for key in ("model_state", "state_dict", "net", "weights.v1"):
        save({key: model.state_dict(keep_vars=True), **beside}, f"nested_{key}.pth")
    save({"run": {"last": {"model": prefixed(state, "module.")}}, **beside}, "nested_deep.pth", **legacy)
    save({"state_dict": prefixed(state, "model."), "pytorch-lightning_version": "2.0"}, "lightning.ckpt")
    save(model, "module.pth")
    save({"model": model, **beside}, "nested_module.pth")

    save(nn.DataParallel(model).state_dict(), "data_parallel.pth")
    save(torch.compile(model).state_dict(), "compiled.pth")
    save(nn.DataParallel(torch.compile(model)).state_dict(), "data_parallel_compiled.pth")
    inner = Baseline(spec["config"], **spec["dims"])
    inner.load_state_dict(state)
    inner.v_att = torch.compile(inner.v_att)
    save(inner.state_dict(), "inner_compiled.pth")
    save_file(prefixed(state, "module."), directory / "data_parallel.safetensors")
    save_file(prefixed(state, "net.model."), directory / "prefixed.safetensors")

    new_names = with_new_weight_norm(spec, state).state_dict()
    assert any(name.endswith("original0") for name in new_names)
    save(new_names, "new_weight_norm.pth")
    save_file(prefixed(new_names, "module."), directory / "new_weight_norm.safetensors")

    # PyTorch 0.3 had no scalars.
    of_0_3 = OrderedDict((name, tensor.view(1) if tensor.dim() == 0 else tensor) for name, tensor in state.items())
    Baseline(spec["config"], **spec["dims"]).load_state_dict(of_0_3)
    save(prefixed(of_0_3, "module."), "torch_0_3.pth", **legacy)

    # Views into the middle of one storage; tensors with unusual strides; float64.
    flat = torch.cat([tensor.reshape(-1) for tensor in state.values()])
    sizes = [tensor.numel() for tensor in state.values()]
    views = [piece.view(tensor.shape) for piece, tensor in zip(flat.split(sizes), state.values())]
    save(OrderedDict(zip(state, views)), "views.pth")
    save(OrderedDict(zip(state, views)), "legacy_views.pth", **legacy)
    save(OrderedDict((k, v.t().contiguous().t() if v.dim() == 2 else v) for k, v in state.items()), "strides.pth")
    save(OrderedDict((name, tensor.double()) for name, tensor in state.items()), "float64.pth")

    # Integer tensors, which the model that loads them may or may not have.
    modules = directory / "modules"
    modules.mkdir()
    normalised = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4)))
    for _ in range(3):
        normalised(torch.randn(2, 3, 5, 5))
    torch.save(normalised.state_dict(), modules / "batch_norm.pth")
    save_file(normalised.state_dict(), modules / "batch_norm.safetensors")
    floats = {name: tensor for name, tensor in normalised.state_dict().items() if tensor.is_floating_point()}
    save_file(floats, modules / "floats_only.safetensors")

    refused = directory / "refused"
    refused.mkdir()
    averaged = OrderedDict((name, tensor / 2) for name, tensor in state.items())
    torch.save({"model": state, "ema": averaged}, refused / "two.pth")
    torch.save(prefixed(state, "module.") | {"loss.weight": torch.ones(2)}, refused / "extra.pth")
    torch.save({name: tensor for name, tensor in state.items() if "q_net" not in name}, refused / "missing.pth")
    torch.save({**state, "q_net.main.0.bias": torch.ones(3)}, refused / "shape.pth")
    torch.save({**state, "q_net.main.0.bias": torch.ones_like(state["q_net.main.0.bias"]).int()}, refused / "int.pth")
    torch.jit.script(nn.Linear(2, 2)).save(refused / "script.pth")


main(Path(sys.argv[1]))
