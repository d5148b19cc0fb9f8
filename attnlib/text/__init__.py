"""Text to ids and back: bytes (the default), characters, byte-pair pieces, and tokenizer.json files."""

from attnlib.text.byte_level import Bytes, ByteTokenizer
from attnlib.text.chars import Chars, CharTokenizer
from attnlib.text.chat import ChatTemplate
from attnlib.text.files import bundled_data, find_data, read_text
from attnlib.text.folder import tokenizer_of
from attnlib.text.hf import HF, HFTokenizer
from attnlib.text.pieces import BPE
from attnlib.text.tokenizer import StreamDecoder, Tokenizer, TokenizerSpec

__all__ = [
    "BPE",
    "HF",
    "ByteTokenizer",
    "Bytes",
    "CharTokenizer",
    "Chars",
    "ChatTemplate",
    "HFTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerSpec",
    "bundled_data",
    "find_data",
    "read_text",
    "tokenizer_of",
]
