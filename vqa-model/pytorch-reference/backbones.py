"""The backbones in PyTorch, layer by layer. Runs them for the cases in DIR/spec.json: a list of {"name", "weights"},
where weights is a file, or null for random ones, which are written to DIR/NAME.pth. For each case and size, writes the
pictures, the map and the logits to DIR/NAME_HEIGHTxWIDTH.safetensors. Also writes valid and invalid TorchScript
modules, DIR/*.pt."""

import json
import math
import sys
from pathlib import Path
from typing import Dict, Tuple

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

SIZES = [(64, 96), (47, 75)]


class ConvBNReLU(nn.Sequential):
    def __init__(self, n_in, n_out, kernel, stride=1, groups=1):
        conv = nn.Conv2d(n_in, n_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(n_out), nn.ReLU6())


class Bottleneck(nn.Module):
    def __init__(self, n_in, n_out, stride, expansion):
        super().__init__()
        wide = n_in * expansion
        self.residual = stride == 1 and n_in == n_out
        layers = [ConvBNReLU(n_in, wide, 1)] if expansion > 1 else []
        layers.append(ConvBNReLU(wide, wide, 3, stride, wide))
        layers += [nn.Conv2d(wide, n_out, 1, bias=False), nn.BatchNorm2d(n_out)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        n, layers = 32, [ConvBNReLU(3, 32, 3, 2)]
        for t, c, repeats, s in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                 (6, 160, 3, 2), (6, 320, 1, 1)]:
            for i in range(repeats):
                layers.append(Bottleneck(n, c, s if i == 0 else 1, t))
                n = c
        layers.append(ConvBNReLU(n, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x):
        map = self.features(x)
        return map, self.classifier(map.mean([2, 3]))


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, which depends on the size of the input."""

    def forward(self, x):
        pads = []
        for size, k, s in zip(reversed(x.shape[2:]), reversed(self.kernel_size), reversed(self.stride)):
            total = max((math.ceil(size / s) - 1) * s + k - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


class MBConv(nn.Module):
    def __init__(self, n_in, n_out, kernel, stride, expansion):
        super().__init__()
        wide = n_in * expansion
        self.residual = stride == 1 and n_in == n_out
        if expansion > 1:
            self._expand_conv = SameConv2d(n_in, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = SameConv2d(wide, n_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(n_out, eps=1e-3)

    def forward(self, x):
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """`stages`: kernel, stride, expansion, channels and number of blocks of each stage."""

    def __init__(self, stages):
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        n, blocks = 32, []
        for k, s, e, c, repeats in stages:
            for i in range(repeats):
                blocks.append(MBConv(n, c, k, s if i == 0 else 1, e))
                n = c
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(n, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        map = F.relu6(self._bn1(self._conv_head(x)))
        return map, self._fc(map.mean([2, 3]))


def lite(channels, repeats):
    kernels, strides, expansions = [3, 3, 5, 3, 5, 5, 3], [1, 2, 2, 2, 1, 2, 1], [1, 6, 6, 6, 6, 6, 6]
    return EfficientNetLite(list(zip(kernels, strides, expansions, channels, repeats)))


NETWORKS = {
    "mobilenet-v2": MobileNetV2,
    "efficientnet-lite0": lambda: lite([16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1]),
    "efficientnet-lite1": lambda: lite([16, 24, 40, 80, 112, 192, 320], [1, 3, 3, 4, 4, 5, 1]),
    "efficientnet-lite2": lambda: lite([16, 24, 48, 88, 120, 208, 352], [1, 3, 3, 4, 4, 5, 1]),
}


def randomise(network):
    """Sets random weights that keep the signal's magnitude, so that rounding errors stay small, and batch norm
    statistics that are not the initial ones."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, mean=0.5, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.8, 1.2)


class Map(nn.Module):
    def __init__(self, n=5):
        super().__init__()
        self.conv = nn.Conv2d(3, n, 4, 4)

    def forward(self, x):
        return self.conv(x)


class MapInDict(Map):
    def forward(self, x) -> Dict[str, torch.Tensor]:
        return {"0": self.conv(x)}


class Pooled(Map):
    def forward(self, x):
        return self.conv(x).mean([2, 3])


class NotANumber(Map):
    def forward(self, x):
        return self.conv(x) / 0 * 0


class Fails(Map):
    def forward(self, x):
        return self.conv(x).view(7)


class Tuples(nn.Module):
    """Two boxes that depend on the size of the input, with features of its pixels."""

    def forward(self, x) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        assert x.shape[0] == 1
        h, w = float(x.shape[2]), float(x.shape[3])
        boxes = torch.tensor([[0.0, 0.0, w, h], [0.0, 0.0, w / 2, h / 2]])
        features = torch.stack([x.mean([0, 2, 3]), x[0, :, 0, 0]])
        return boxes, features, torch.tensor([0.25, 0.75])


class Dicts(nn.Module):
    """Returns what torchvision's detectors return: losses, and a dictionary for each picture."""

    def __init__(self):
        super().__init__()
        self.inner = Tuples()

    def forward(self, x):
        boxes, features, scores = self.inner(x)
        losses: Dict[str, torch.Tensor] = {}
        labels = torch.ones(2, dtype=torch.long)
        return losses, [{"boxes": boxes, "labels": labels, "scores": scores.unsqueeze(1), "features": features}]


class Misshapen(nn.Module):
    def forward(self, x) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.zeros(2, 4), torch.zeros(3, 8), torch.zeros(2)


@torch.no_grad()
def main(directory):
    torch.manual_seed(6)
    for case in json.loads((directory / "spec.json").read_text()):
        name, weights = case["name"], case["weights"]
        network = NETWORKS[name]().eval()
        if weights is None:
            randomise(network)
            torch.save(network.state_dict(), directory / f"{name}.pth", _use_new_zipfile_serialization=False)
        else:
            network.load_state_dict(torch.load(weights, weights_only=True))
        for height, width in SIZES:
            pictures = torch.randn(2, 3, height, width)
            map, logits = network(pictures)
            result = {"pictures": pictures, "map": map, "logits": logits}
            path = directory / f"{name}_{height}x{width}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in result.items()}, path)

    map = Map().eval()
    pictures = torch.randn(2, 3, 8, 12)
    save_file({"pictures": pictures, "map": map(pictures)}, directory / "map.safetensors")
    torch.jit.trace(map, pictures).save(directory / "traced.pt")
    torch.jit.freeze(torch.jit.script(map)).save(directory / "frozen.pt")
    for name, module in [("dict", MapInDict()), ("pooled", Pooled()), ("nan", NotANumber()), ("fails", Fails()),
                         ("tuples", Tuples()), ("dicts", Dicts()), ("misshapen", Misshapen())]:
        if name == "dict":
            module.load_state_dict(map.state_dict())
        torch.jit.script(module.eval()).save(directory / f"{name}.pt")
    torch.save(map.state_dict(), directory / "weights.pt")
    save_file(map.state_dict(), directory / "safetensors.pt")
    (directory / "cut.pt").write_bytes((directory / "traced.pt").read_bytes()[:-400])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
