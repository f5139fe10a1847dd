"""V (vae), M (mdn_rnn), both put together (world_model), and their files."""
