"""Writes the checkpoint files that the tests of crate `checkpoint` read."""

import argparse
import collections

import safetensors.torch
import torch

torch.manual_seed(7)
storage = torch.arange(24, dtype=torch.float32)
flat = collections.OrderedDict(
    {
        "single": torch.randn(2, 3),
        "half": torch.randn(4).half(),
        "brain": torch.randn(3, 2).bfloat16(),
        "double": torch.randn(5).double(),
        "long": torch.tensor([1, -2, 3_000_000_000]),
        "integer": torch.tensor([[7, -8]], dtype=torch.int32),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(0.5),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(3, 4).t(),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "shared.head": storage[:8].view(2, 4),
        "shared.tail": storage[8:].view(4, 4),
        "shared.columns": storage.view(4, 6)[:, 1:5:2],
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "tied": storage[:8].view(2, 4),
    }
)
flat._metadata = {"": {"version": 1}}
torch.save(flat, "flat.pth")
plain = {name: tensor.detach().clone().contiguous() for name, tensor in flat.items()}
safetensors.torch.save_file(plain, "flat.safetensors")

weights = collections.OrderedDict(weight=torch.ones(2, 2), bias=torch.full((2,), 2.0))
nested = {
    "trainer": {"gpt_fsdp": weights, "step": 3, "schedule": [0.1, 0.2], "optimizer": {0: {"exp": torch.zeros(1)}}},
    "args": argparse.Namespace(lr=1e-4, name="run"),
    "epoch": 12,
    "best": None,
}
torch.save(nested, "nested.pth", pickle_protocol=4)
