"""The cloud half: distillation, the repository, the fleet services. Never imports the device."""
