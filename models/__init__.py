"""V (vae), M (mdn_rnn), both combined (world_model), and their weights."""
