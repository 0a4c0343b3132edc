"""The inference path: a standard int8 `.tflite` in, int8 logits out.

`load` picks the native C engine, or LiteRT for a model that holds an operator the native engine does not know; both
have the same interface (`Model`). Used by the device daemon and by the cloud's int8 gate and evaluation.
"""

from distillnet.engine.backend import Backend, Model, ModelError, Zone, load

__all__ = ["Backend", "Model", "ModelError", "Zone", "load"]
