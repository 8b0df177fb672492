"""Pretrained latent spaces of diffusers: loading them, and training a small one."""
