"""What `distillnet distill` makes as a user runs it, beside what it must beat: `make eval-distill`."""
