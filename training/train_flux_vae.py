"""Trains the autoencoder that gives a subject's content: pictures to a small latent and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import common
import settings
from networks.flux_vae import FluxVae
from train_tokenizer import edges, psnr


def main() -> None:
    options = common.arguments(__doc__, steps=3_000, batch=16, rate=2e-3)
    shards = common.Shards(options.work / "data/train")
    model = FluxVae(settings.FLUX_VAE)
    run = common.Run(options.work / "flux_vae", model, common.adamw(model, options.rate, 1e-4), steps=options.steps,
                     rate=options.rate, minutes=options.minutes)
    for step in run:
        rows = common.rows_of_step(4, step, options.batch, len(shards))
        # Mostly cut-outs, which it is for; whole pictures keep it general.
        images = common.to_images(shards.take("target" if step % 4 == 0 else "reference", rows))
        noise_source = torch.Generator().manual_seed(step)
        with torch.autocast("cpu", torch.bfloat16):
            mean, logvar = model.encoder(images)
            noise = torch.randn(mean.shape, generator=noise_source)
            decoded = model.decoder(mean + (logvar / 2).exp() * noise).float()
        divergence = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        loss = F.mse_loss(decoded, images) + 0.2 * F.l1_loss(decoded, images) + 0.2 * F.l1_loss(edges(decoded), edges(images))
        run.descend(loss + 1e-3 * divergence)
        run.log(loss=loss.item(), divergence=divergence.item(), psnr=psnr(decoded.detach(), images))


if __name__ == "__main__":
    main()
