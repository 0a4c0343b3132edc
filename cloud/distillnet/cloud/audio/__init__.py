"""Distilling students that hear: clips, teachers, augmentation, training, and their evaluation."""
