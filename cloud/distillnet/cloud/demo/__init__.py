"""`distillnet demo`: the main job end to end on embedded real input, with nothing external needed.

It drives the very commands a user has (`serve`, `distill`, `token`, `enroll`, `run`, `watch`, `publish`), each as a
process of its own; it knows no other way in. Called by the command line only.
"""
