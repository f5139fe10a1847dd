"""The `carracing_latents` dataset: rollouts, encoded by a VAE."""
