"""A StyleGAN2 generator, its training on few pictures, and moving its latents by text."""
