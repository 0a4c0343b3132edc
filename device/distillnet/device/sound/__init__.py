"""The daemon's ears: sound files and microphones as chunks of samples, and the gate that skips silence."""
