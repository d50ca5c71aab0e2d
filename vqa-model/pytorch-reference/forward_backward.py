"""For every case DIR/CASE.json: reads the weights that Rust created, DIR/CASE.rust.safetensors, and writes their
results to DIR/CASE.answer.safetensors; creates its own weights, DIR/CASE.own.safetensors, and writes their results to
DIR/CASE.own_answer.safetensors."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from baseline import Baseline


def results(model, inputs):
    model.eval()
    logits, attention = model(inputs["tokens"], inputs["features"][inputs["image_rows"]])
    (logits * inputs["logit_weights"]).sum().backward()
    grads = {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    return {"logits": logits.detach(), "attention": attention.detach(), **grads}


def main(directory):
    for case in sorted(directory.glob("*.json")):
        spec = json.loads(case.read_text())
        inputs = {k: v.long() if k in ("tokens", "image_rows") else v
                  for k, v in load_file(case.with_suffix(".input.safetensors")).items()}
        model = Baseline(spec["config"], **spec["dims"])
        model.load_state_dict(load_file(case.with_suffix(".rust.safetensors")), strict=True)
        save_file(results(model, inputs), case.with_suffix(".answer.safetensors"))

        torch.manual_seed(3)
        model = Baseline(spec["config"], **spec["dims"])
        save_file(model.state_dict(), case.with_suffix(".own.safetensors"))
        save_file(results(model, inputs), case.with_suffix(".own_answer.safetensors"))


main(Path(sys.argv[1]))
