"""Distillation as jobs: what the fleet service runs for who submits an application file."""
