"""For every case DIR/CASE.json: trains without dropout, starting from the weights in DIR/CASE.rust.safetensors, on the
batches in DIR/CASE.input.safetensors; writes the losses and the final weights to DIR/CASE.answer.safetensors."""

import json
import sys
from bisect import bisect
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR

from baseline import Baseline


def bce_with_logits(logits, labels):
    return F.binary_cross_entropy_with_logits(logits, labels) * labels.size(1)


def sce_with_logits(logits, labels):
    return F.cross_entropy(logits, labels.nonzero()[:, 1]) * labels.size(1)


def lr_factor(train):
    def factor(step):
        if train["warmup_steps"] and step <= train["warmup_steps"]:
            alpha = step / train["warmup_steps"]
            return train["warmup_factor"] * (1 - alpha) + alpha
        return train["lr_ratio"] ** bisect(train["lr_steps"], step)

    return factor


def main(directory):
    for case in sorted(directory.glob("*.json")):
        spec = json.loads(case.read_text())
        train = spec["train"]
        batches = load_file(case.with_suffix(".input.safetensors"))
        loss_fn = {"logistic": bce_with_logits, "softmax": sce_with_logits}[spec["config"]["loss"]]
        model = Baseline(spec["config"], **spec["dims"]).eval()
        model.load_state_dict(load_file(case.with_suffix(".rust.safetensors")), strict=True)
        decays = train["optim"].pop("weight_decay_of", {})
        named = {name: [p for n, p in model.named_parameters() if n.startswith(name + ".")] for name in decays}
        groups = [{"params": named[name], "weight_decay": decays[name]} for name in decays]
        rest = [p for n, p in model.named_parameters() if not any(n.startswith(name + ".") for name in decays)]
        optim = torch.optim.Adamax([{"params": rest}, *groups], **train["optim"])
        schedule = LambdaLR(optim, lr_factor(train))
        losses = []
        for step in range(spec["n_steps"]):
            i = step % len(batches["tokens"])
            logits, _ = model(batches["tokens"][i].long(), batches["features"][i])
            loss = loss_fn(logits, batches["targets"][i])
            optim.zero_grad()
            loss.backward()
            if train["clip_grad"]:
                torch.nn.utils.clip_grad_norm_(model.parameters(), train["max_grad_norm"])
            optim.step()
            schedule.step()
            losses.append(loss.detach())
        save_file({"losses": torch.stack(losses), **model.state_dict()}, case.with_suffix(".answer.safetensors"))


main(Path(sys.argv[1]))
