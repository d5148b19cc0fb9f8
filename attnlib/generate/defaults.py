"""What a model's generation config asks for, in our words: its choices, and what is refused by name.

A model that was loaded from a folder carries the tree of its generation_config.json as `model.generation`, plain data. It
is read as transformers reads it, and where it is not asked for something else it decides. Nothing in it is passed over in
silence: a word is a rule, a choice, known to change no token, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attnlib.errors import SpecError, nearest
from attnlib.generate.options import BOUNDS, Sampling
from attnlib.generate.prompts import is_kind
from attnlib.generate.rules import Rule
from attnlib.spec import SpecErrors

PLACE = "generation_config.json"
TOP_K = 50  # what transformers draws among where a config that samples does not say

_SAME = {"max_new_tokens": "max_new_tokens", "max_length": "max_length", "num_beams": "num_beams",
         "num_return_sequences": "n", "length_penalty": "length_penalty", "early_stopping": "early_stopping",
         "stop_strings": "stop"}  # fmt: skip
_FACTS = {"eos_token_id": "eos", "decoder_start_token_id": "start", "bos_token_id": "start",
          "forced_decoder_ids": "decoder_prompt"}  # fmt: skip
_SAMPLES = ("do_sample", "temperature")
_CHANGES_NO_TOKEN = frozenset((  # how transformers computes and what it returns; helpers that only make it faster
    "transformers_version", "_from_model_config", "_commit_hash", "pad_token_id", "use_cache", "cache_implementation",
    "cache_config", "max_cache_len", "compile_config", "disable_compile", "prefill_chunk_size", "return_dict_in_generate",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "continuous_batching_config",
))  # fmt: skip
_OF_SPEECH = frozenset((  # what a transcription asks for by itself
    "is_multilingual", "lang_to_id", "task_to_id", "alignment_heads", "no_timestamps_token_id", "prev_sot_token_id",
    "max_initial_timestamp_index", "median_filter_width",
))  # fmt: skip
_NOT_DONE: dict[str, tuple[Any, ...]] = {  # a word and the values by which it asks for nothing; null always does
    "guidance_scale": (1,), "penalty_alpha": (0,), "num_beam_groups": (1,), "diversity_penalty": (0,), "dola_layers": (),
    "constraints": (), "force_words_ids": (), "watermarking_config": (), "token_healing": (False,), "max_time": (),
    "remove_invalid_values": (False,), "low_memory": (False,), "use_mtp": (False,), "assistant_early_exit": (),
    "speculation_type": (), "assistant_ensemble_weight": (), "return_timestamps": (False,), "language": (), "task": (),
}  # fmt: skip


def choose(
    model: Any, sampling: Sampling | None, options: Mapping[str, Any], *, words: Mapping[str, Any] | None = None
) -> Sampling:
    """The choices of a call: `options` over `sampling`, or over those of the model's generation config.

    `words`: of a generation config, laid on those of the model's.
    The ids that end and begin a text are the model's either way, where the call says none. SpecErrors where the model's
    config asks for what is not done here, unless a `sampling` stands in for it.
    """
    tree = {**(getattr(model, "generation", None) or {}), **(words or {})}
    facts = _facts(tree, paired=is_kind(model, "encoder_decoder"))
    if sampling is not None:
        chosen = Sampling.of(sampling, **options)
        return chosen.replace(**{name: value for name, value in facts.items() if getattr(chosen, name) is None})
    told, draws = _told(tree)
    known = {**told, **facts, **(draws if options.get("temperature", told.get("temperature", 0)) else {})}
    if any(options.get(name) is not None for name in BOUNDS):
        known = {name: value for name, value in known.items() if name not in BOUNDS}
    try:
        return Sampling.of(None, **{**known, **{name: options[name] for name in options}})
    except SpecErrors as error:
        raise SpecErrors([_of_config(fault, known.keys() - options.keys()) for fault in error.errors]) from None


def _of_config(fault: SpecError, told: set[str]) -> SpecError:
    """The fault under the config's name, where it is the config's."""
    ours = fault.path.removeprefix("Sampling.")
    head = re.split(r"[.\[]", ours)[0]
    if head not in told:
        return fault
    theirs = next((word for word, name in {**_SAME, **_FACTS}.items() if name == head), head)
    return SpecError(f"{PLACE}: {theirs}{ours[len(head) :]}", fault.fact, fault.wish, fault.hint)


def _facts(tree: Mapping[str, Any], *, paired: bool) -> dict[str, Any]:
    """What is so rather than chosen: how texts end and begin."""
    eos, start = tree.get("eos_token_id"), tree.get("decoder_start_token_id") if paired else None
    found = {
        "eos": None if eos is None else (eos,) if isinstance(eos, int) else eos,
        "start": tree.get("bos_token_id") if start is None else start,
        "decoder_prompt": _prompt(tree.get("forced_decoder_ids")) if paired else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _prompt(forced: Any) -> tuple[int, ...] | None:
    """forced_decoder_ids [[1, id], [2, id], ...]: what the decoder is given after its start id."""
    if not forced:
        return None
    try:
        places, ids = zip(*forced, strict=True)
    except (TypeError, ValueError):
        places, ids = (), ()
    if places != tuple(range(1, len(places) + 1)) or not all(isinstance(token, int) for token in ids) or not ids:
        raise SpecError(f"{PLACE}: forced_decoder_ids", f"is {str(forced)[:60]}", "wish [[1, id], [2, id], ...]",
                        "a language that is to be found out: give decoder_prompts")  # fmt: skip
    return ids


def _told(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The choices of a config, and those of them that only matter where tokens are drawn."""
    kinds, told, draws = Rule.kinds(), dict[str, Any](), dict[str, Any]()
    for name, value in tree.items():
        if value is None or name in _CHANGES_NO_TOKEN or name in _OF_SPEECH or name in _FACTS or name in _SAMPLES:
            continue
        if name in kinds:
            if not any(_equal(value, none) for none in kinds[name].none):
                (draws if kinds[name].draws else told)[name] = value
        elif name in _SAME:
            told[_SAME[name]] = value
        elif not any(_equal(value, none) for none in _NOT_DONE.get(name, (None,))):
            _refuse(name, value)
    for first, second in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
        if first in told:
            told.pop(second, None)
    if tree.get("do_sample") not in (None, False, True):
        raise SpecError(f"{PLACE}: do_sample", f"is {str(tree['do_sample'])[:60]!r}", "wish true or false")
    if tree.get("do_sample"):
        told["temperature"] = 1.0 if tree.get("temperature") is None else tree["temperature"]
        if told["temperature"] == 0:
            raise SpecError(f"{PLACE}: temperature", "is 0.0 with do_sample", "wish more than 0")
        if tree.get("top_k") is None:
            draws["top_k"] = TOP_K
    return told, draws


def _equal(value: Any, none: Any) -> bool:
    return bool(value == none) or (isinstance(value, list) and none == () and not value)


def _refuse(name: str, value: Any) -> None:
    known = [*Rule.kinds(), *_SAME, *_FACTS, *_SAMPLES, *_NOT_DONE]
    fact = f"is {str(value)[:60]}, which is not done here" if name in _NOT_DONE else "is no word that is known here"
    raise SpecError(f"{PLACE}: {name}", fact, "wish choices that hold", nearest(name, [n for n in known if n != name])
                    or "sampling=Sampling(...) stands in for the config that came with the model")  # fmt: skip
