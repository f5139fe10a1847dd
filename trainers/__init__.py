"""Training binaries: prepared datasets flow in, exported weights flow out."""

import os

# clu writes TensorBoard files through TensorFlow, which has nothing to tell us.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # Announces itself else.
