"""Does the essential core earn its keep? Comparisons against controls, resumable and within a time budget.

`python -m distillnet.cloud.evaluation --help`; `make eval-vision` runs it and rewrites docs/eval-vision.md.
"""
