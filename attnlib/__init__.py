"""attnlib: transformers composed from attention parts.

model = attnlib.build("tiny/gpt")              # a spec, a dict or a YAML file -> an ordinary nn.Module
attnlib.save(model, "folder"); attnlib.load("folder")
attnlib.attend(q, k, v, mask=Causal() & Window(before=128))
attnlib.generate(model, [[1, 2, 3]])
"""

import gc
import importlib
from typing import TYPE_CHECKING, Any

# What is imported stays: a collection meanwhile walks all of torch's objects for nothing, a tenth of the import's time.
_collecting = gc.isenabled()
gc.disable()
try:
    from attnlib.attention.backends.protocol import Backend
    from attnlib.attention.biases import ALiBi, ScoreTerm, Shaw, T5Relative, TermSpec
    from attnlib.attention.functional import attend
    from attnlib.attention.masks import (
        Causal,
        Chunk,
        Everything,
        Explicit,
        First,
        Global,
        Mask,
        Prefix,
        SameSegment,
        Window,
        picture,
    )
    from attnlib.attention.patterns import ByHead, Dilated, DilatedSegments, Fixed, Strided
    from attnlib.attention.random_blocks import BigBird, RandomBlocks
    from attnlib.attention.rotary import Rotary
    from attnlib.attention.scores import Normaliser, NormaliserSpec, ScoreRule, Softmax, SoftmaxSink
    from attnlib.attention.softmax import MixerSpec, SoftmaxAttention
    from attnlib.building import build
    from attnlib.errors import AttnlibError
    from attnlib.generate import generate
    from attnlib.layout import Layout
    from attnlib.models.decoder import Decoder
    from attnlib.models.encoder import Encoder
    from attnlib.models.encoder_decoder import EncoderDecoder
    from attnlib.nn.feed_forward import Dense, Gated
    from attnlib.nn.norms import LayerNorm, RMSNorm
finally:
    if _collecting:
        gc.enable()

if TYPE_CHECKING:
    from attnlib.pretrained import export, load, new, save
    from attnlib.pretrained.torch_modules import from_torch

__version__ = "0.1.0"

__all__ = [
    "ALiBi",
    "AttnlibError",
    "Backend",
    "BigBird",
    "ByHead",
    "Causal",
    "Chunk",
    "Decoder",
    "Dense",
    "Dilated",
    "DilatedSegments",
    "Encoder",
    "EncoderDecoder",
    "Everything",
    "Explicit",
    "First",
    "Fixed",
    "Gated",
    "Global",
    "LayerNorm",
    "Layout",
    "Mask",
    "MixerSpec",
    "Normaliser",
    "NormaliserSpec",
    "Prefix",
    "RMSNorm",
    "RandomBlocks",
    "Rotary",
    "SameSegment",
    "ScoreRule",
    "ScoreTerm",
    "Shaw",
    "Softmax",
    "SoftmaxAttention",
    "SoftmaxSink",
    "Strided",
    "T5Relative",
    "TermSpec",
    "Window",
    "attend",
    "build",
    "export",
    "from_torch",
    "generate",
    "load",
    "new",
    "picture",
    "save",
]

_LATE = {**dict.fromkeys(("export", "load", "new", "save"), "attnlib.pretrained"),
         "from_torch": "attnlib.pretrained.torch_modules"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Checkpoints are read by those who ask for them: an import pays for what it uses."""
    if name in _LATE:
        globals()[name] = getattr(importlib.import_module(_LATE[name]), name)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
