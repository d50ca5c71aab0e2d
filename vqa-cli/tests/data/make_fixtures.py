"""Writes cells.pt and boxes.pt, networks of a few hundred parameters at most, and operator.pt, which libtorch cannot run.
Prints the values that the tests compare with, computed with Pillow and PyTorch from the same pixels.

    PYTHONPATH=../../../.libtorch python3 make_fixtures.py     # needs Pillow
"""

import torch
from PIL import Image
from torch import Tensor


class Cells(torch.nn.Module):
    """A map of 4 channels, with one cell for each 4 x 4 pixels."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 4, stride=4)
        self.conv.weight.data = torch.arange(192.0).sin().view(4, 3, 4, 4) / 4
        self.conv.bias.data = torch.tensor([0.5, 0.25, -0.25, 1.0])

    def forward(self, pictures: Tensor) -> Tensor:
        return self.conv(pictures).relu()


class Boxes(torch.nn.Module):
    """A detector: the left half of a picture, the right half with the mean red value as its score, and the full picture."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, w = float(pictures.size(2)), float(pictures.size(3))
        boxes = torch.tensor([[0.0, 0.0, w / 2, h], [w / 2, 0.0, w, h], [0.0, 0.0, w, h]])
        red = pictures[0, 0].mean()
        one = torch.ones_like(red)
        features = torch.stack([one, red, 2 * one, red, 3 * one, red]).view(3, 2)
        return boxes, features, torch.stack([one * 0.9, red, one * 0.01])


torch.library.define("elsewhere::nothing", "(Tensor x) -> Tensor")


class Operator(torch.nn.Module):
    """Needs an operator that only this script defines."""

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.ops.elsewhere.nothing(pictures)


def picture(index, width, height):
    """The same as `picture` in ../cli/backbone.rs."""
    values = [
        (x * (29 + index) + y * 53 + c * 101) % 256 for y in range(height) for x in range(width) for c in range(3)
    ]
    return Image.frombytes("RGB", (width, height), bytes(values))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    cells = Cells().eval()
    torch.jit.script(cells).save("cells.pt")
    torch.jit.script(Boxes()).save("boxes.pt")
    torch.jit.script(Operator()).save("operator.pt")
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in ([0.5, 0.25, 0.5], [0.25, 0.5, 0.25]))
    for index, width, height in [(1, 24, 16), (2, 48, 32)]:
        resized = picture(index, width, height).resize((24, 16), Image.BILINEAR)
        pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(16, 24, 3)
        map = cells(((pixels.permute(2, 0, 1) / 255 - mean) / deviation).unsqueeze(0))
        pooled = torch.nn.functional.adaptive_avg_pool2d(map, (2, 3)).flatten(2).transpose(1, 2)
        regions = torch.cat([pooled, map.mean((2, 3)).unsqueeze(1)], 1)
        print(index, [round(x, 5) for x in regions.flatten().tolist()])
