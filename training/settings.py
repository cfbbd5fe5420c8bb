"""The sizes of the mini networks, in one place. `export.py` writes the same numbers into bundle.toml's tables."""

from networks.bsq import BsqConfig
from networks.echogen import EchoGenConfig

SIDE = 64
BITS = 16

TOKENIZER = BsqConfig(bits=BITS, channels=16, multipliers=(1, 2, 4, 6), res_blocks=1, norm_groups=8)

# The first five scales of the square template; the rotary grid is that of its thirteenth.
SCHEDULE = [(1, 1), (2, 2), (4, 4), (6, 6), (8, 8)]
ROTARY_GRID = (64, 64)
