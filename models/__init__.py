"""The world model: V (vae), M (mdn_rnn) and the files they are kept in."""
