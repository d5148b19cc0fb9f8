"""Text to text, labels and vectors from a checkpoint folder.

    from attnlib import tasks
    model = tasks.load("folder")                      # a model with its tokenizer, ours or of a known family
    tasks.fill(model, "The [MASK] sat.")

embed, classify, tag, answer, translate, summarize, transcribe and chat alike.
"""

from attnlib.pretrained.sentence import SentenceSpec
from attnlib.tasks.answering import Answer, Answers, answer
from attnlib.tasks.chatting import chat
from attnlib.tasks.embedding import Embeddings, embed
from attnlib.tasks.filling import Filling, complete, fill
from attnlib.tasks.labelling import Label, classify
from attnlib.tasks.ready import Ready, load
from attnlib.tasks.tagging import Tagged, tag
from attnlib.tasks.texts import summarize, translate
from attnlib.tasks.transcribing import Segment, Transcript, transcribe

__all__ = [
    "Answer",
    "Answers",
    "Embeddings",
    "Filling",
    "Label",
    "Ready",
    "Segment",
    "SentenceSpec",
    "Tagged",
    "Transcript",
    "answer",
    "chat",
    "classify",
    "complete",
    "embed",
    "fill",
    "load",
    "summarize",
    "tag",
    "transcribe",
    "translate",
]
