"""The sizes of the mini networks, in one place. `export.py` writes the same numbers into bundle.toml's tables."""

from dataclasses import replace

from networks.bsq import BsqConfig
from networks.dinov2 import Dinov2Config
from networks.echogen import EchoGenConfig
from networks.flux_vae import FluxVaeConfig
from networks.judge import JudgeConfig
from networks.markings import MarkingsConfig
from networks.t5 import T5Config

SIDE = 64
BITS = 32
KINDS, SCENES, LIGHTS, PATTERNS, EMBLEMS = 12, 12, 3, 8, 5

TOKENIZER = BsqConfig(bits=BITS, channels=16, multipliers=(1, 2, 4, 6), res_blocks=1, norm_groups=8)
# Another decoder on the same bits, wider, and with one more level, so that it draws 128 x 128.
SHIPPED_TOKENIZER = replace(TOKENIZER, decoder_multipliers=(2, 2, 4, 6, 8))
DRAWN_SIDE = 2 * SIDE
TEXT_ENCODER = T5Config(vocab_size=512, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4)
DINOV2 = Dinov2Config(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14)
FLUX_VAE = FluxVaeConfig(block_out_channels=(16, 32, 48, 64), layers_per_block=1, latent_channels=16)
TRANSFORMER = EchoGenConfig(
    depth=6, dim=128, heads=4, block_chunks=2, bits=BITS, text_channels=128, text_maxlen=64, content_len=64,
    content_dim=16, semantic_len=17, semantic_dim=128,
)

# Of `echogen-eval`; not part of the chain.
JUDGE = JudgeConfig()
MARKINGS = MarkingsConfig(emblems=EMBLEMS, patterns=PATTERNS)
# Whose maps the decoder's loss compares: another network than the judge, so that the judge stays independent of it.
CRITIC = replace(MARKINGS, widths=(32, 48, 96, 128))

# The first five scales of the square template; the rotary grid is that of its thirteenth.
SCHEDULE = [(1, 1), (2, 2), (4, 4), (6, 6), (8, 8)]
ROTARY_GRID = (64, 64)
